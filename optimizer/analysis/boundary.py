"""Weights that count most where the original hardly decides: along its decision boundary.

w = exp(-m / tau) with m the top-two margin and tau the lower quartile of the margins at hand: a
decision on the boundary weighs 1, one at tau 0.37, one far inside next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mpo.optimizer.decisions.decisions import kl_of, margins

QUARTER = 0.25
LEAST_TAU = 1e-6
NEAR = 4.0  # how much more than any other a decision on the boundary counts in distillation


def tau_of(logits: Sequence[Tensor], share: float = QUARTER) -> float:
    """The margin under which this share of the decisions lies, of logits [n, C] batch by batch."""
    held = torch.cat([margins(part).reshape(-1).double() for part in logits])
    return max(float(torch.quantile(held[:100_000], share)), LEAST_TAU)


def weights(logits: Tensor, tau: float) -> Tensor:
    """exp(-m / tau) of each decision [...]."""
    return torch.exp(-margins(logits) / tau)


def boundary_harm(original: Sequence[Tensor], changed: Sequence[Tensor]) -> tuple[float, float]:
    """sum w (KL + [decision differs]) / sum w, and the weighted share of equal decisions.

    Args:
        original: [n, C] logits, batch by batch.
        changed: the same shapes, finite.
    """
    tau = tau_of(original)
    total = equal = mass = 0.0
    for before, after in zip(original, changed, strict=True):
        weight = weights(before, tau).double()
        same = before.argmax(-1) == after.argmax(-1)
        total += float((weight * (kl_of(before, after) + ~same)).sum())
        equal += float((weight * same).sum())
        mass += float(weight.sum())
    return total / mass, equal / mass


def emphasis(teacher: Tensor) -> Tensor:
    """How much each decision counts in distillation [n]: 1 + 4 w, brought to a mean of 1.

    Far decisions keep some weight, because accuracy away from the boundary must be learned too.
    """
    raw = 1 + NEAR * weights(teacher, tau_of([teacher]))
    return raw / raw.mean()
