"""What the plan stage asks the exact program for, round after round, near the floor."""

from __future__ import annotations

import pytest

from mpo.errors import InfeasibleError
from mpo.optimizer.planning.planner import Infeasible
from mpo.pipeline.plan.aims import ROUNDS, better, closer, corrected, holding, loose
from mpo.pipeline.plan.planning import Start, nearly, start
from mpo.pipeline.plan.problem import Problem
from mpo.pipeline.run.analysis import NOTHING
from mpo.records import (
    Anchor,
    Block,
    CostTable,
    Fit,
    Harm,
    Line,
    PlanCandidate,
    SessionOptions,
    UnitCost,
)
from mpo.records.costs import EMPTY, FULL

KEY = "latency_p90_ms"
NAMES = tuple(f"b{i}" for i in range(12))


def problem_of(bound: float, jump: float = 0.0, additive: bool = True) -> Problem:
    """Twelve equal blocks of a model of 10 ms, of which 9 ms stay whatever goes."""
    table = CostTable(
        target="local",
        fingerprint="f",
        session=SessionOptions(),
        batch=1,
        units=tuple(UnitCost(name=n, how="measured", share=1 / 12) for n in NAMES),
        anchors=(
            Anchor(name=FULL, removed=(), kept=NAMES, figures={"latency_p90_ms": 10.0}),
            Anchor(name=EMPTY, removed=NAMES, kept=(), figures={"latency_p90_ms": 9.0}),
        ),
        fits={"latency_p90_ms": Fit(line=Line(slope=1, intercept=9), margin=0.05, jump=jump)},
        additive=additive,
    )
    block = {"kind": "B", "index": 0, "group": "g", "params": 1, "macs": 1, "removable": True}
    analysis = NOTHING.model_copy(
        update={
            "names": NAMES,
            "similarity": tuple(tuple(float(a == b) for b in NAMES) for a in NAMES),
            "harms": tuple(Harm(name=n, kl=0.1, agreement=1, branch_ratio=1) for n in NAMES),
            "blocks": tuple(Block(name=n, **block) for n in NAMES),
        }
    )
    return Problem(analysis, {"": table}, {KEY: bound})


def tried(count: int, cost: float) -> PlanCandidate:
    return PlanCandidate(removed=NAMES[:count], harm=1.0, costs={KEY: cost}, measured=True)


def begun(problem: Problem, *known: PlanCandidate) -> Start | Infeasible:
    return start(problem, (problem.safe_targets(), closer(problem, known)), 1)


def test_a_plan_that_misses_near_the_floor_is_followed_by_one_that_removes_more() -> None:
    problem = problem_of(9.4)
    first = begun(problem)  # the margin is out of reach, so the bound itself is asked for
    assert isinstance(first, Start)
    assert len(first.solutions[0].removed) == 8
    second = begun(problem, tried(8, 9.44))
    assert isinstance(second, Start)
    assert len(second.solutions[0].removed) == 9


def test_no_prediction_alone_calls_a_budget_infeasible_that_the_table_may_be_wrong_about() -> None:
    problem = problem_of(8.6, jump=0.05)
    found = begun(problem)
    assert isinstance(found, Infeasible)
    assert nearly(problem, found, ()).solutions[0].removed == NAMES
    far = problem_of(7.5, jump=0.05)
    found = begun(far)
    assert isinstance(found, Infeasible)
    with pytest.raises(InfeasibleError, match="cannot be met"):
        nearly(far, found, ())


def test_where_blocks_do_not_add_up_the_aims_follow_what_was_measured() -> None:
    problem = problem_of(9.6, additive=False)
    best = tried(4, 9.8)
    same, aims = corrected(problem, {KEY: 9.7}, [best], [best])
    assert same is problem
    assert aims[KEY] < problem.predicted(best.removed)[KEY]


def test_aims_that_were_too_low_rise_again_to_where_the_plan_in_hand_measures_its_target() -> None:
    problem = problem_of(9.0, additive=False)  # a target of 8.55
    held, over = tried(8, 8.0), tried(5, 8.75)  # the table told 9.33 and 9.58 of a full 10
    aims = {KEY: 9.35}
    assert loose(problem_of(9.5, additive=False), aims, [held], held)
    _, higher = corrected(problem, aims, [held], [held], held)
    assert higher[KEY] == pytest.approx(10 - (10 - 8.55) / 3, rel=1e-4)  # a third of what it saved
    near = over.model_copy(update={"removed": NAMES[:7]})
    _, less = corrected(problem, aims, [near, held], [held], held)
    assert less[KEY] == pytest.approx(10 - 7 / 12, rel=1e-4)  # short of what missed


def test_a_plan_that_misses_beside_one_in_hand_halves_the_way_back() -> None:
    problem = problem_of(9.0, additive=False)
    held, over = tried(8, 8.0), tried(2, 9.5)
    _, aims = corrected(problem, {KEY: 9.9}, [held, over], [over], held)
    assert aims[KEY] == pytest.approx((9.9 + 10 - 8 / 12) / 2, rel=1e-4)


def test_a_plan_near_its_target_ends_the_rounds() -> None:
    near = tried(8, 9.3)
    assert not loose(problem_of(10.0), {KEY: 9.4}, [near], near)  # 98 % of the target of 9.5


def test_a_plan_of_less_harm_that_missed_beside_one_with_room_asks_for_another_round() -> None:
    problem, held = problem_of(9.9, additive=False), tried(12, 8.0)
    missed = tried(2, 9.8).model_copy(update={"joint_kl": 0.1})
    aims = {KEY: 9.8}
    assert not loose(problem, aims, [held], held)
    assert loose(problem, aims, [held, missed], held)


def test_only_plans_of_less_harm_are_measured_beside_one_in_hand() -> None:
    held = tried(8, 9.0)
    worse, less = (held.model_copy(update={"joint_kl": kl}) for kl in (2.0, 0.5))
    assert better((worse, less), (held,)) == (less,)
    assert better((worse, less), ()) == (worse, less)
    assert holding(problem_of(9.5), (held, less)) == [less, held]


@pytest.mark.case(58)
@pytest.mark.parametrize("additive", [True, False])
def test_rounds_that_miss_go_down_to_the_least_that_any_plan_may_take(additive: bool) -> None:
    problem = problem_of(9.6, additive=additive)
    aims = {KEY: 9.7}
    for number in range(1, ROUNDS):
        one = tried(4, 9.8)  # noise: what is measured says nothing of what went
        _, lower = corrected(problem, aims, [one], [one], rounds=number)
        assert lower[KEY] <= aims[KEY]
        aims = lower
    assert aims[KEY] <= problem.predicted(NAMES)[KEY]
