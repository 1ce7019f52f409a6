"""Budgets against figures: which number a budget bounds, and whether it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mpo.records import Budget, BudgetResult, Metric, ModelFigures
from mpo.units import format_bytes, format_count, format_ms

MEASURED: frozenset[Metric] = frozenset(
    {"size_bytes", "memory_bytes", "latency_p50_ms", "latency_p90_ms"}
)


def figure(figures: ModelFigures, metric: Metric) -> float:
    """The figure that a budget of this metric bounds."""
    values: dict[Metric, float] = {
        "params": figures.params,
        "macs": figures.macs,
        "size_bytes": figures.size_bytes,
        "memory_bytes": figures.peak_memory_bytes,
        "latency_p50_ms": figures.latency_ms.p50,
        "latency_p90_ms": figures.latency_ms.p90,
    }
    return values[metric]


def limits(budgets: Sequence[Budget], original: ModelFigures) -> dict[Metric, float]:
    """The tightest limit of each bounded metric, in the metric's own unit."""
    bounds: dict[Metric, float] = {}
    for budget in budgets:
        limit = budget.resolve(figure(original, budget.metric))
        bounds[budget.metric] = min(limit, bounds.get(budget.metric, limit))
    return bounds


def judge(
    budgets: Sequence[Budget], original: ModelFigures, candidate: ModelFigures
) -> tuple[BudgetResult, ...]:
    """Every budget beside the candidate's figure."""
    results = []
    for budget in budgets:
        limit = budget.resolve(figure(original, budget.metric))
        measured = figure(candidate, budget.metric)
        results.append(
            BudgetResult(
                text=budget.text,
                metric=budget.metric,
                limit=limit,
                measured=measured,
                met=measured <= limit,
            )
        )
    return tuple(results)


def holds(values: Mapping[Metric, float], bounds: Mapping[Metric, float]) -> bool:
    """True when every bound that has a value holds."""
    return all(values[metric] <= limit for metric, limit in bounds.items() if metric in values)


def shown(metric: Metric, value: float) -> str:
    """A figure with its unit, for messages."""
    if metric.endswith("_ms"):
        return format_ms(value)
    return format_bytes(value) if metric.endswith("_bytes") else format_count(value)
