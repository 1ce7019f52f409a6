"""Budgets that cannot hold: the floor, the contradiction, the closest plan and what would help,
each against trying every set."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpo.optimizer.planning.planner import (
    Infeasible,
    Item,
    Limit,
    holds,
    keeps_clusters,
    predict,
    solve,
    surrogate,
)
from mpo.optimizer.planning.problem import excess

METRICS = ("params", "memory_bytes", "latency_p90_ms", "pi latency_p90_ms")


def sets(items: list[Item], clusters: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    free = [item.name for item in items if not item.fixed]
    chosen = [one for size in range(len(free) + 1) for one in combinations(free, size)]
    return [one for one in chosen if keeps_clusters(clusters, one)]


Hard = tuple[list[Item], list[Limit], list[tuple[str, ...]]]


@st.composite
def hard(draw: st.DrawFn) -> Hard:
    """Budgets at the edge of what can be, over blocks that help some and harm others."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    count, metrics = draw(st.integers(1, 8)), METRICS[: draw(st.integers(1, 4))]

    def saving(metric: str) -> float:
        value = rng.uniform(-1.5, 3) if metric.endswith("_ms") else rng.randint(-400, 900) * 1000
        return float(value)

    items = [
        Item(f"b{i}", rng.random(), {m: saving(m) for m in metrics}, fixed=rng.random() < 0.1)
        for i in range(count)
    ]
    clusters: list[tuple[str, ...]] = [("b0", "b1")] if count > 1 and rng.random() < 0.5 else []
    limits = []
    for metric in metrics:
        costs = [
            predict(items, [Limit(metric, 5e6, 0)], one)[metric] for one in sets(items, clusters)
        ]
        low = min(costs)
        limits.append(Limit(metric, 5e6, low + rng.uniform(-0.2, 0.6) * (max(costs) - low)))
    return items, limits, clusters


def any_holds(items: list[Item], limits: list[Limit], clusters: list[tuple[str, ...]]) -> bool:
    return any(holds(predict(items, limits, one), limits) for one in sets(items, clusters))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(hard())
def test_all_that_is_said_of_an_impossible_problem_is_what_brute_force_finds(problem: Hard) -> None:
    items, limits, clusters = problem
    found = solve(items, limits, clusters=clusters)
    every = sets(items, clusters)
    if any_holds(items, limits, clusters):
        assert not isinstance(found, Infeasible)
        return
    assert isinstance(found, Infeasible)
    for limit in limits:
        costs = [predict(items, [limit], one)[limit.metric] for one in every]
        assert found.floors[limit.metric] == min(costs)
        others = [other for other in limits if other is not limit]
        allowed = [
            predict(items, [limit], one)[limit.metric]
            for one in every
            if holds(predict(items, others, one), others)
        ]
        assert found.relaxed[limit.metric] == min(allowed, default=None)
    best = min(excess(predict(items, limits, one), limits) for one in every)
    assert excess(found.closest.costs, limits) == pytest.approx(best, rel=1e-9, abs=1e-12)
    assert keeps_clusters(clusters, found.closest.removed)
    conflict = list(found.conflict)
    assert not any_holds(items, conflict, clusters)
    for limit in conflict:
        rest = [other for other in conflict if other is not limit]
        assert any_holds(items, rest, clusters)


def blocks(*savings: tuple[float, float]) -> list[Item]:
    return [
        Item(f"b{i}", 1.0, {"latency_p90_ms": ms, "memory_bytes": held})
        for i, (ms, held) in enumerate(savings)
    ]


def impossible(
    items: list[Item], limits: list[Limit], clusters: Sequence[tuple[str, ...]] = ()
) -> Infeasible:
    found = solve(items, limits, clusters=clusters)
    assert isinstance(found, Infeasible)
    return found


@pytest.mark.case(55)
def test_a_budget_under_the_floor_is_named_with_the_floor() -> None:
    items = [*blocks((1, 10e6), (1, 10e6)), Item("stem", 0, {"memory_bytes": 9e6}, fixed=True)]
    limits = [Limit("memory_bytes", 51.2e6, 30e6), Limit("latency_p90_ms", 10, 10)]
    found = impossible(items, limits)
    assert (found.binding.metric, found.floor) == ("memory_bytes", 31.2e6)
    assert found.conflict == (limits[0],)
    assert found.closest.removed == ("b0", "b1")
    assert found.message == (
        "memory is 51.2 MB and cannot come under 31.2 MB by removing blocks; the budget is 30 MB."
    )
    assert found.help == ("memory <= 31.2 MB would do, the rest as asked",)


def test_the_floor_minds_clusters() -> None:
    items = blocks((1, 5), (1, 9), (1, 7))
    limit = Limit("memory_bytes", 100, 80)
    assert impossible(items, [limit], clusters=[("b0", "b1", "b2")]).floor == 84
    assert not isinstance(solve(items, [limit]), Infeasible)


def test_a_floor_that_looks_like_the_budget_is_told_with_more_digits() -> None:
    found = impossible(blocks((0, 1)), [Limit("memory_bytes", 10_000_002, 10_000_000)])
    assert "10000001 B" in found.message
    assert "10000000 B" in found.message


@pytest.mark.case(57)
def test_budgets_that_hold_alone_but_not_together_are_named() -> None:
    items = blocks((5, -10e6), (5, -10e6), (-1, 20e6))
    limits = [
        Limit("params", 100, 100),
        Limit("latency_p90_ms", 20, 10),
        Limit("memory_bytes", 40e6, 25e6),
    ]
    found = impossible(items, limits)
    assert [limit.metric for limit in found.conflict] == ["latency_p90_ms", "memory_bytes"]
    assert found.message == (
        "latency p90 <= 10 ms and memory <= 25 MB contradict each other: "
        "no set of removals holds them together."
    )
    assert found.relaxed == {"params": None, "latency_p90_ms": 21.0, "memory_bytes": 40e6 + 20e6}
    assert len(found.help) == 2


def test_the_closest_plan_is_the_least_harm_among_equals() -> None:
    items = [replace(item, harm=3.0 - n) for n, item in enumerate(blocks((1, 8), (1, 8), (1, 0)))]
    found = impossible(items, [Limit("memory_bytes", 20, 3)])
    assert found.closest.removed == ("b0", "b1")
    assert found.closest.harm == surrogate(items, {}, ("b0", "b1"))


def test_when_no_budget_helps_alone_all_are_told_together() -> None:
    limits = [Limit("latency_p90_ms", 10, 1), Limit("memory_bytes", 10e6, 1e6)]
    found = impossible(blocks((1, 1e6)), limits)
    assert found.relaxed == {"latency_p90_ms": None, "memory_bytes": None}
    assert found.help == ("latency p90 <= 9 ms and memory <= 9 MB would do together",)


def test_with_no_blocks_a_budget_below_the_original_is_infeasible() -> None:
    found = impossible([], [Limit("params", 1000, 999)])
    assert found.floor == 1000
    assert found.closest.removed == ()
    assert not isinstance(solve([], [Limit("params", 1000, 1000)]), Infeasible)


@pytest.mark.case(54)
def test_a_budget_of_nothing_or_less_is_infeasible_not_an_error() -> None:
    for limit in (0.0, -5.0):
        found = impossible(blocks((1, 1)), [Limit("latency_p90_ms", 3, limit)])
        assert found.floor == 2
        assert math.isfinite(excess(found.closest.costs, [found.binding]))
