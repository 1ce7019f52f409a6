"""Copies of models."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from mpo.errors import UsageError


def clone(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A deep copy.

    Args:
        memo: copies that stand in for parts of the model, as copy.deepcopy takes them.

    Raises:
        UsageError: the model holds something that cannot be copied.
    """
    try:
        return copy.deepcopy(model, memo)
    except (RuntimeError, TypeError) as error:
        raise UsageError(
            f"The model cannot be copied: {error}",
            hint="Let model() return a network whose parameters are leaves and that holds no "
            "open files, locks or generators.",
        ) from error
