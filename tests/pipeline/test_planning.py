"""What the plan stage asks the exact program for, round after round, near the floor."""

from __future__ import annotations

import pytest

from mpo.errors import InfeasibleError
from mpo.optimizer.planner import Infeasible
from mpo.pipeline.analysis import NOTHING
from mpo.pipeline.planning import Start, closer, corrected, nearly, start
from mpo.pipeline.problem import Problem
from mpo.records import Block, CostTable, Fit, Harm, Line, PlanCandidate, SessionOptions, UnitCost

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
        anchors=(),
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
