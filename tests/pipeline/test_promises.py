"""What a run promises beyond its figures: nothing stale, nothing mixed, nothing lost."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import mpo
from mpo.cli import cli
from mpo.errors import MpoError, UsageError
from mpo.exporters.onnx import export_onnx
from mpo.exporters.parity import check_parity
from mpo.optimizer.data.batches import Batch, primary
from mpo.optimizer.data.quality import check_model, detach, evaluate, predictor
from mpo.optimizer.data.splits import Split
from mpo.optimizer.data.subject import Subject
from mpo.optimizer.data.tasks import is_classification
from mpo.pipeline.run.context import Context, subject_of
from mpo.pipeline.run.places import places_of
from mpo.profiles.local import LocalTarget
from mpo.recipe import make_recipe, to_toml
from mpo.store import open_run

FILE = """
import torch, mpo
from torch import nn
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(8, 8)
    def forward(self, x):
        return x + 0.1 * self.line(x).relu()
def model():
    print("hello from the subject")
    torch.manual_seed(0)
    return nn.Sequential(Block(), Block(), Block(), nn.Linear(8, 3))
def data():
    generator = torch.Generator().manual_seed(0)
    rows = [(torch.randn(16, 8, generator=generator), torch.arange(16) % 3) for _ in range(4)]
    return mpo.Data(train=rows, validation=rows, test=rows)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    path = tmp_path / "project" / "subject.py"
    path.write_text(FILE)
    return path


def key_of(path: Path, folder: Path, **options: Any) -> dict[str, Any]:
    recipe = make_recipe(subject=str(path), budget=("params=60%",), **options)
    with open_run(folder, to_toml(recipe)) as run:
        places = places_of(recipe, (LocalTarget(),))
        return Context(recipe, subject_of(recipe), run, lambda *step: None, places).key


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("manual_seed(0)\n    return", "manual_seed(1)\n    return"),
        ("% 3", "% 2"),
        ("def data", "def metric(outputs, targets): return 1.0\ndef data"),
        ("0.1 *", "0.2 *"),
    ],
    ids=["weights", "labels", "metric", "code"],
)
def test_a_changed_subject_is_never_served_from_finished_stages(
    file: Path, tmp_path: Path, old: str, new: str
) -> None:
    before = key_of(file, tmp_path / "one")
    assert before == key_of(file, tmp_path / "two")
    file.write_text(FILE.replace(old, new))
    assert key_of(file, tmp_path / "three") != before


def test_other_threads_or_batch_are_another_run(file: Path, tmp_path: Path) -> None:
    before = key_of(file, tmp_path / "one", threads=1)
    assert key_of(file, tmp_path / "two", threads=2) != before
    assert key_of(file, tmp_path / "three", threads=1, batch=2) != before


def shuffled(count: int = 80) -> DataLoader[tuple[Tensor, ...]]:
    rows = torch.arange(count)
    return DataLoader(TensorDataset(rows.float()[:, None], rows % 3), batch_size=8, shuffle=True)


def order(split: Split) -> list[int]:
    return [int(x) for batch in split for x in batch.args[0].flatten()]


def context_of(data: mpo.Data, tmp_path: Path) -> Iterator[Context]:
    recipe = make_recipe(subject="memory", budget=("params=60%",))
    with open_run(tmp_path / "run", to_toml(recipe)) as run:
        yield Context(recipe, Subject(nn.Linear(1, 3), data), run, lambda *step: None, ())


def test_a_shuffling_loader_gives_every_stage_the_same_order(tmp_path: Path) -> None:
    (context,) = context_of(mpo.Data(shuffled(), shuffled(), shuffled()), tmp_path)
    first = context.splits().train
    once, again = order(first), order(first)
    torch.rand(7)
    assert order(context.splits().train) == once
    assert again != once
    assert sorted(again) == sorted(once)


def test_carved_splits_of_a_shuffling_loader_never_mix(tmp_path: Path) -> None:
    (context,) = context_of(mpo.Data(shuffled()), tmp_path)
    test = set(order(context.splits().test))
    torch.rand(7)
    assert not test & set(order(context.splits().train))
    assert not test & set(order(context.splits().validation))


def test_a_factory_that_hands_out_one_object_is_not_cut_itself() -> None:
    shared = nn.Linear(1, 3)
    subject = Subject(lambda: shared, mpo.Data(shuffled()))
    built = subject.build()
    nn.init.zeros_(built.get_parameter("weight"))
    assert float(shared.weight.detach().abs().sum()) > 0


def test_outputs_of_different_lengths_are_all_compared() -> None:
    class Tokens(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.one_hot(x, 4).float()

    batches = [(torch.zeros(2, 3).long(), None), (torch.ones(2, 5).long(), None)]
    subject = Subject(Tokens(), mpo.Data(batches), outputs="logits")
    constant = torch.tensor([1.0, 0, 0, 0])

    def always_first(batch: Batch) -> Tensor:
        return constant.expand(*batch.args[0].shape, 4)

    found = evaluate(always_first, subject, Split(batches, "test"), predictor(Tokens()))
    assert found.value == pytest.approx(6 / 16)


def test_labels_that_do_not_count_widen_the_interval() -> None:
    logits = torch.eye(4).repeat(25, 1)
    labels = torch.full((100,), -100)
    labels[:4] = torch.arange(4)
    found = evaluate(
        lambda batch: batch.args[0],
        Subject(nn.Identity(), mpo.Data([])),
        Split([(logits, labels)], "test"),
        lambda batch: batch.args[0],
    )
    assert found.value == 1.0
    assert found.ci95[0] < 0.6


def test_one_output_is_no_classification() -> None:
    assert not is_classification(torch.zeros(8, 1), torch.zeros(8).long())
    assert is_classification(torch.zeros(8, 2), torch.zeros(8).long())
    assert not is_classification(torch.zeros(8, 5, 6), None)


def test_a_budget_already_met_keeps_the_original_whole_and_loads_from_anywhere(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    options = [
        "optimize",
        "subject.py",
        "-b",
        "params=1M",
        "--threads",
        "1",
        "--effort",
        "quick",
        "-o",
        "runs/x",
    ]
    result = CliRunner().invoke(cli, [*options, "--json"])
    assert result.exit_code == 0, result.output
    assert "hello from the subject" not in result.stdout
    assert json.loads(result.stdout)["status"] == "already-met"
    run = file.parent / "runs" / "x"
    assert (run / "model.onnx").read_bytes() == (run / "original.onnx").read_bytes()
    monkeypatch.chdir(tmp_path)
    assert mpo.load("project/runs/x")(torch.zeros(1, 8)).shape == (1, 3)
    again = CliRunner().invoke(cli, ["optimize", "-c", str(run / "recipe.toml"), "-o", "other"])
    assert again.exit_code == 2
    assert "no file subject.py" in again.output


def test_a_run_made_in_memory_asks_for_its_subject_when_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [(torch.randn(16, 8), torch.arange(16) % 3)]
    subject = Subject(nn.Sequential(nn.Linear(8, 3)), mpo.Data(rows, rows, rows), name="mine")
    mpo.optimize(subject, "params=1M", output="run", threads=1, effort="quick")
    with pytest.raises(UsageError, match="names no subject") as caught:
        mpo.load("run")
    assert "mpo.load(run, subject)" in caught.value.hint
    assert mpo.load("run", subject)(torch.zeros(1, 8)).shape == (1, 3)


def test_a_budget_under_the_floor_keeps_the_closest_plan(file: Path, tmp_path: Path) -> None:
    options = [
        "optimize",
        str(file),
        "-b",
        "params=2%",
        "--threads",
        "1",
        "--effort",
        "quick",
        "--json",
    ]
    result = CliRunner().invoke(cli, [*options, "-o", str(tmp_path / "run")])
    assert result.exit_code == 3
    assert json.loads(result.stdout)["exit_code"] == 3
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["removed"] == ["0", "1", "2"]
    assert "cannot be met" in plan["notes"][0]
    assert not (tmp_path / "run" / "report.json").exists()


def test_a_double_precision_model_and_its_data_become_single() -> None:
    subject = Subject(nn.Linear(4, 3).double(), mpo.Data([(torch.zeros(8, 4).double(), None)] * 9))
    assert "float64" in subject.remarks()[0]
    batch = next(iter(subject.splits().train))
    assert subject.build()(*batch.args).dtype == torch.float32


@pytest.mark.case(40)
@pytest.mark.case(41)
def test_a_model_that_rolls_dice_in_eval_mode_is_refused() -> None:
    class Dice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(x, 0.5, training=True)

    with pytest.raises(MpoError, match="different outputs for the same input"):
        check_model(Dice(), Batch((torch.ones(8, 4),), {}))


@pytest.mark.case(51)
def test_dataclass_outputs_are_compared_exported_and_kept(tmp_path: Path) -> None:
    @dataclass
    class Out:
        logits: Tensor
        name: str = "x"

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Out:
            return Out(self.line(x))

    model, x = Net().eval(), torch.randn(3, 4)
    export_onnx(model, (x,), {}, tmp_path / "m.onnx")
    parity = check_parity(model, tmp_path / "m.onnx", [((x,), {}), ((x[:1],), {})], primary)
    assert parity.ok
    assert detach(model(x)).name == "x"
    assert not detach(model(x)).logits.requires_grad
