"""One real run of the tiny subject, and what a user holds afterwards."""

import json
from importlib.resources import files
from pathlib import Path

import jsonschema
import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner, Result

import mpo
from mpo.cli import cli
from mpo.cli.optimize import exit_code
from mpo.optimizer.files.loading import load_subject
from mpo.pipeline.run.acceptance import warning
from mpo.records import Report
from mpo.render.acceptance import acceptance_line

SUBJECT = Path(__file__).parents[1] / "subjects" / "tiny.py"
SCHEMA = "mpo.schemas"


def optimize(*options: str) -> Result:
    return CliRunner().invoke(cli, ["optimize", str(SUBJECT), *options])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    result = optimize(
        "-b",
        "params=70%",
        "--epochs",
        "4",
        "--threads",
        "1",
        "--effort",
        "quick",
        "-o",
        str(folder),
    )
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def report(run: Path) -> Report:
    return Report.model_validate_json((run / "report.json").read_text())


def test_the_budget_holds_on_the_measured_figures(report: Report) -> None:
    assert report.status == "met"
    assert report.met
    assert report.optimized.params <= 0.7 * report.original.params
    assert report.budgets[0].measured == report.optimized.params
    assert len(report.removed) >= 2


def test_the_quality_is_kept_within_the_floor(report: Report) -> None:
    lost = report.original.quality.value - report.optimized.quality.value
    assert lost <= 0.02
    assert report.original.quality.value > 0.85


def test_the_run_folder_holds_everything(run: Path) -> None:
    wanted = {
        "recipe.toml", "device.json", "similarity.npz", "plan.json", "model.safetensors",
        "original.onnx", "model.onnx", "bench.json", "report.json", "report.md", "report.html",
        "journal.jsonl", "stages",
    }  # fmt: skip
    assert wanted <= {path.name for path in run.iterdir()}
    assert not [path for path in run.rglob("*") if ".tmp" in path.name]


def test_the_report_follows_its_shipped_schema(run: Path) -> None:
    schema = json.loads(files(SCHEMA).joinpath("report.json").read_text())
    jsonschema.validate(json.loads((run / "report.json").read_text()), schema)


def test_the_exported_model_scores_what_the_report_says(run: Path, report: Report) -> None:
    session = onnxruntime.InferenceSession(run / "model.onnx")
    name = session.get_inputs()[0].name
    splits = load_subject(str(SUBJECT)).splits()
    right = total = 0
    for batch in splits.test:
        (logits,) = session.run(None, {name: batch.args[0].numpy()})
        right += int((np.asarray(logits).argmax(1) == batch.targets.numpy()).sum())  # type: ignore[union-attr]
        total += batch.size
    assert right / total == pytest.approx(report.optimized.quality.value, abs=1e-6)


def test_load_rebuilds_the_pruned_torch_model(run: Path, report: Report) -> None:
    model = mpo.load(run)
    assert sum(p.numel() for p in model.parameters()) == report.optimized.params
    session = onnxruntime.InferenceSession(run / "model.onnx")
    x = torch.randn(5, 8)
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        assert np.allclose(model(x).numpy(), found, atol=1e-5)


def test_the_same_command_again_redoes_nothing(run: Path) -> None:
    before = (run / "report.json").read_text()
    lines = len((run / "journal.jsonl").read_text().splitlines())
    result = optimize(
        "-b", "params=70%", "--epochs", "4", "--threads", "1", "--effort", "quick", "-o", str(run)
    )
    assert result.exit_code == 0, result.output
    events = [json.loads(x) for x in (run / "journal.jsonl").read_text().splitlines()[lines:]]
    assert {event["event"] for event in events} == {"stage kept"}
    old, new = json.loads(before), json.loads((run / "report.json").read_text())
    old.pop("seconds"), new.pop("seconds")
    assert old == new


def test_a_drop_that_is_not_proved_is_a_warning_and_under_strict_an_exit_code(
    run: Path, report: Report
) -> None:
    found = report.acceptance
    assert found is not None
    assert found.verdict != "rejected"
    assert f"Guard, {found.verdict}" in (run / "report.md").read_text()
    assert "The quality guard" in (run / "report.html").read_text()
    known = {"verdict": "unproven", "drop": 0.002, "bound": 0.0144, "needed": 880}
    unproven = found.model_copy(update=known)
    (told,) = warning(unproven)
    assert "0.20 %" in told
    assert "up to 1.44 %" in told
    assert "about 880" in told.lower()
    open_question = report.model_copy(update={"acceptance": unproven})
    assert exit_code(open_question, strict=True) == 5
    assert exit_code(open_question, strict=False) == 0
    assert exit_code(report.model_copy(update={"acceptance": None}), strict=True) == 0
    line = acceptance_line(open_question, unproven)
    assert "drop 0.20 points, at most 1.44 (97.5 % confidence, paired score bound)" in line


def test_another_run_of_the_same_seed_gives_the_same_plan_and_onnx(
    run: Path, report: Report, tmp_path: Path
) -> None:
    folder = tmp_path / "again"
    result = optimize(
        "-b",
        "params=70%",
        "--epochs",
        "4",
        "--threads",
        "1",
        "--effort",
        "quick",
        "-o",
        str(folder),
    )
    assert result.exit_code == 0, result.output
    again = Report.model_validate_json((folder / "report.json").read_text())
    assert again.plan == report.plan
    assert again.artifacts[0].sha256 == report.artifacts[0].sha256


def test_another_recipe_does_not_overwrite_the_run(run: Path) -> None:
    result = optimize("-b", "params=60%", "-o", str(run))
    assert result.exit_code == 2
    assert "--overwrite" in result.output


def test_the_stored_report_can_be_shown_again(run: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["report", str(run), "--html", str(tmp_path / "page.html")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "page.html").read_text() == (run / "report.html").read_text()
    as_json = CliRunner().invoke(cli, ["report", str(run), "--json"])
    assert json.loads(as_json.output)["schema"] == "mpo.report/1"
