"""Faults of training, by their numbers in the acceptance suite."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import mpo.optimizer.training.recover
from mpo.errors import MpoError
from mpo.optimizer.data.tasks import cross_entropy
from mpo.optimizer.training.objective import Objective
from mpo.optimizer.training.recover import Schedule
from mpo.pipeline.run.snapshots import FolderKeeper
from mpo.store import open_run
from tests.optimizer.training import Kept, loader, network, same, train

ROOT = Path(__file__).parents[2]
CHILD = """
import os, sys
from pathlib import Path
import mpo.optimizer.training.recover
from mpo.pipeline.run.snapshots import FolderKeeper
from mpo.store import open_run
from tests.optimizer.training import loader, network, train
mpo.optimizer.training.recover.KEEP_SECONDS = 0.0
kill_at, where = int(sys.argv[2]), sys.argv[3]
class Dying(FolderKeeper):
    def keep(self, snapshot):
        if snapshot.step == kill_at and where == "mid-write":
            write = self._folder.part
            def part(name, key, make):
                def torn(folder):
                    (folder / "tensors.safetensors").write_bytes(b"half of it")
                    os._exit(9)
                return write(name, key, torn)
            self._folder.part = part
        super().keep(snapshot)
        if snapshot.step == kill_at:
            os._exit(9)
def make(folder):
    train(network(), loader("shuffled"), Dying(run, "one"))
with open_run(Path(sys.argv[1]), "") as run:
    run.stage("recovery", {}, make)
"""


@pytest.fixture(autouse=True)
def _every_update(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mpo.optimizer.training.recover, "KEEP_SECONDS", 0.0)


def killed(folder: Path, update: int, where: str) -> None:
    """Let a child train and end without a word when it keeps the snapshot of an update."""
    paths = f"{ROOT}{os.pathsep}{ROOT / 'src'}"
    command = [sys.executable, "-c", CHILD, str(folder), str(update), where]
    ended = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, check=False)
    assert ended.returncode == 9


def resume(folder: Path) -> tuple[nn.Module, str]:
    """Train on what a kill left; the model and the note of its record."""
    model, notes = network(), []
    with open_run(folder, "") as run:

        def make(_: Path) -> None:
            notes.append(train(model, loader("shuffled"), FolderKeeper(run, "one")).note)

        run.stage("recovery", {}, make)
    return model, notes[0]


def uninterrupted() -> nn.Module:
    model = network()
    train(model, loader("shuffled"))
    return model


@pytest.mark.case(3)
def test_a_kill_in_the_middle_of_writing_a_snapshot_goes_on_from_the_one_before(
    tmp_path: Path,
) -> None:
    killed(tmp_path / "run", 8, "mid-write")
    model, note = resume(tmp_path / "run")
    assert same(model, uninterrupted())
    assert "damaged" not in note


@pytest.mark.case(4)
@pytest.mark.parametrize("file", ["tensors.safetensors", "snapshot.json", "stage.json"])
def test_a_kill_between_a_snapshot_and_its_facts_uses_the_generation_before_with_a_warning(
    tmp_path: Path, file: str
) -> None:
    killed(tmp_path / "run", 8, "after")
    parts = sorted((tmp_path / "run" / "stages" / ".recovery.parts").iterdir())
    assert len(parts) == 2
    (parts[-1] / file).unlink()
    model, note = resume(tmp_path / "run")
    assert "went on from the one before, of step 7" in note
    assert same(model, uninterrupted())


def failing(at: set[int]) -> Objective:
    """Cross-entropy that is NaN in these calls."""
    calls: list[int] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(1)
        value = cross_entropy(outputs, targets)
        return value * float("nan") if len(calls) in at else value

    return Objective(None, loss)


@pytest.mark.case(36)
def test_a_loss_that_is_not_finite_goes_back_once_at_half_the_rate() -> None:
    model = network()
    story = train(model, loader("shuffled"), objective=failing({9}))
    assert story.epochs == 3
    assert "update 9: back to the best weights so far, at half the rate (0.0025)" in story.events[0]
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


@pytest.mark.case(36)
def test_a_second_loss_that_is_not_finite_ends_with_the_best_weights_so_far() -> None:
    model = network()
    story = train(model, loader("shuffled"), objective=failing({9, 11}))
    assert (story.epochs, story.best_epoch) == (1, 1)
    assert "again: training ended" in story.events[1]
    assert all(bool(torch.isfinite(t).all()) for t in model.state_dict().values())


@pytest.mark.case(36)
def test_losses_that_are_never_finite_end_the_run_with_exit_code_1() -> None:
    with pytest.raises(MpoError, match="failed twice") as error:
        train(network(), loader("shuffled"), objective=failing(set(range(99))))
    assert error.value.exit_code == 1


class Steep(torch.autograd.Function):
    """The identity with a gradient that is not finite."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad * float("inf")


@pytest.mark.case(36)
def test_a_gradient_that_is_not_finite_never_reaches_the_weights() -> None:
    steep = Objective(None, lambda outputs, y: cross_entropy(Steep.apply(outputs), y))  # type: ignore[no-untyped-call]
    model = network()
    with pytest.raises(MpoError, match="gradient was not finite"):
        train(model, loader("shuffled"), objective=steep)
    assert all(bool(torch.isfinite(t).all()) for t in model.state_dict().values())


class Narrow(nn.Module):
    """A real network on a device that holds only so many examples."""

    def __init__(self, holds: int, error: type[Exception] = torch.OutOfMemoryError) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.holds, self.error = holds, error
        self.layers = nn.Sequential(
            *(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3)), nn.Linear(4, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.holds and self.training:
            raise self.error("DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        out: Tensor = self.layers(x)
        return out


@pytest.mark.case(26)
@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_without_memory_a_batch_is_trained_in_pieces_with_the_same_result(
    error: type[Exception],
) -> None:
    wide, narrow = Narrow(99), Narrow(4, error)
    train(wide, loader("shuffled"))
    story = train(narrow, loader("shuffled"))
    told = "batches of 16 in 4 pieces of 4, gradients added up"
    assert [event for event in story.events if told in event]
    for a, b in zip(wide.parameters(), narrow.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.case(26)
def test_without_memory_for_one_example_training_ends_with_what_was_tried() -> None:
    model = Narrow(0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(MpoError, match=r"tried: batches of 16 in 2 pieces.*computed twice") as told:
        train(model, loader("shuffled"))
    assert told.value.exit_code == 1
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.case(26)
def test_what_memory_was_spared_survives_a_kill(tmp_path: Path) -> None:
    whole, resumed, again = Narrow(4), Narrow(4), Narrow(4)
    train(whole, loader("shuffled"))
    with pytest.raises(KeyboardInterrupt):
        train(resumed, loader("shuffled"), Kept(tmp_path), kill_at=8)
    story = train(again, loader("shuffled"), Kept(tmp_path), schedule=Schedule(5e-3, 3))
    assert len([event for event in story.events if "pieces" in event]) == 2
    assert same(again, whole)
