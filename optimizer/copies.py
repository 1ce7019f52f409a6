"""Copies of models."""

from __future__ import annotations

import copy

from torch import nn

from mpo.errors import UsageError


def clone(model: nn.Module) -> nn.Module:
    """A deep copy.

    Raises:
        UsageError: the model holds something that cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        raise UsageError(
            f"The model cannot be copied: {error}",
            hint="Let model() return a network whose parameters are leaves and that holds no "
            "open files, locks or generators.",
        ) from error
