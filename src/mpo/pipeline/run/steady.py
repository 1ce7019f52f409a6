"""torch under conditions that give the same numbers each time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from mpo.launching import beside
from mpo.profiles.device import physical_cores


@contextlib.contextmanager
def steady_torch() -> Iterator[None]:
    """torch on the physical cores this process may use, or on its share of them beside others of a
    launcher: the same count gives the same sums.

    The attention fast path is off, because it hands nested tensors from layer to layer, which have
    no shape to compare.
    """
    threads, fast = torch.get_num_threads(), torch.backends.mha.get_fastpath_enabled()
    torch.set_num_threads(max(1, physical_cores() // beside()))
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.mha.set_fastpath_enabled(fast)
