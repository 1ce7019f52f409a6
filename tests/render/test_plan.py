"""A plan on a terminal and its fronts as drawings."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET

import pytest
from rich.console import Console

from mpo.records import Front, FrontPoint, Plan, PlanCandidate, PlannedBudget, Reason
from mpo.render.front import front, named
from mpo.render.plan import plan_table

HOSTILE = "[red]x[/red]<script>\x1b[31m"


def point(count: int, cost: float, harm: float) -> FrontPoint:
    return FrontPoint(removed=tuple(f"layer1.{i}" for i in range(count)), cost=cost, harm=harm)


def front_of(metric: str = "latency_p90_ms", chosen: FrontPoint | None = None) -> Front:
    points = tuple(point(n, 12.5 - 2 * n, 0.1 * n * n) for n in range(4))
    return Front(metric=metric, points=points, chosen=chosen or points[2], least=points[2].harm)


def plan_of(name: str = "layer1.0", **changes: object) -> Plan:
    fields: dict[str, object] = {
        "method": "mpruner",
        "subject": "s.py",
        "seed": 0,
        "removed": (name, "layer1.1"),
        "harm": 0.4,
        "alternatives": (
            PlanCandidate(removed=(name, "layer1.1"), harm=0.4, costs={"pi memory_bytes": 31.2e6}),
            PlanCandidate(removed=("layer2.5",), harm=0.7, joint_kl=0.65, costs={"params": 1e6}),
        ),
        "fronts": (front_of(),),
        "reasons": (
            Reason(block=name, removed=True, text=f"{name} goes: keeping it would cost +0.1 harm."),
            Reason(block="layer1.2", removed=False, text="layer1.2 stays: it would cost more."),
        ),
        "notes": ("Round 1: aimed lower.",),
    }
    return Plan.model_validate({"schema": "mpo.plan/1", **fields, **changes})


def printed(plan: Plan) -> str:
    console = Console(file=io.StringIO(), width=140, force_terminal=False)
    console.print(plan_table(plan))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_plan_is_told_with_its_alternatives_front_and_reasons() -> None:
    text = printed(plan_of())
    assert text.startswith("2 blocks go: layer1.0-1\n")
    assert "Peak memory on pi" in text
    assert "31.2 MB" in text
    assert "Joint KL" in text
    assert "Harm against latency p90" in text
    assert "layer1.0 goes: keeping it would cost +0.1 harm." in text
    assert "layer1.2 stays" in text
    assert "Round 1: aimed lower." in text
    lines = [line for line in text.splitlines() if line.startswith("chosen")]
    assert ["8.5 ms" in line for line in lines] == [False, True]


def test_a_chosen_plan_above_the_front_has_its_own_line() -> None:
    above = FrontPoint(removed=("layer9",), cost=9.0, harm=0.9)
    text = printed(plan_of(fronts=(front_of(chosen=above),)))
    rows = [line.split()[0] for line in text.splitlines() if " ms " in line]
    assert rows[2] == "chosen"
    assert "layer9" in text


def test_budgets_are_told_with_what_is_predicted_and_how_far_off_it_may_be() -> None:
    budget = PlannedBudget(
        text="12ms",
        target="pi",
        metric="latency_p90_ms",
        limit=12.0,
        predicted=11.2,
        margin=0.4,
    )
    over = budget.model_copy(update={"target": "local", "predicted": 12.9, "margin": 0.0})
    assert "12ms: Latency p90 predicted 11.2 ms ± 400 us <= 12 ms" in printed(
        plan_of(budgets=(budget,))
    )
    text = printed(plan_of(budgets=(budget, over)))
    assert "12ms: Latency p90 on pi predicted 11.2 ms" in text
    assert "12ms: Latency p90 on local predicted 12.9 ms > 12 ms" in text


def test_a_plan_that_removes_nothing_says_so() -> None:
    text = printed(plan_of(removed=(), harm=0.0, alternatives=(), fronts=(), reasons=(), notes=()))
    assert text.startswith("Nothing goes.")


def test_nothing_in_a_name_is_obeyed() -> None:
    text = printed(plan_of(HOSTILE))
    assert "[red]x[/red]<script>" in text
    assert "\x1b" not in text


def test_the_drawing_marks_the_chosen_plan_on_the_front() -> None:
    drawn = front(front_of())
    assert drawn is not None
    root = ET.fromstring(drawn)
    classes = [node.get("class") for node in root.iter()]
    assert classes.count("ring") == 1
    assert classes.count("dot chosen") == 1
    assert classes.count("dot on") == 3
    assert classes.count("front") == 1
    assert "The chosen plan, ringed: 8.5 ms, harm 0.4." in drawn


def test_the_drawing_tells_the_least_harm_when_the_chosen_plan_lies_above() -> None:
    drawn = front(front_of(chosen=FrontPoint(removed=("a",), cost=9.0, harm=0.9)))
    assert drawn is not None
    assert "harm 0.9; 0.4 is the least at that cost." in drawn
    assert drawn.count("dot on") == 4


def test_the_front_falls_in_steps() -> None:
    drawn = front(front_of())
    assert drawn is not None
    path = next(node.get("d") for node in ET.fromstring(drawn).iter() if node.get("d"))
    assert path is not None
    assert (path[0], path.count("H"), path.count("V"), path.count("L")) == ("M", 3, 3, 0)


@pytest.mark.parametrize("chosen", [None, point(0, 12.5, 0.0)])
def test_one_point_is_no_drawing(chosen: FrontPoint | None) -> None:
    assert front(Front(metric="params", points=(point(0, 12.5, 0.0),), chosen=chosen)) is None


def test_names_of_targets_in_drawings_are_escaped() -> None:
    drawn = front(front_of(metric="<script> latency_p90_ms"))
    assert drawn is not None
    assert "<script>" not in drawn
    ET.fromstring(drawn)


def test_metrics_are_named_with_their_target() -> None:
    assert named("latency_p90_ms") == "Latency p90"
    assert named("ssh://pi memory_bytes") == "Peak memory on ssh://pi"
    assert named("watts") == "watts"
