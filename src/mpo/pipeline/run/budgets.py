"""Budgets against figures: which number a budget bounds, on which target, and whether it holds.

Figures go by key: the metric's name, and on every target but the first the target's name and a
space before it, for memory and latency, which differ from device to device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

from mpo.records import Budget, BudgetResult, Metric, ModelFigures, OnTarget

COUNTED: frozenset[Metric] = frozenset({"params", "macs"})
PER_TARGET: frozenset[Metric] = frozenset({"memory_bytes", "latency_p50_ms", "latency_p90_ms"})
Costs = dict[str, float]


def key_of(metric: Metric, target: str = "") -> str:
    """The key of a metric on a target; "" stands for the first target."""
    return f"{target} {metric}" if target and metric in PER_TARGET else metric


def metric_of(key: str) -> Metric:
    """The metric that a key is about."""
    return next(metric for metric in get_args(Metric) if key.split(" ")[-1] == metric)


def measured_keys(keys: Sequence[str] | Mapping[str, float]) -> list[str]:
    """The keys whose figures need an exported file."""
    return [key for key in keys if metric_of(key) not in COUNTED]


def by_key(figures: ModelFigures, others: Sequence[OnTarget] = ()) -> Costs:
    """Every figure of a model by its key."""
    counted: Costs = {
        "params": figures.params,
        "macs": figures.macs,
        "size_bytes": figures.size_bytes,
    }
    return counted | by_target(figures, others)


def by_target(first: ModelFigures | OnTarget, others: Sequence[OnTarget] = ()) -> Costs:
    """The figures that differ from target to target, by their keys."""
    values: Costs = {}
    for label, one in [("", first), *((other.target, other) for other in others)]:
        values[key_of("memory_bytes", label)] = one.peak_memory_bytes
        values[key_of("latency_p50_ms", label)] = one.latency_ms.p50
        values[key_of("latency_p90_ms", label)] = one.latency_ms.p90
    return values


def placed(budgets: Sequence[Budget], targets: Sequence[str]) -> Iterator[tuple[Budget, str, str]]:
    """Each budget with its target and its key, once where targets do not matter."""
    for budget in budgets:
        everywhere = budget.metric in PER_TARGET
        for place, target in enumerate(targets if everywhere else targets[:1]):
            yield budget, target, key_of(budget.metric, target if place else "")


def limits(
    budgets: Sequence[Budget], original: Mapping[str, float], targets: Sequence[str]
) -> Costs:
    """The tightest limit of each bounded key, in the metric's own unit."""
    bounds: Costs = {}
    for budget, _, key in placed(budgets, targets):
        limit = budget.resolve(original[key])
        bounds[key] = min(limit, bounds.get(key, limit))
    return bounds


def judge(
    budgets: Sequence[Budget],
    original: Mapping[str, float],
    candidate: Mapping[str, float],
    targets: Sequence[str],
) -> tuple[BudgetResult, ...]:
    """Every budget beside the candidate's figure, on every target."""
    results = []
    for budget, target, key in placed(budgets, targets):
        limit = budget.resolve(original[key])
        results.append(
            BudgetResult(
                text=budget.text,
                target=target,
                metric=budget.metric,
                limit=limit,
                measured=candidate[key],
                met=candidate[key] <= limit,
            )
        )
    return tuple(results)


def all_hold(
    budgets: Sequence[Budget], original: Mapping[str, float], targets: Sequence[str]
) -> bool:
    """True when there are budgets and the original holds all of them."""
    results = judge(budgets, original, original, targets)
    return bool(results) and all(result.met for result in results)
