"""Faults of the passes over the calibration data, by their numbers in the acceptance suite."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mpo.optimizer.analysis import harm
from mpo.optimizer.analysis.cka import Similarity, measure_similarity
from mpo.optimizer.data.batches import Batch
from mpo.optimizer.files import snapshots
from mpo.optimizer.files.snapshots import TENSORS
from mpo.pipeline.run.snapshots import FolderKeeper
from mpo.records import Harm
from mpo.store import open_run

NAMES, COUNT, KILLED = ("0", "1", "2"), 8, 5


class Counting(nn.Sequential):
    """Three layers; the pass that is `killed` never comes back."""

    def __init__(self, killed: int = 0) -> None:
        torch.manual_seed(0)
        super().__init__(*(nn.Linear(6, 6) for _ in NAMES))
        self.calls, self.killed = 0, killed

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.killed:
            raise KeyboardInterrupt
        y: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return y


def batches(size: int) -> list[Batch]:
    make = torch.Generator().manual_seed(1)
    return [Batch((torch.randn(size, 6, generator=make),), {}) for _ in range(COUNT)]


def measured(folder: Path, model: nn.Module, size: int, key: str = "") -> Similarity:
    """Measure as the stage of a run."""
    found = list[Similarity]()
    with open_run(folder, "") as run:

        def make(_: Path) -> None:
            keeper = FolderKeeper(run, list(NAMES), "similarity")
            found.append(measure_similarity(model, NAMES, batches(size), keeper=keeper))

        run.stage("analysis", key, make)
    return found[0]


@pytest.fixture(autouse=True)
def _every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "KEEP_SECONDS", 0.0)


def same(one: Similarity, other: Similarity) -> None:
    np.testing.assert_array_equal(one.matrix, other.matrix)
    assert (one.null_95, one.samples) == (other.null_95, other.samples)
    assert one.branch_ratio == other.branch_ratio


@pytest.mark.case(2)
@pytest.mark.parametrize("size", [32, 3])  # threes wait until there are enough of them
def test_a_kill_in_similarity_repeats_no_batch_that_was_kept(tmp_path: Path, size: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path / "run", Counting(KILLED), size)
    again = Counting()
    found = measured(tmp_path / "run", again, size)
    same(found, measure_similarity(Counting(), NAMES, batches(size)))
    assert again.calls == (COUNT - KILLED + 1 if size == 32 else COUNT)
    assert found.remarks == ()


@pytest.mark.case(2)
def test_a_damaged_snapshot_of_similarity_is_told_and_the_one_before_serves(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path / "run", Counting(KILLED), 32)
    newest = sorted((tmp_path / "run" / "stages").rglob(f"similarity-*/{TENSORS}"))[-1]
    newest.write_bytes(b"torn")
    again = Counting()
    found = measured(tmp_path / "run", again, 32)
    assert again.calls == COUNT - KILLED + 2
    assert "went on from the one before, of step 3" in found.remarks[0]
    same(found, measure_similarity(Counting(), NAMES, batches(32)))


def harmed(folder: Path, model: nn.Module) -> tuple[tuple[Harm, ...], tuple[str, ...]]:
    """Each block's harm as the stage of a run, and the remarks."""
    found = list[tuple[tuple[Harm, ...], tuple[str, ...]]]()
    with open_run(folder, "") as run:

        def make(_: Path) -> None:
            keeper = FolderKeeper(run, list(NAMES), "harm")
            meter = harm.HarmMeter(model, batches(32)[:1], "values")
            rows = harm.measure_harm(model, NAMES, (), {}, meter=meter, keeper=keeper)
            found.append((rows, meter.remarks))

        run.stage("analysis", {}, make)
    return found[0]


@pytest.mark.case(2)
def test_a_kill_in_harm_repeats_no_block_that_was_kept(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        harmed(tmp_path / "run", Counting(killed=3))  # the first pass is the original's
    again = Counting()
    found, remarks = harmed(tmp_path / "run", again)
    assert again.calls == 1 + len(NAMES) - 1
    assert found == harm.measure_harm(Counting(), NAMES, batches(32)[:1], {}, kind="values")
    assert remarks == ()


@pytest.mark.case(2)
def test_a_damaged_snapshot_of_harm_is_told_and_the_one_before_serves(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        harmed(tmp_path / "run", Counting(killed=4))
    newest = sorted((tmp_path / "run" / "stages").rglob(f"harm-*/{TENSORS}"))[-1]
    newest.write_bytes(b"torn")
    again = Counting()
    _, remarks = harmed(tmp_path / "run", again)
    assert again.calls == 1 + len(NAMES) - 1
    assert "went on from the one before, of step 1" in remarks[0]


@pytest.mark.case(2)
def test_snapshots_of_a_stage_that_has_changed_are_no_damage(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path / "run", Counting(KILLED), 32)
    again = Counting()
    found = measured(tmp_path / "run", again, 32, key="another model")
    assert again.calls == COUNT
    assert found.remarks == ()
