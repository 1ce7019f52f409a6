"""The exact program against brute force, and what it says when nothing fits."""

from __future__ import annotations

import math
import random
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpo.errors import UsageError
from mpo.optimizer.planner import (
    Infeasible,
    Item,
    Limit,
    Solution,
    holds,
    pareto,
    predict,
    solutions,
    solve,
    surrogate,
)

Problem = tuple[list[Item], list[Limit], dict[tuple[str, str], float]]


def sets(items: list[Item]) -> list[tuple[str, ...]]:
    free = [item.name for item in items if not item.fixed]
    return [chosen for size in range(len(free) + 1) for chosen in combinations(free, size)]


def brute(problem: Problem) -> list[tuple[float, tuple[str, ...]]]:
    items, limits, pairs = problem
    return sorted(
        (surrogate(items, pairs, chosen), chosen)
        for chosen in sets(items)
        if holds(predict(items, limits, chosen), limits)
    )


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    count = draw(st.integers(1, 9))
    rng = random.Random(draw(st.integers(0, 2**32)))
    harms = draw(st.sampled_from([(0.0, 1e-4, 0.1, 3.0), (0.5, 1.0)]))
    sizes = draw(st.sampled_from([(0, 1, 1000), (10**5, 10**5 + 1), (36_992, 147_712)]))
    items = [
        Item(
            f"b{i}",
            rng.choice(harms) * rng.choice((1.0, rng.random())),
            {"params": rng.choice(sizes), "latency_p90_ms": rng.uniform(-0.05, 3)},
            fixed=rng.random() < 0.2,
        )
        for i in range(count)
    ]
    limits = []
    for metric in draw(st.sampled_from([(), ("params",), ("params", "latency_p90_ms")])):
        saved = sum(max(item.savings[metric], 0) for item in items)
        full = saved * 1.25 + 1
        limits.append(Limit(metric, full, full - rng.choice((0.25, 0.5, rng.random())) * saved))
    pairs = {
        (f"b{i}", f"b{j}"): rng.random()
        for i, j in combinations(range(count), 2)
        if rng.random() < 0.3
    }
    return items, limits, pairs


@settings(max_examples=250, deadline=None, derandomize=True)
@given(problems())
def test_the_program_finds_what_brute_force_finds(problem: Problem) -> None:
    items, limits, pairs = problem
    best, found = brute(problem), solve(items, limits, pairs)
    if not best:
        assert isinstance(found, Infeasible)
        return
    assert isinstance(found, Solution)
    assert found.harm == pytest.approx(best[0][0], rel=1e-6, abs=1e-7)
    assert holds(found.costs, limits)
    assert not {item.name for item in items if item.fixed} & set(found.removed)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(problems())
def test_next_best_answers_come_in_the_order_of_brute_force(problem: Problem) -> None:
    items, limits, pairs = problem
    best, found = brute(problem), solutions(items, limits, pairs, count=4)
    if isinstance(found, Infeasible):
        assert not best
        return
    assert len({frozenset(one.removed) for one in found}) == len(found) == min(4, len(best))
    for one, (harm, _) in zip(found, best, strict=False):
        assert one.harm == pytest.approx(harm, rel=1e-6, abs=1e-6)


def equal_blocks(count: int, saving: float = 100.0) -> list[Item]:
    return [Item(f"b{i}", 0.1 * (i + 1), {"params": saving}) for i in range(count)]


def test_without_budgets_nothing_is_removed() -> None:
    assert solve(equal_blocks(3), []) == Solution((), 0.0, {})


def test_a_budget_that_holds_exactly_is_met() -> None:
    found = solve(equal_blocks(4), [Limit("params", 1000, 800)])
    assert isinstance(found, Solution)
    assert (found.removed, found.costs) == (("b0", "b1"), {"params": 800.0})
    assert found.harm == pytest.approx(0.3)


def test_a_budget_missed_by_one_parameter_in_a_billion_is_missed() -> None:
    items = [Item(f"b{i}", 0.1, {"params": 10**8}) for i in range(12)]
    found = solve(items, [Limit("params", 2 * 10**9, 2 * 10**9 - 6 * 10**8 - 1)])
    assert isinstance(found, Solution)
    assert len(found.removed) == 7


def test_costs_in_whole_units_are_rounded_up() -> None:
    items = [Item("a", 1.0, {"size_bytes": 99.5}), Item("b", 2.0, {"size_bytes": 100.0})]
    limits = [Limit("size_bytes", 1000, 900)]
    assert predict(items, limits, ["a"]) == {"size_bytes": 901.0}
    found = solve(items, limits)
    assert isinstance(found, Solution)
    assert found.removed == ("b",)


def test_near_copies_are_not_both_removed_when_a_third_block_is_cheaper() -> None:
    items = [Item(name, harm, {"params": 1}) for name, harm in (("a", 1), ("b", 1.1), ("c", 2))]
    limits = [Limit("params", 10, 8)]
    alone, together = solve(items, limits), solve(items, limits, {("a", "b"): 2.0})
    assert isinstance(alone, Solution)
    assert isinstance(together, Solution)
    assert (alone.removed, together.removed) == (("a", "b"), ("a", "c"))


def test_answers_differ_in_as_many_blocks_as_asked() -> None:
    found = solutions(equal_blocks(6), [Limit("params", 1000, 700)], count=5, distance=4)
    assert isinstance(found, tuple)
    assert len(found) > 1
    for one, other in combinations(found, 2):
        assert len(set(one.removed) ^ set(other.removed)) >= 4


def test_an_impossible_budget_is_named_with_the_floor() -> None:
    items = [*equal_blocks(3), Item("kept", 0.0, {"params": 500.0}, fixed=True)]
    limits = [Limit("params", 1000, 600), Limit("latency_p90_ms", 10.0, 10.0)]
    found = solve(items, limits)
    assert isinstance(found, Infeasible)
    assert (found.binding.metric, found.floor) == ("params", 700.0)
    assert found.closest.removed == ("b0", "b1", "b2")
    assert found.message == (
        "params is 1000 and cannot come under 700 by removing blocks; the budget is 600."
    )


def test_with_no_blocks_a_budget_below_the_original_is_infeasible() -> None:
    found = solve([], [Limit("params", 1000, 999)])
    assert isinstance(found, Infeasible)
    assert found.floor == 1000
    assert solve([], [Limit("params", 1000, 1000)]) == Solution((), 0.0, {"params": 1000.0})


@settings(max_examples=15, deadline=None, derandomize=True)
@given(problems())
def test_no_point_of_the_front_is_beaten_by_any_set(problem: Problem) -> None:
    items, _, pairs = problem
    saved = sum(item.savings["params"] for item in items)
    limits = [Limit("params", saved + 1, 0), Limit("latency_p90_ms", 100.0, 0)]
    front = pareto(items, limits, "params", pairs, points=6)
    assert front[0].harm <= 1e-6
    costs = [one.costs["params"] for one in front]
    assert costs == sorted(costs, reverse=True)
    for chosen in sets(items):
        cost, harm = predict(items, limits, chosen)["params"], surrogate(items, pairs, chosen)
        beaten = [one for one in front if cost <= one.costs["params"] and harm < one.harm - 1e-6]
        assert not beaten


@pytest.mark.parametrize("harm", [-1.0, math.nan, math.inf])
def test_a_harm_that_is_no_number_of_at_least_zero_is_refused(harm: float) -> None:
    with pytest.raises(UsageError, match="'a'"):
        solve([Item("a", harm)], [])


@pytest.mark.parametrize("pairs", [{("a", "z"): 1.0}, {("a", "a"): 1.0}, {("a", "b"): -1.0}])
def test_a_pair_that_makes_no_sense_is_refused(pairs: dict[tuple[str, str], float]) -> None:
    with pytest.raises(UsageError, match="'a'"):
        solve([Item("a", 0.0), Item("b", 0.0)], [], pairs)
