"""Budgets in words: "latency p90 on ssh://pi", "31.2 MB"; for messages and explanations."""

from __future__ import annotations

from collections.abc import Sequence

from mpo.optimizer.planning.problem import Limit
from mpo.units import format_bytes, format_count, format_ms

SUFFIXES = ("_bytes", "_ms")


def called(metric: str) -> str:
    """ "latency_p90_ms" -> "latency p90"; "ssh://pi memory_bytes" -> "memory on ssh://pi"."""
    place, _, name = metric.rpartition(" ")
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    words = name.replace("_", " ")
    return f"{words} on {place}" if place else words


def shown(metric: str, value: float) -> str:
    """A cost with its unit, three digits."""
    if metric.endswith("_ms"):
        return format_ms(value)
    return format_bytes(value) if metric.endswith("_bytes") else format_count(value)


def beside(metric: str, value: float, other: float) -> tuple[str, str]:
    """Two costs with their units: three digits, or as many as tell them apart."""
    short = shown(metric, value), shown(metric, other)
    if short[0] != short[1] or value == other:
        return short
    unit = {"_ms": " ms", "_bytes": " B"}.get(metric[metric.rfind("_") :], "")
    digits = next((n for n in range(4, 17) if f"{value:.{n}g}" != f"{other:.{n}g}"), 17)
    return f"{value:.{digits}g}{unit}", f"{other:.{digits}g}{unit}"


def over(limit: Limit, cost: float) -> str:
    """ "latency p90 12.9 ms > 12 ms": a budget that does not hold."""
    ours, theirs = beside(limit.metric, cost, limit.bound)
    return f"{called(limit.metric)} {ours} > {theirs}"


def listed(words: Sequence[str], limit: int = 6) -> str:
    """ "a, b and c"; beyond `limit` "a, b and 7 more"."""
    if len(words) > limit:
        words = [*words[: limit - 1], f"{len(words) - limit + 1} more"]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
