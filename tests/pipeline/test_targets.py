"""Runs on a device over ssh, and on two targets at once: a real server on the loopback."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

import mpo
from mpo.cli import cli
from mpo.records import CostTable, Report

if TYPE_CHECKING:
    from tests.profiles.sshd import Server

SUBJECT = Path(__file__).parents[1] / "subjects" / "tiny.py"
QUICK = (
    "--threads",
    "1",
    "--effort",
    "quick",
    "--epochs",
    "1",
    "--candidates",
    "1",
    "--max-drop",
    "100%",
)


def optimize(folder: Path, *options: str, subject: Path = SUBJECT) -> Result:
    arguments = ["optimize", str(subject), *QUICK, *options, "-o", str(folder)]
    return CliRunner().invoke(cli, arguments)


@pytest.mark.slow
def test_two_targets_hold_each_budget_with_their_own_figures_and_the_plan_is_the_local_one(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPO_SSH_CONFIG", str(server.config))
    monkeypatch.setenv("MPO_REMOTE_PYTHON", sys.executable)
    few = tmp_path / "few.py"  # each block is timed on each target
    text = SUBJECT.read_text().replace("BLOCKS, CLASSES = 24, 6, 3", "BLOCKS, CLASSES = 24, 2, 3")
    assert text != SUBJECT.read_text()
    few.write_text(text)
    options = ("-b", "size=75%", "-b", "latency=1s", "--target", "local", "--target", server.name)
    both = optimize(tmp_path / "two", *options, subject=few)
    assert both.exit_code == 0, both.output
    told: dict[str, Any] = {"threads": 1, "effort": "quick", "max_drop": "100%"}
    alone = mpo.plan(str(few), "size=75%", output=tmp_path / "one", **told)

    report = Report.model_validate_json((tmp_path / "two" / "report.json").read_text())
    assert report.target == "local"
    assert [other.original.target for other in report.others] == [server.name]
    assert report.others[0].optimized.latency_ms.n > 0
    assert [(b.metric, b.target) for b in report.budgets] == [
        ("size_bytes", "local"),
        ("latency_p90_ms", "local"),
        ("latency_p90_ms", server.name),
    ]
    assert report.others[0].optimized.peak_memory_bytes > 0
    assert report.removed == alone.removed
    tables = [
        CostTable.model_validate_json((tmp_path / f"two/stages/costs/costs-{n}.json").read_text())
        for n in (0, 1)
    ]
    assert [table.target for table in tables] == ["local", server.name]
    assert tables[0].fingerprint == tables[1].fingerprint  # one machine
    assert not list(server.temporary.iterdir())


def test_a_target_that_cannot_be_reached_ends_the_run_before_any_work(tmp_path: Path) -> None:
    result = optimize(tmp_path / "run", "-b", "size=75%", "--target", "ssh://127.0.0.1:1")
    assert result.exit_code in (1, 2)
    assert "cannot be reached" in result.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["ssh://-oProxyCommand=x", "ssh://user:pw@host", "cuda", "local:"])
def test_a_name_that_is_no_target_is_a_usage_error(name: str, tmp_path: Path) -> None:
    result = optimize(tmp_path / "run", "-b", "size=75%", "--target", name)
    assert result.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_a_saved_profile_cannot_measure(tmp_path: Path) -> None:
    (tmp_path / "device.json").write_text("{}")
    target = f"profile:{tmp_path / 'device.json'}"
    result = optimize(tmp_path / "run", "-b", "size=75%", "--target", target)
    assert result.exit_code == 2
    assert not (tmp_path / "run").exists()
