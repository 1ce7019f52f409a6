"""Too little memory, on the host or on a device: how it is told from other failures."""

from __future__ import annotations

import torch

SIGNS = ("can't allocate memory", "not enough memory", "out of memory")


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is the host's or a device's lack of memory."""
    while error is not None:
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            return True
        if isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS):
            return True
        error = error.__cause__
    return False
