"""What removing each block is worth, per budgeted metric, from two measured anchors.

Parameters and MACs are counted. For size, memory and latency the original and the model with every
removable block gone are exported and measured; the difference is shared among the blocks by their
parameters (size, memory) or MACs (latency). The table is exact at both ends; what lies between is a
prediction, and every plan is built and measured before it is fine-tuned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mpo.optimizer.planner import Item, Limit
from mpo.records import Analysis, Block, Metric

SHARED_BY_MACS = frozenset({"latency_p50_ms", "latency_p90_ms"})


def savings(
    blocks: Sequence[Block], full: Mapping[Metric, float], floor: Mapping[Metric, float]
) -> dict[str, dict[str, float]]:
    """Per removable block and metric, what its removal takes off the cost.

    Args:
        blocks: all blocks; those that cannot go are left out.
        full: the original's figures.
        floor: figures with every removable block gone; only measured metrics count.
    """
    free = [block for block in blocks if block.removable]
    table: dict[str, dict[str, float]] = {
        block.name: {"params": float(block.params), "macs": float(block.macs)} for block in free
    }
    for metric in floor:
        if metric in ("params", "macs"):
            continue
        span = max(0.0, full[metric] - floor[metric])
        weights = [float(b.macs if metric in SHARED_BY_MACS else b.params) for b in free]
        total = sum(weights)
        for block, weight in zip(free, weights, strict=True):
            table[block.name][metric] = span * (weight / total if total else 1 / len(free))
    return table


def items(analysis: Analysis, table: Mapping[str, Mapping[str, float]]) -> list[Item]:
    """The removable blocks as the planner takes them."""
    return [Item(harm.name, harm.kl, table[harm.name]) for harm in analysis.harms]


def limits_of(full: Mapping[Metric, float], bounds: Mapping[Metric, float]) -> list[Limit]:
    """The budgets as the planner takes them."""
    return [Limit(metric, full[metric], bound) for metric, bound in bounds.items()]
