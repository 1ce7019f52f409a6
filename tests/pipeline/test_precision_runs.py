"""Runs in another precision: what is shipped is what was measured and judged."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner, Result
from onnx import TensorProto
from torch import Tensor, nn

import mpo
from mpo.cli import cli
from mpo.errors import InfeasibleError, UsageError
from mpo.records import CostTable, Report

TINY = Path(__file__).parents[1] / "subjects" / "tiny.py"
QUICK: dict[str, Any] = {"threads": 1, "effort": "quick", "epochs": 1, "calibration": 128}


class Mixer(nn.Module):
    """Words through residual blocks, each a convolution over the sentence, then an LSTM."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Conv1d(48, 48, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return x + torch.relu(self.mix(x.transpose(1, 2))).transpose(1, 2)

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(40, 48)
        self.blocks = nn.Sequential(*(Mixer.Block() for _ in range(3)))
        self.memory = nn.LSTM(48, 24, batch_first=True)
        self.head = nn.Linear(24, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.memory(self.blocks(self.words(ids)))[0][:, -1])


def mixer() -> nn.Module:
    torch.manual_seed(0)
    return Mixer().eval()


def sentences(seed: int, count: int) -> list[tuple[Tensor, Tensor]]:
    """Labels are what the untrained network itself says: it starts at 100 %."""
    network, make = mixer(), torch.Generator().manual_seed(seed)
    batches = [torch.randint(0, 40, (32, 6), generator=make) for _ in range(count)]
    with torch.no_grad():
        return [(ids, network(ids).argmax(-1)) for ids in batches]


def subject() -> mpo.Subject:
    data = mpo.Data(train=sentences(1, 4), validation=sentences(2, 4), test=sentences(3, 4))
    return mpo.Subject(model=mixer, data=data, name="mixer")


@pytest.fixture(scope="module")
def auto(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """fp16 alone holds 60 % of the size, and any removal would harm more."""
    folder = tmp_path_factory.mktemp("runs") / "auto"
    options: dict[str, Any] = {**QUICK, "precision": "auto", "max_drop": "3%"}
    return folder, mpo.optimize(subject(), "size=60%", output=folder, **options)


@pytest.mark.slow
def test_auto_takes_a_precision_before_a_removal_that_harms_more(
    auto: tuple[Path, Report],
) -> None:
    folder, report = auto
    assert (report.status, report.removed) == ("met", ())
    assert report.plan.precision == "fp16"
    chosen = report.plan.choices[0]
    assert chosen.precision == "fp16"
    least = min(harm.kl for harm in report.analysis.harms)
    assert 0 < chosen.harm < least
    told = {row.precision: row.note for row in report.plan.choices}
    assert "without any removal" in told["fp16"]
    assert "harms more than fp16 alone" in told["fp32"]
    assert not [path for path in (folder / "stages").iterdir() if path.name.startswith("costs")]
    assert report.recovery is not None
    assert report.recovery.epochs == 0


def test_the_report_names_the_precision_of_each_file_and_follows_its_schema(
    auto: tuple[Path, Report],
) -> None:
    folder, report = auto
    precisions = {file.path: file.precision for file in report.artifacts}
    assert precisions["model.onnx"] == "fp16"
    assert precisions["original.onnx"] == "fp32"
    assert report.conversion is not None
    assert report.conversion.sha256 == next(
        file.sha256 for file in report.artifacts if file.path == "model.onnx"
    )
    kinds = {w.data_type for w in onnx.load(folder / "model.onnx").graph.initializer}
    assert TensorProto.FLOAT16 in kinds
    schema = json.loads(files("mpo.schemas").joinpath("report.json").read_text())
    jsonschema.validate(json.loads((folder / "report.json").read_text()), schema)
    assert "fp16" in (folder / "report.md").read_text()


def test_quality_is_that_of_the_file_itself(auto: tuple[Path, Report]) -> None:
    folder, report = auto
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    name = session.get_inputs()[0].name
    right = [
        session.run(None, {name: ids.numpy()})[0].argmax(-1) == labels.numpy()
        for ids, labels in sentences(3, 4)
    ]
    share = sum(rows.sum() for rows in right) / sum(len(rows) for rows in right)
    assert report.optimized.quality.value == pytest.approx(share)


def test_the_same_command_again_makes_nothing_and_another_precision_is_refused(
    auto: tuple[Path, Report],
) -> None:
    folder, report = auto
    options = {**QUICK, "max_drop": "3%"}
    made = (folder / "journal.jsonl").read_text().count("stage made")
    again = mpo.optimize(subject(), "size=60%", output=folder, precision="auto", **options)
    assert again == report.model_copy(update={"seconds": again.seconds})
    assert (folder / "journal.jsonl").read_text().count("stage made") == made
    with pytest.raises(UsageError, match="holds something else"):
        mpo.optimize(subject(), "size=60%", output=folder, precision="int8", **options)


def test_a_contract_judges_the_file_that_is_shipped(auto: tuple[Path, Report]) -> None:
    folder, report = auto
    record = mpo.contract(subject(), folder, eps="20%")
    (shipped,) = [one for one in report.artifacts if one.path == "model.onnx"]
    assert (record.candidate.kind, record.candidate.digest) == ("onnx", shipped.sha256)


def test_an_original_that_holds_every_budget_is_left_alone_by_auto(tmp_path: Path) -> None:
    report = mpo.optimize(
        subject(), "size=100%", output=tmp_path / "run", precision="auto", **QUICK
    )
    assert (report.status, report.plan.precision) == ("already-met", "fp32")
    assert report.conversion is None


def plan(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["plan", *arguments])


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the first stages of an int8 run, whose original in int8 is still too large."""
    folder = tmp_path_factory.mktemp("runs") / "int8"
    words = ["--threads", "1", "--effort", "quick", "--precision", "int8", "-o", str(folder)]
    result = plan(str(TINY), "-b", "size=60%", *words)
    assert result.exit_code == 0, result.output
    assert "In int8." in result.output
    return folder


def test_cost_tables_are_of_files_in_the_precision(int8: Path) -> None:
    """A block of the fp32 model weighs 4 bytes a parameter."""
    table = CostTable.model_validate_json((int8 / "stages/costs-int8/costs-0.json").read_text())
    based = json.loads((int8 / "stages/precisions/int8.json").read_text())["measured"]
    assert table.anchors[0].figures["size_bytes"] == based["figures"]["size_bytes"]
    assert all(0 < unit.size_bytes < 4 * unit.params for unit in table.units)


def test_a_dry_run_plans_in_the_run_s_precision(int8: Path) -> None:
    found = mpo.plan(int8, "size=55%")
    assert found.precision == "int8"
    assert found.removed
    assert {one.precision for one in found.alternatives} == {"int8"}
    alone = mpo.plan(int8, "size=95%")
    assert (alone.removed, alone.precision) == ((), "int8")
    with pytest.raises(InfeasibleError):
        mpo.plan(int8, "size=5%")


@pytest.mark.slow
def test_a_budget_out_of_reach_says_in_which_precision_it_was_measured_to_hold(
    tmp_path: Path,
) -> None:
    """Embedding, LSTM and head are 30 % of the file and cannot go, but fp16 halves them."""
    with pytest.raises(InfeasibleError) as caught:
        mpo.plan(subject(), "size=25%", output=tmp_path / "run", **QUICK)
    assert "--precision fp16 (size 19" in caught.value.hint
    assert "--precision auto" in caught.value.hint


def test_int8_with_random_inputs_only_is_refused_before_anything_is_measured(
    tmp_path: Path,
) -> None:
    bare = tmp_path / "bare.py"
    bare.write_text(TINY.read_text().split("def split(")[0])
    words = ["optimize", str(bare), "--input", "4x8", "-b", "size=50%", "--precision", "int8"]
    result = CliRunner().invoke(cli, [*words, "-o", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "only random inputs" in result.output
    assert "int8-dynamic" in result.output
    assert not (tmp_path / "run" / "original.onnx").exists()


def test_the_published_method_cannot_choose_a_precision() -> None:
    words = ["optimize", str(TINY), "--method", "mpruner-paper", "--precision", "auto"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 2
    assert "--precision int8" in result.output
