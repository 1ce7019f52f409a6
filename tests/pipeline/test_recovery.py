"""What a plan says of itself after short recoveries chose among the candidates."""

from __future__ import annotations

from mpo.pipeline.optimize.recovery import told_anew
from mpo.records import Front, FrontPoint, Plan, PlanCandidate, Reason

POINTS = (
    FrontPoint(removed=("a",), harm=0.1, cost=90.0),
    FrontPoint(removed=("a", "b"), harm=0.3, cost=80.0),
)


def plan() -> Plan:
    """One that takes a and b out, with its reasons and its place on two fronts."""
    return Plan(
        method="mpruner",
        subject="s",
        seed=0,
        removed=("a", "b"),
        harm=0.3,
        fronts=tuple(
            Front(metric=metric, points=POINTS, chosen=POINTS[1], least=0.3)
            for metric in ("params", "macs")
        ),
        reasons=(Reason(block="a", removed=True, text="a goes"),),
        notes=("first",),
    )


def test_a_plan_that_stays_chosen_says_what_it_said() -> None:
    assert told_anew(plan(), PlanCandidate(removed=("b", "a"), harm=0.3)) == {}


def test_another_plan_takes_neither_reasons_nor_places_that_were_not_given_for_it() -> None:
    other = PlanCandidate(removed=("a", "c"), harm=0.35, costs={"params": 85.0})
    found = told_anew(plan(), other)
    assert found["reasons"] == ()
    params, macs = found["fronts"]
    assert (params.chosen.removed, params.chosen.cost, params.chosen.harm) == (
        ("a", "c"),
        85.0,
        0.35,
    )
    assert params.least == 0.3
    assert (macs.chosen, macs.least) == (None, None)
    assert found["notes"][0] == "first"
    assert "would have taken a, b" in found["notes"][1]
