"""The random numbers that training draws: torch's, numpy's and Python's generators together."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

SEEDS = 2**32  # numpy takes 32 bits


@dataclass(frozen=True)
class States:
    """Where every generator stands.

    Attributes:
        torch: the CPU generator's state.
        devices: of each CUDA device, when CUDA is in use.
        facts: Python's and numpy's states, JSON-able.
    """

    torch: Tensor
    devices: tuple[Tensor, ...]
    facts: dict[str, Any]


def states() -> States:
    """Where every generator stands now."""
    version, inner, gauss = random.getstate()
    name, keys, place, has_gauss, cached = np.random.get_state(legacy=True)
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    facts = {
        "python": [version, list(inner), gauss],
        "numpy": [name, np.asarray(keys).tolist(), place, has_gauss, cached],
    }
    return States(torch.get_rng_state(), tuple(devices), facts)


def restore(known: States) -> None:
    """Put every generator where it stood."""
    version, inner, gauss = known.facts["python"]
    random.setstate((version, tuple(inner), gauss))
    name, keys, *rest = known.facts["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(known.torch)
    if known.devices:
        torch.cuda.set_rng_state_all(list(known.devices))


def seed_all(seed: int) -> None:
    """Start every generator from one seed."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % SEEDS)


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Every generator at this seed inside, untouched outside."""
    before = states()
    try:
        seed_all(seed)
        yield
    finally:
        restore(before)
