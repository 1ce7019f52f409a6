"""The exact program against brute force: any numbers, any number of budgets, clusters, pairs."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpo.errors import UsageError
from mpo.optimizer.planning.planner import (
    Infeasible,
    Item,
    Limit,
    Solution,
    alternative,
    holds,
    keeps_clusters,
    pareto,
    predict,
    solutions,
    solve,
    surrogate,
)

METRICS = ("params", "size_bytes", "latency_p90_ms", "ssh://pi latency_p90_ms")
SCALES = (1.0, 1.0, 1e-12, 1e-6, 1e6, 1e12)
NEAR = 1e-9  # sums in another order differ by less; sets this near a limit are summed exactly

KINDS: dict[str, Callable[[random.Random], float]] = {
    "equal": lambda _: 100.0,
    "differ by a hundred-thousandth": lambda rng: 1e5 + rng.randint(0, 2),
    "differ in the last bits": lambda rng: 1 + rng.randint(0, 3) * 2.0**-45,
    "two sizes": lambda rng: rng.choice((36_992.0, 147_712.0)),
    "real": lambda rng: rng.uniform(0, 3),
    "whole": lambda rng: float(rng.randint(0, 10**7)),
    "of all magnitudes": lambda rng: 10 ** rng.uniform(-12, 12),
}
HARMS: dict[str, Callable[[random.Random], float]] = {
    "none": lambda _: 0.0,
    "few": lambda rng: rng.choice((0.0, 1e-4, 0.1, 3.0)),
    "alike": lambda rng: rng.choice((0.5, 1.0)),
    "far apart": lambda rng: rng.choice((1e-12, 1.0, 1e9)) * rng.random(),
    "spread": lambda rng: 10 ** rng.uniform(-9, 2),
}


@dataclass(frozen=True)
class Problem:
    """What the planner is asked, and the answer by trying every set."""

    items: list[Item]
    limits: list[Limit]
    pairs: dict[tuple[str, str], float]
    clusters: list[tuple[str, ...]]

    def sets(self) -> np.ndarray:
        """Every choice of blocks, one a row, fixed blocks and clusters minded."""
        count = len(self.items)
        chosen = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        may = ~(chosen[:, [item.fixed for item in self.items]] > 0).any(axis=1)
        for cluster in self.clusters:
            inside = [item.name in cluster for item in self.items]
            may &= ~(chosen[:, inside] > 0).all(axis=1)
        return chosen[may]

    def names(self, row: np.ndarray) -> tuple[str, ...]:
        return tuple(item.name for item, goes in zip(self.items, row, strict=True) if goes)

    def holding(self) -> np.ndarray:
        """The choices that hold every budget: those clear of the limit by plain sums, those near it
        by `predict`."""
        chosen = self.sets()
        clear, near = np.ones(len(chosen), dtype=bool), np.zeros(len(chosen), dtype=bool)
        for limit in self.limits:
            saved = np.array([item.savings.get(limit.metric, 0.0) for item in self.items])
            costs = limit.full - chosen @ saved
            width = NEAR * (abs(limit.full) + np.abs(saved).sum()) + (0 if limit.real else 1)
            clear &= costs <= limit.bound + width
            near |= np.abs(costs - limit.bound) <= width
        for place in np.flatnonzero(clear & near):
            costs_now = predict(self.items, self.limits, self.names(chosen[place]))
            clear[place] = holds(costs_now, self.limits)
        return chosen[clear]

    def harms(self, chosen: np.ndarray) -> np.ndarray:
        places = {item.name: place for place, item in enumerate(self.items)}
        found = chosen @ np.array([item.harm for item in self.items])
        for (one, other), penalty in self.pairs.items():
            found = found + penalty * (chosen[:, places[one]] & chosen[:, places[other]])
        return found


@st.composite
def problems(draw: st.DrawFn, most: int = 10) -> Problem:
    count = draw(st.integers(1, most))
    rng = random.Random(draw(st.integers(0, 2**32)))
    metrics = rng.sample(METRICS, draw(st.integers(0, 4)))
    kinds = {metric: draw(st.sampled_from(sorted(KINDS))) for metric in metrics}
    scales = {metric: rng.choice(SCALES) for metric in metrics}
    harm = HARMS[draw(st.sampled_from(sorted(HARMS)))]

    def saving(metric: str) -> float:
        sign = rng.choice((0, -1, 1, 1, 1, 1, 1, 1, 1))
        return sign * KINDS[kinds[metric]](rng) * scales[metric]

    items = [
        Item(
            f"b{place}",
            harm(rng),
            {metric: saving(metric) for metric in metrics},
            fixed=rng.random() < 0.1,
        )
        for place in range(count)
    ]
    pairs = {
        (f"b{i}", f"b{j}"): rng.choice((rng.random(), 1e-9, 10.0))
        for i, j in combinations(range(count), 2)
        if rng.random() < 0.25
    }
    limits = [limit_for(rng, items, metric) for metric in metrics]
    return Problem(items, limits, pairs, clusters_of(rng, count))


def limit_for(rng: random.Random, items: list[Item], metric: str) -> Limit:
    """Any limit, or the very cost of some set, or the number just below it."""
    saved = sum(max(item.savings[metric], 0) for item in items)
    full = saved * 1.25 + rng.choice((0, 1))
    if rng.random() < 0.4:
        return Limit(metric, full, full - rng.random() * saved)
    some = [item.name for item in items if rng.random() < 0.5 and not item.fixed]
    cost = predict(items, [Limit(metric, full, 0)], some)[metric]
    under = math.nextafter(cost, -math.inf) if metric.endswith("_ms") else cost - 1
    return Limit(metric, full, rng.choice((cost, cost, under)))


def clusters_of(rng: random.Random, count: int) -> list[tuple[str, ...]]:
    """Some runs of two to four neighbours."""
    found, start = [], 0
    while start < count:
        stop = min(count, start + rng.randint(1, 4))
        if stop - start > 1 and rng.random() < 0.5:
            found.append(tuple(f"b{place}" for place in range(start, stop)))
        start = stop
    return found


def agrees_with_brute_force(problem: Problem) -> None:
    chosen = problem.holding()
    found = solve(problem.items, problem.limits, problem.pairs, clusters=problem.clusters)
    if not len(chosen):
        assert isinstance(found, Infeasible)
        return
    assert isinstance(found, Solution)
    best = problem.names(chosen[problem.harms(chosen).argmin()])
    assert found.harm <= surrogate(problem.items, problem.pairs, best) * (1 + 1e-9)
    assert found.harm == surrogate(problem.items, problem.pairs, found.removed)
    assert holds(predict(problem.items, problem.limits, found.removed), problem.limits)
    assert keeps_clusters(problem.clusters, found.removed)
    assert not {item.name for item in problem.items if item.fixed} & set(found.removed)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(problems())
def test_the_program_finds_what_brute_force_finds(problem: Problem) -> None:
    agrees_with_brute_force(problem)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(problems(most=16))
def test_it_does_so_up_to_sixteen_blocks(problem: Problem) -> None:
    agrees_with_brute_force(problem)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(problems(most=7))
def test_next_best_answers_come_in_the_order_of_brute_force(problem: Problem) -> None:
    chosen = problem.holding()
    best = sorted(problem.harms(chosen).tolist())
    found = solutions(
        problem.items, problem.limits, problem.pairs, count=4, clusters=problem.clusters
    )
    if isinstance(found, Infeasible):
        assert not best
        return
    assert len({frozenset(one.removed) for one in found}) == len(found) == min(4, len(best))
    for one, harm in zip(found, best, strict=False):
        assert one.harm == pytest.approx(harm, rel=1e-8, abs=1e-15)


def equal_blocks(count: int, saving: float = 100.0) -> list[Item]:
    return [Item(f"b{i}", 0.1 * (i + 1), {"params": saving}) for i in range(count)]


def solved(found: Solution | Infeasible) -> Solution:
    assert isinstance(found, Solution)
    return found


def test_without_budgets_nothing_is_removed() -> None:
    assert solve(equal_blocks(3), []) == Solution((), 0.0, {})


def test_a_budget_that_holds_exactly_is_met() -> None:
    found = solved(solve(equal_blocks(4), [Limit("params", 1000, 800)]))
    assert (found.removed, found.costs) == (("b0", "b1"), {"params": 800.0})
    assert found.harm == pytest.approx(0.3)


def test_a_budget_missed_by_one_parameter_in_a_billion_is_missed() -> None:
    items = [Item(f"b{i}", 0.1, {"params": 10**8}) for i in range(12)]
    found = solved(solve(items, [Limit("params", 2 * 10**9, 2 * 10**9 - 6 * 10**8 - 1)]))
    assert len(found.removed) == 7


def test_one_byte_in_a_hundred_gigabytes_decides() -> None:
    odd = [Item(f"odd{i}", 1.0, {"size_bytes": 10**11 + 1}) for i in range(3)]
    even = [Item(f"even{i}", 0.5, {"size_bytes": 10**11}) for i in range(9)]
    limits = [Limit("size_bytes", 2 * 10**12, 2 * 10**12 - 5 * 10**11 - 2)]
    found = solved(solve([*odd, *even], limits))
    assert found.harm == 3.0  # six even ones
    fewer = [Limit("size_bytes", 2 * 10**12, 2 * 10**12 - 9 * 10**11 - 3)]
    assert {"odd0", "odd1", "odd2"} <= set(solved(solve([*odd, *even[:6]], fewer)).removed)


def test_costs_in_whole_units_are_rounded_up() -> None:
    items = [Item("a", 1.0, {"size_bytes": 99.5}), Item("b", 2.0, {"size_bytes": 100.0})]
    limits = [Limit("size_bytes", 1000, 900)]
    assert predict(items, limits, ["a"]) == {"size_bytes": 901.0}
    assert solved(solve(items, limits)).removed == ("b",)


def test_a_metric_of_another_target_in_milliseconds_is_a_real_number() -> None:
    items = [Item("a", 1.0, {"ssh://pi latency_p90_ms": 0.25})]
    found = solved(solve(items, [Limit("ssh://pi latency_p90_ms", 1.0, 0.8)]))
    assert found.costs == {"ssh://pi latency_p90_ms": 0.75}


def test_near_copies_are_not_both_removed_when_a_third_block_is_cheaper() -> None:
    items = [Item(name, harm, {"params": 1}) for name, harm in (("a", 1), ("b", 1.1), ("c", 2))]
    limits = [Limit("params", 10, 8)]
    alone, together = solve(items, limits), solve(items, limits, {("a", "b"): 2.0})
    assert (solved(alone).removed, solved(together).removed) == (("a", "b"), ("a", "c"))


def test_of_a_cluster_one_block_stays_and_harm_chooses_which() -> None:
    items = [Item(name, harm, {"params": 1}) for name, harm in (("a", 1), ("b", 2), ("c", 9))]
    limits = [Limit("params", 10, 8)]
    assert solved(solve(items, limits)).removed == ("a", "b")
    assert solved(solve(items, limits, clusters=[("a", "b")])).removed == ("a", "c")
    assert solved(solve(items, limits, clusters=[("a", "b", "c")])).removed == ("a", "b")
    assert isinstance(solve(items, [Limit("params", 10, 7)], clusters=[("a", "c")]), Infeasible)


def test_answers_differ_in_as_many_blocks_as_asked() -> None:
    found = solutions(equal_blocks(6), [Limit("params", 1000, 700)], count=5, distance=4)
    assert isinstance(found, tuple)
    assert len(found) > 1
    for one, other in combinations(found, 2):
        assert len(set(one.removed) ^ set(other.removed)) >= 4


def test_blocks_can_be_made_to_stay_or_to_go() -> None:
    items, limits = equal_blocks(4), [Limit("params", 1000, 800)]
    without = alternative(items, limits, {}, stays=["b0"])
    with_last = alternative(items, limits, {}, goes=["b3"])
    assert without is not None
    assert with_last is not None
    assert (without.removed, with_last.removed) == (("b1", "b2"), ("b0", "b3"))
    assert alternative(items, [Limit("params", 1000, 600)], {}, stays=["b0"]) is None


@settings(max_examples=15, deadline=None, derandomize=True)
@given(problems(most=7))
def test_no_point_of_the_front_is_beaten_by_any_set(problem: Problem) -> None:
    limits = [*problem.limits, Limit("macs", 100.0, 0)]
    items = problem.items
    metric = limits[0].metric
    front = pareto(items, limits, metric, problem.pairs, points=6, clusters=problem.clusters)
    assert front[0].harm <= 1e-6
    costs = [one.costs[metric] for one in front]
    assert costs == sorted(costs, reverse=True)
    for row in problem.sets():
        chosen = problem.names(row)
        cost = predict(items, limits, chosen)[metric]
        harm = surrogate(items, problem.pairs, chosen) * (1 + 1e-8)
        assert not [one for one in front if cost <= one.costs[metric] and harm < one.harm]


@pytest.mark.parametrize("harm", [-1.0, math.nan, math.inf])
def test_a_harm_that_is_no_number_of_at_least_zero_is_refused(harm: float) -> None:
    with pytest.raises(UsageError, match="'a'"):
        solve([Item("a", harm)], [])


@pytest.mark.parametrize("pairs", [{("a", "z"): 1.0}, {("a", "a"): 1.0}, {("a", "b"): -1.0}])
def test_a_pair_that_makes_no_sense_is_refused(pairs: dict[tuple[str, str], float]) -> None:
    with pytest.raises(UsageError, match="'a'"):
        solve([Item("a", 0.0), Item("b", 0.0)], [], pairs)


@pytest.mark.parametrize("limit", [Limit("params", math.nan, 1), Limit("params", 1, math.nan)])
def test_a_budget_that_is_no_number_is_refused(limit: Limit) -> None:
    with pytest.raises(UsageError, match="params"):
        solve([Item("a", 0.0)], [limit])


def test_a_saving_that_is_no_number_is_refused() -> None:
    with pytest.raises(UsageError, match="'a' saves nan"):
        solve([Item("a", 0.0, {"params": math.nan})], [Limit("params", 2, 1)])


@pytest.mark.parametrize("clusters", [[("a", "z")], [("a", "b"), ("b", "a")]])
def test_a_cluster_of_unknown_or_shared_blocks_is_refused(clusters: list[tuple[str, ...]]) -> None:
    with pytest.raises(UsageError, match="cluster"):
        solve([Item("a", 0.0), Item("b", 0.0)], [], clusters=clusters)


def test_a_block_listed_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="'a' is listed twice"):
        solve([Item("a", 0.0), Item("a", 1.0)], [])


def test_two_budgets_of_one_metric_must_start_from_one_cost() -> None:
    with pytest.raises(UsageError, match="different costs"):
        solve([Item("a", 0.0)], [Limit("params", 2, 1), Limit("params", 3, 1)])
