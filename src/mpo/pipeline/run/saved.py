"""Records of a stage as files, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from mpo.optimizer.data.batches import Batch, map_tensors
from mpo.records import Record

R = TypeVar("R", bound=Record)


def as_text(record: Record) -> str:
    """A record as indented JSON."""
    return json.dumps(record.model_dump(mode="json"), indent=1) + "\n"


def save(record: Record, path: Path) -> None:
    """Write a record as indented JSON."""
    path.write_text(as_text(record), encoding="utf-8")


def read(kind: type[R], path: Path) -> R:
    """Read a record that `save` wrote."""
    return kind.model_validate_json(path.read_text(encoding="utf-8"))


def arrays(batch: Batch) -> tuple[tuple[np.ndarray, ...], dict[str, np.ndarray]]:
    """A batch's tensors as numpy arrays, in the same places."""

    def plain(tensor: Tensor) -> np.ndarray:
        return (
            tensor.detach()
            .cpu()
            .to(torch.float32 if tensor.dtype == torch.bfloat16 else tensor.dtype)
            .numpy()
        )

    return map_tensors(batch.args, plain), map_tensors(batch.kwargs, plain)
