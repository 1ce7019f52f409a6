"""Why a block goes or stays, against trying every set; and where the chosen plan lies."""

from __future__ import annotations

import random
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpo.errors import UsageError
from mpo.optimizer.planning.explain import explain
from mpo.optimizer.planning.front import front
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


def block(name: str, harm: float, ms: float, held: float = 0.0, group: str = "") -> Item:
    return Item(name, harm, {"latency_p90_ms": ms, "memory_bytes": held}, group=group)


TEN = Limit("latency_p90_ms", 10.0, 8.0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
def test_harm_differences_are_those_of_the_best_set_decided_otherwise(seed: int) -> None:
    rng = random.Random(seed)
    items = [block(f"b{i}", rng.random(), rng.uniform(-0.2, 2), rng.random()) for i in range(6)]
    limits, clusters = [Limit("latency_p90_ms", 10.0, rng.uniform(5, 10))], [("b2", "b3")]
    pairs = {("b0", "b1"): rng.random()}
    plan = solve(items, limits, pairs, clusters=clusters)
    if isinstance(plan, Infeasible):
        return
    names = [item.name for item in items]
    every = [one for size in range(7) for one in combinations(names, size)]
    may = [one for one in every if holds(predict(items, limits, one), limits)]
    may = [one for one in may if keeps_clusters(clusters, one)]
    reasons = explain(items, limits, pairs, clusters, plan.removed)
    assert {reason.block for reason in reasons if reason.removed} == set(plan.removed)
    for reason in reasons:
        other = [one for one in may if (reason.block in one) != reason.removed]
        if not other:
            assert reason.harm_difference is None
            continue
        best = min(surrogate(items, pairs, one) for one in other)
        assert reason.harm_difference == pytest.approx(best - plan.harm, rel=1e-7, abs=1e-12)


def test_a_removed_block_is_told_with_what_would_go_in_its_place_and_the_budget() -> None:
    items = [block("a", 0.1, 2), block("b", 0.3, 1.2), block("c", 0.4, 1)]
    first, second = explain(items, [TEN], {}, [], ["a"])
    assert first.text == (
        "a goes: keeping it would cost +0.6 harm (b and c in its place), since with it "
        "latency p90 10 ms > 8 ms; b in its place would not do: latency p90 8.8 ms > 8 ms."
    )
    assert (first.removed, first.instead) == (True, ("b", "c"))
    assert first.harm_difference == pytest.approx(0.6)
    assert second.text == "b stays: removing it would cost +0.3 harm."
    assert (second.removed, second.instead) == (False, ())


def test_a_neighbour_that_would_do_is_told_with_its_harm() -> None:
    items = [block("a", 0.1, 2, group="x"), block("b", 0.5, 2, group="x"), block("c", 0.3, 2)]
    (first, beside) = explain(items, [TEN], {}, [], ["a"])
    assert first.instead == ("c",)
    assert first.text.endswith("; b alone in its place: +0.4 harm.")
    assert beside.text == "b stays: removing it would cost +0.4 harm (a would stay in its place)."


def test_a_block_that_must_go_is_told_with_the_budget_that_breaks() -> None:
    items = [block("a", 5.0, 3), block("b", 0.1, 1.1)]
    (reason, _) = explain(items, [Limit("latency_p90_ms", 14.0, 12.0)], {}, [], ["a"])
    assert (
        reason.text == "a goes: keeping it breaks latency p90 12.9 ms > 12 ms, whatever else goes."
    )
    assert reason.harm_difference is None


def test_a_block_that_must_go_for_two_budgets_together_is_told_so() -> None:
    items = [block("a", 1, 2, 2), block("b", 1, 3, -3), block("c", 1, -3, 3)]
    limits = [Limit("latency_p90_ms", 10, 8), Limit("memory_bytes", 10, 8)]
    reason = explain(items, limits, {}, [], ["a"])[0]
    assert reason.text == (
        "a goes: keeping it, latency p90 and memory cannot hold together, whatever else goes."
    )


def test_a_block_that_may_not_go_is_told_with_what_it_breaks() -> None:
    items = [block("a", 0.1, 2), block("b", 0.1, -9)]
    (_, reason) = explain(items, [TEN], {}, [], ["a"])
    assert reason.text == (
        "b stays: no plan that holds the budgets removes it; now latency p90 17 ms > 8 ms."
    )


def test_the_last_of_a_cluster_stays_and_says_so() -> None:
    items = [block("a", 0.1, 2), block("b", 0.2, 2), block("c", 0.9, 1)]
    reasons = {one.block: one.text for one in explain(items, [TEN], {}, [("a", "b")], ["a"])}
    assert reasons["b"] == "b stays: removing it would cost +0.1 harm (a would stay in its place)."
    more = [Limit("latency_p90_ms", 10.0, 7.0)]
    items += [block("d", 2.0, 1)]
    reasons = {one.block: one.text for one in explain(items, more, {}, [("a", "b")], ["a", "c"])}
    assert reasons["c"].startswith("c goes: keeping it would cost +1.1 harm (d in its place)")
    assert reasons["c"].endswith("; b in its place would not do: no block of its cluster left.")


def test_a_plan_that_measured_harm_chose_against_the_surrogate_is_told_as_such() -> None:
    items = [block("a", 0.5, 2), block("b", 0.2, 2)]
    reason = explain(items, [TEN], {}, [], ["a"])[0]
    assert reason.harm_difference == pytest.approx(-0.3)
    assert "better by predicted harm (-0.3)" in reason.text


def test_a_block_that_no_budget_needs_gone_is_told_as_such() -> None:
    items = [block("a", 0.0, 0.0), block("b", 0.1, 2)]
    reason = explain(items, [TEN], {}, [], ["a", "b"])[0]
    assert "as good by predicted harm" in reason.text
    assert "no budget needs it gone" in reason.text


def test_fixed_blocks_and_blocks_far_from_any_gap_need_no_reason() -> None:
    items = [block("a", 1, 2), Item("stem", 0, {}, fixed=True), block("c", 2, 2), block("d", 2, 2)]
    assert [one.block for one in explain(items, [TEN], {}, [], ["a"])] == ["a"]


def test_blocks_of_another_group_are_no_neighbours() -> None:
    items = [block("a", 1, 2, group="x"), block("b", 2, 2, group="y")]
    (reason,) = explain(items, [TEN], {}, [], ["a"])
    assert "alone in its place" not in reason.text


def test_a_problem_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(UsageError, match="'a'"):
        explain([block("a", -1, 1)], [TEN], {}, [], [])


def test_the_chosen_plan_lies_on_the_front_when_it_is_best() -> None:
    items = [block(f"b{i}", 0.1 * (i + 1), 1.0) for i in range(5)]
    found = front(items, "latency_p90_ms", 10.0, ["b0", "b1"], points=3)
    assert [(point.cost, len(point.removed)) for point in found.points] == [
        (10.0, 0),
        (8.0, 2),
        (7.0, 3),
        (5.0, 5),
    ]
    assert found.chosen in found.points
    assert found.least == pytest.approx(0.3)


def test_a_plan_above_the_front_is_shown_beside_the_least_harm_at_its_cost() -> None:
    items = [block(f"b{i}", 0.1 * (i + 1), 1.0) for i in range(5)]
    found = front(items, "latency_p90_ms", 10.0, ["b3", "b4"], points=3)
    assert found.chosen is not None
    assert found.chosen not in found.points
    assert found.chosen.harm == pytest.approx(0.9)
    assert found.least == pytest.approx(0.3)


def test_the_front_of_a_cost_that_no_block_saves_is_one_point() -> None:
    found = front([block("a", 1, 1)], "macs", 100.0, ["a"])
    assert [point.removed for point in found.points] == [()]
    assert (found.least, found.chosen and found.chosen.cost) == (0.0, 100.0)
