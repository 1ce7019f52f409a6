"""The published algorithm, whole: clusters, stride, retraining, accept or roll back."""

from pathlib import Path

import pytest
from click.testing import CliRunner

import mpo
from mpo.cli import cli
from mpo.records import Report

SUBJECT = Path(__file__).parents[1] / "subjects" / "tiny.py"


def run(folder: Path, *options: str) -> Report:
    given = [
        "optimize",
        str(SUBJECT),
        "--method",
        "mpruner-paper",
        "--threads",
        "1",
        "--effort",
        "quick",
    ]
    result = CliRunner().invoke(cli, [*given, "--epochs", "2", "-o", str(folder), *options])
    assert result.exit_code == 0, result.output
    return Report.model_validate_json((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return run(tmp_path_factory.mktemp("runs") / "paper", "--threshold", "0.9", "--max-drop", "3%")


def test_it_needs_no_budget_and_says_what_it_did(report: Report) -> None:
    assert report.method == "mpruner-paper"
    assert report.budgets == ()
    assert report.removed
    assert any("accepted" in note for note in report.plan.notes)


def test_the_first_block_of_the_first_cluster_stays_and_names_are_in_order(report: Report) -> None:
    assert report.analysis.clusters[0].anchor not in report.removed
    assert list(report.removed) == sorted(report.removed)


def test_quality_stays_within_the_accepted_drop_on_validation(report: Report) -> None:
    assert report.recovery is not None
    assert report.recovery.original - report.recovery.after <= 0.03


def test_nothing_similar_means_nothing_removed(tmp_path: Path) -> None:
    report = run(tmp_path / "none", "--threshold", "1.0")
    assert report.removed == ()
    assert report.optimized.params == report.original.params
    assert mpo.load(tmp_path / "none") is not None
