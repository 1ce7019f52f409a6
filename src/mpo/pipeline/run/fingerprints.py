"""Digests of what a run depends on: a model, a split, the user's functions, mpo's own code."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mpo.optimizer.data.batches import Batch, leaves
from mpo.optimizer.data.splits import Split

# Folders whose code a stage's result can depend on; the rest calls, shows and stores.
MAKERS = ("exporters", "optimizer", "pipeline", "profiles", "records")
LEADING = 2  # batches of a split that are read


@functools.cache
def fingerprint_package() -> str:
    """sha256 over the code that makes stages: another version of mpo in which none of it changed
    keeps what is finished, and a change of it does not, whatever the version says."""
    return digest_of(Path(__file__).parents[2])


def digest_of(home: Path) -> str:
    """sha256 over the names and the code of the modules that make stages, of the package there."""
    digest = hashlib.sha256()
    for folder in MAKERS:
        for path in sorted((home / folder).rglob("*.py")):
            name = path.relative_to(home).as_posix()
            digest.update(f"{name}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def fingerprint_model(model: nn.Module) -> str:
    """sha256 over structure, names, shapes and bytes of all parameters and buffers."""
    digest = hashlib.sha256(repr(model).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, Tensor):
            digest.update(name.encode())
            _add(digest, tensor)
    return digest.hexdigest()


def fingerprint_split(split: Split) -> str:
    """sha256 over the length of a split and the tensors of its leading batches."""
    return fingerprint_batches(islice(split, LEADING), len(split))


def fingerprint_batches(batches: Iterable[Batch], of: int = 0) -> str:
    """sha256 over the tensors of batches, and of how many they are."""
    digest = hashlib.sha256(str(of).encode())
    for batch in batches:
        for tensor in leaves((batch.args, batch.kwargs, batch.targets)):
            _add(digest, tensor)
    return digest.hexdigest()


def fingerprint_code(*functions: Callable[..., Any] | None) -> list[str]:
    """The source text of functions, or their names where Python knows no source."""
    found = []
    for function in functions:
        try:
            found.append("" if function is None else inspect.getsource(function))
        except (OSError, TypeError):
            found.append(repr(type(function)))
    return found


def _add(digest: Any, tensor: Tensor) -> None:
    digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest.update(flat.view(torch.uint8).numpy().data)
