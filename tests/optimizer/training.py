"""A small real training with everything that makes going on in the middle hard: dropout, BatchNorm,
a loader that shuffles, numpy's and Python's random numbers in the data."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from mpo.errors import MpoError
from mpo.optimizer.data.splits import Split
from mpo.optimizer.data.tasks import cross_entropy
from mpo.optimizer.files.snapshots import Keeper, Snapshot, read_snapshot, write_snapshot
from mpo.optimizer.training.objective import Objective
from mpo.optimizer.training.recover import Schedule, recover
from mpo.records import Quality, Recovery

EPOCHS, PER_EPOCH = 3, 6


def network() -> nn.Module:
    """BatchNorm and dropout."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3)
    )


def loader(kind: str) -> object:
    """A training split: a shuffling loader, one with a generator of its own, or random data."""
    x = torch.randn(96, 4, generator=torch.Generator().manual_seed(1))
    held = TensorDataset(x, x[:, :3].argmax(1))
    if kind == "shuffled":
        return DataLoader(held, batch_size=16, shuffle=True)
    if kind == "generator":
        own = torch.Generator().manual_seed(5)
        return DataLoader(held, batch_size=16, shuffle=True, generator=own)

    def augmented() -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.from_numpy(np.random.permutation(96)).split(16):
            noise = random.random() + torch.rand(()).item()
            yield x[rows] * (1 + 0.1 * noise), held.tensors[1][rows]

    return augmented


def judge(model: nn.Module) -> Quality:
    """Accuracy on fixed examples."""
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        right = (model.eval()(x).argmax(1) == x[:, :3].argmax(1)).float().mean()
    return Quality(metric="accuracy", value=float(right), samples=64, ci95=(0.0, 1.0))


@dataclass
class Kept:
    """Snapshots in a folder, every one; those that are not whole are passed over."""

    folder: Path
    warnings: list[str] = field(default_factory=list)

    def newest(self) -> Snapshot | None:
        """The newest whole one."""
        for path in sorted(self.folder.iterdir(), reverse=True):
            try:
                return read_snapshot(path)
            except MpoError as error:
                self.warnings.append(error.message)
        return None

    def keep(self, snapshot: Snapshot) -> None:
        """Keep one more."""
        path = self.folder / f"{len(list(self.folder.iterdir())):03d}"
        path.mkdir()
        write_snapshot(path, snapshot)


def train(
    model: nn.Module,
    data: object,
    keeper: Keeper | None = None,
    *,
    kill_at: int = 0,
    objective: Objective | None = None,
    schedule: Schedule | None = None,
) -> Recovery:
    """Train; at update `kill_at` an exception goes through everything, as a kill would."""

    def progress(what: str, done: int, total: int) -> None:
        if done == kill_at:
            raise KeyboardInterrupt

    return recover(
        model,
        objective or Objective(None, cross_entropy),
        Split(data, "train"),  # type: ignore[arg-type]
        judge,
        Quality(metric="accuracy", value=1.0, samples=64, ci95=(1.0, 1.0)),
        schedule or Schedule(5e-3, EPOCHS),
        progress,
        keeper,
    )


def same(one: nn.Module, other: nn.Module) -> bool:
    """Equal to the last bit."""
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
