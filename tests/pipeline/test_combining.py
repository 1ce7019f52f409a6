"""Depth and precision weighed against each other: what is passed over, and which plan comes out."""

from __future__ import annotations

import pytest

from mpo.errors import InfeasibleError
from mpo.pipeline.plan.bases import Based, dominated, enough_alone, holding_alone
from mpo.pipeline.plan.combining import Posed, left_out, plan_alone, united
from mpo.pipeline.run.measuring import Measured
from mpo.recipe import Recipe, make_recipe
from mpo.records import (
    Analysis,
    Budget,
    Harm,
    Latency,
    ModelFigures,
    Parity,
    Plan,
    PlanCandidate,
    Precision,
    Quality,
)

QUALITY = Quality(metric="accuracy", value=0.9, samples=100, ci95=(0.8, 0.95))
LATENCY = "latency_p90_ms"


def measured(size: int, latency: float) -> Measured:
    figures = ModelFigures(
        params=100,
        macs=100,
        size_bytes=size,
        peak_memory_bytes=size,
        load_memory_bytes=size,
        latency_ms=Latency(p50=latency, p90=latency, n=1),
        quality=QUALITY,
    )
    parity = Parity(max_abs=0, max_rel=0, agreement=1, samples=1, batches=(1,), ok=True)
    return Measured(
        figures=figures, others=(), parity=parity, validation=QUALITY, opset=20, sha256="",
        warnings=(),
    )  # fmt: skip


def based(precision: Precision, size: int, latency: float, harm: float) -> Based:
    return Based(precision=precision, measured=measured(size, latency), harm=harm)


FP32 = measured(1000, 10.0)
BASES: dict[Precision, Based] = {
    "fp16": based("fp16", 500, 11.0, 1e-6),
    "int8": based("int8", 280, 7.0, 0.02),
    "int8-dynamic": based("int8-dynamic", 990, 10.5, 0.001),
}


def analysis(*harms: float) -> Analysis:
    blocks = tuple(
        Harm(name=f"b{number}", kl=kl, agreement=1, branch_ratio=1)
        for number, kl in enumerate(harms)
    )
    return Analysis(
        names=(), similarity=(), null_95=0, threshold=1, samples=1, clusters=(), harms=blocks,
        blocks=(),
    )  # fmt: skip


def recipe(precision: str = "auto") -> Recipe:
    return make_recipe(subject="s.py", budget=("size=50%",), precision=precision)


def plan(precision: Precision, harm: float, *removed: str) -> Plan:
    candidate = PlanCandidate(removed=removed, harm=harm, joint_kl=harm, precision=precision)
    return Plan(
        method="mpruner", subject="s", seed=0, removed=removed, harm=harm, precision=precision,
        alternatives=(candidate,),
    )  # fmt: skip


def test_a_precision_is_passed_over_only_when_another_is_no_worse_in_every_bounded_figure() -> None:
    """Under a size budget dynamic int8 is beaten by fp16; under one on latency fp16 by fp32."""
    assert dominated(BASES, FP32, ["size_bytes"]) == {"int8-dynamic": "fp16"}
    by_latency = dominated(BASES, FP32, [LATENCY])
    assert by_latency.keys() == {"fp16", "int8-dynamic"}
    assert dominated(BASES, FP32, ["size_bytes", LATENCY]) == {}


def test_two_precisions_that_are_alike_never_pass_each_other_over() -> None:
    twins: dict[Precision, Based] = {
        "int8": based("int8", 280, 7, 0.1),
        "fp16": based("fp16", 280, 7, 0.1),
    }
    assert len(dominated(twins, FP32, ["size_bytes"])) == 1
    thrice: dict[Precision, Based] = {**twins, "int8-dynamic": based("int8-dynamic", 280, 7, 0.1)}
    assert len(dominated(thrice, FP32, ["size_bytes"])) == 2


def test_precisions_that_hold_every_budget_alone_come_the_least_harmful_first() -> None:
    budgets = (Budget(text="size=60%", metric="size_bytes", factor=0.6),)
    assert holding_alone(BASES, budgets, FP32, ("local",)) == ["fp16", "int8"]
    both = (*budgets, Budget(text="latency=80%", metric="latency_p90_ms", factor=0.8))
    assert holding_alone(BASES, both, FP32, ("local",)) == ["int8"]


def test_no_table_is_made_where_any_removal_harms_more_than_a_precision_that_holds_alone() -> None:
    keys = {"size_bytes": 300.0}
    passed = left_out(recipe(), BASES, ["int8"], FP32, keys, analysis(0.5, 0.3))
    assert passed.keys() == {"fp32", "fp16", "int8-dynamic"}
    assert "harms more than int8 alone" in passed["fp32"]
    less = left_out(recipe(), BASES, ["int8"], FP32, keys, analysis(0.5, 0.001))
    assert "fp32" not in less
    assert "fp16" not in less
    assert "fp16 costs no more" in less["int8-dynamic"]


def test_a_precision_alone_that_loses_too_much_quality_leaves_the_others_in_the_race() -> None:
    poor = BASES["int8"].measured
    assert poor is not None
    worse = QUALITY.model_copy(update={"value": 0.8})
    low = BASES["int8"].model_copy(
        update={"measured": poor.model_copy(update={"validation": worse})}
    )
    keys = {"size_bytes": 300.0}
    bases = {**BASES, "int8": low}
    passed = left_out(recipe(), bases, ["int8"], FP32, keys, analysis(0.5, 0.3))
    assert "fp32" not in passed


def test_what_holds_alone_and_keeps_the_floor_goes_before_what_harms_less() -> None:
    """KL and the task's metric may disagree; the plan must not end below the floor beside one that
    does not."""
    best = BASES["fp16"].measured
    assert best is not None
    worse = best.model_copy(update={"validation": QUALITY.model_copy(update={"value": 0.8})})
    bases = {**BASES, "fp16": BASES["fp16"].model_copy(update={"measured": worse})}
    assert enough_alone(BASES, recipe(), FP32, ("local",)) == ("fp16", "int8")
    assert enough_alone(bases, recipe(), FP32, ("local",)) == ("int8", "fp16")


def test_a_precision_that_could_not_be_made_says_why_and_is_not_weighed() -> None:
    bases = {**BASES, "int8": Based(precision="int8", reason="no layer that int8 takes")}
    keys = {"size_bytes": 300.0}
    passed = left_out(recipe(), bases, [], FP32, keys, analysis(0.1))
    assert passed["int8"] == "no layer that int8 takes"


def test_the_least_harmful_plan_wins_and_every_precision_stays_among_the_candidates() -> None:
    choice = Posed(BASES, ("int8",), {}, {"int8-dynamic": "beaten"})
    plans: dict[Precision, Plan] = {
        "int8": plan_alone(recipe(), BASES["int8"], "s"),
        "fp16": plan("fp16", 0.01, "b0"),
        "fp32": plan("fp32", 0.3, "b0", "b1"),
    }
    best = united(choice, plans, {}, 2)
    assert (best.precision, best.removed, best.harm) == ("fp16", ("b0",), 0.01)
    assert [one.precision for one in best.alternatives] == ["fp16", "int8"]
    rows = {row.precision: row for row in best.choices}
    assert [row.precision for row in best.choices][:3] == ["fp16", "int8", "fp32"]
    assert rows["int8"].total == rows["int8"].harm == 0.02
    assert rows["int8-dynamic"].total is None
    assert rows["int8-dynamic"].note == "beaten"


def test_without_a_plan_in_any_precision_the_error_names_them_all() -> None:
    choice = Posed(BASES, (), {}, {})
    refused: dict[Precision, InfeasibleError] = {
        "fp32": InfeasibleError("too large", removed=("b0",)),
        "int8": InfeasibleError("still too large", hint="raise it", removed=("b1",)),
    }
    with pytest.raises(InfeasibleError, match=r"fp32, int8\. In int8: still too large") as caught:
        united(choice, {}, refused, 2)
    assert caught.value.removed == ("b1",)
    assert caught.value.hint == "raise it"
