"""What several benchmarks need: examples as modules, stages of another run, shuffled batches."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from mpo.replacing import MARKER

ROOT = Path(__file__).resolve().parents[1]


def subject_of(name: str) -> ModuleType:
    """An example's subject file as a module."""
    path = ROOT / "examples" / name / "subject.py"
    spec = importlib.util.spec_from_file_location(f"subject_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lend(donor: Path | None, folder: Path, stages: Sequence[str]) -> None:
    """Give a run the measuring stages of another one; it keeps those made from the same things."""
    folder.mkdir()
    if donor is None:
        return
    (folder / MARKER).write_text("{}")
    for stage in stages:
        if (donor / "stages" / stage).is_dir():
            shutil.copytree(donor / "stages" / stage, folder / "stages" / stage)


class Shuffled:
    """Batches in a new order on every pass, by torch's global generator, which mpo seeds."""

    def __init__(self, x: Tensor, y: Tensor, size: int) -> None:
        self.x, self.y, self.size = x, y, size

    def __len__(self) -> int:
        return -(-len(self.x) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.randperm(len(self.x)).split(self.size):
            yield self.x[rows], self.y[rows]
