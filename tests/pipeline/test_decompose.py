"""`mpo decompose`: a smaller model for some classes, under a contract."""

from __future__ import annotations

from pathlib import Path

import torch
from click.testing import CliRunner, Result

import mpo
from mpo.cli import cli
from mpo.optimizer.data.narrow import Narrow
from mpo.optimizer.files.loading import load_model, load_subject
from mpo.records import Report

TINY = Path(__file__).parents[1] / "subjects" / "tiny.py"


def run(folder: Path, *options: str) -> Result:
    always = ("-b", "params=80%", "--epochs", "1", "--threads", "1", "--effort", "quick")
    asked = ["decompose", str(TINY), "-o", str(folder), "--candidates", "1", *always, *options]
    return CliRunner().invoke(cli, asked)


def test_a_sub_model_keeps_its_contract_and_is_rebuilt_from_its_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    terms = ("--contract", "eps=30%,claims=overall+class", "--max-drop", "20%", "--harm", "gates")
    result = run(folder, "--classes", "2,0", *terms)
    assert result.exit_code == 0, result.output
    report = Report.model_validate_json((folder / "report.json").read_text())
    assert report.status == "met"
    assert report.removed
    assert report.contract is not None
    assert report.contract.verdict != "broken"
    assert [claim.stratum for claim in report.contract.claims] == ["overall", *["class"] * 3]
    assert any("Narrowed to the classes 2, 0" in warning for warning in report.warnings)
    small = mpo.load(folder)
    x = torch.randn(512, 8, generator=torch.Generator().manual_seed(7))
    whole = Narrow(load_model(str(TINY))(), (2, 0)).eval()
    assert small(x).shape == (512, 3)
    assert (small(x).argmax(1) == whole(x).argmax(1)).float().mean() > 0.8


def test_bad_classes_are_refused(tmp_path: Path) -> None:
    for number, (classes, told) in enumerate(
        [("two", "names no classes"), ("1,1", "no set of classes"), ("0,9", "others beside them")]
    ):
        result = run(tmp_path / str(number), "--classes", classes)
        assert result.exit_code == 2, result.output
        assert told in result.output
    assert "No classes are given" in run(tmp_path / "none").output


def test_a_subject_in_memory_is_narrowed_and_rebuilt_too(tmp_path: Path) -> None:
    subject, folder = load_subject(str(TINY)), tmp_path / "run"
    report = mpo.decompose(
        subject, [1], "params=100%", output=folder, threads=1, effort="quick", epochs=0
    )
    assert report.status == "already-met"
    assert any("Narrowed to the classes 1" in warning for warning in report.warnings)
    assert mpo.load(folder, subject)(torch.zeros(4, 8)).shape == (4, 2)
