"""Rounds of proposing and measuring, with a table that is wrong about what blocks add."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from mpo.errors import InfeasibleError
from mpo.optimizer.blocks.costs import count_params
from mpo.optimizer.planning.wording import shown
from mpo.pipeline.plan import planning
from mpo.pipeline.plan.aims import ROUNDS
from mpo.pipeline.plan.planning import pose, settle
from mpo.pipeline.plan.problem import Problem
from mpo.pipeline.run.analysis import analyze
from mpo.pipeline.run.context import Context, subject_of
from mpo.pipeline.run.measuring import Measured, measure_model
from mpo.pipeline.run.places import places_of
from mpo.profiles.local import LocalTarget
from mpo.recipe import make_recipe, to_toml
from mpo.records import CostTable, Line, PlanCandidate
from mpo.store import open_run

SUBJECT = Path(__file__).parents[1] / "subjects" / "tiny.py"
KEY: Literal["params"] = "params"
World = tuple[Context, Problem, Measured]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A run whose one budget needs no clock, so that the rounds are the same every time."""
    folder = tmp_path_factory.mktemp("rounds") / "tiny"
    recipe = make_recipe(subject=str(SUBJECT), budget=("params=70%",), threads=1, effort="quick")
    with open_run(folder, to_toml(recipe)) as run:
        places = places_of(recipe, [LocalTarget()])
        context = Context(recipe, subject_of(recipe), run, lambda *step: None, places)
        analysis = analyze(context)
        original = measure_model(context, context.original, folder / "original.onnx", "original")
        yield context, pose(context, analysis, original), original


def mistaken(problem: Problem, factor: float) -> Problem:
    """The problem with a table that says so many times of what the blocks' removal saves."""
    table = problem.tables[""]
    full = table.predict(())[KEY]
    known = table.fits[KEY]
    weight = (full - known.line.intercept) / known.line.slope
    slope = known.line.slope * factor
    line = Line(slope=slope, intercept=full - slope * weight)
    fits = {**table.fits, KEY: known.model_copy(update={"line": line})}
    wrong: CostTable = table.model_copy(update={"fits": fits, "additive": False})
    return replace(problem, tables={"": wrong})


@pytest.mark.parametrize("factor", [0.4, 0.6, 2.5])
def test_a_table_that_is_wrong_either_way_leads_to_the_plan_of_a_right_one(
    world: World, factor: float
) -> None:
    context, problem, original = world
    _, (right, *_), told = settle(context, problem, original)
    assert not told
    wrong = mistaken(problem, factor)
    _, held, notes = settle(context, wrong, original)
    assert held[0].removed == right.removed
    assert notes
    left = count_params(context.without(held[0].removed))
    assert held[0].costs[KEY] == left <= problem.bounds[KEY]


@pytest.mark.case(58)
def test_plans_predicted_to_fit_and_measured_not_to_end_with_what_was_measured(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table says that blocks save three times what they do; the budget is under the floor."""
    context, problem, original = world
    floor = count_params(context.without([harm.name for harm in problem.analysis.harms]))
    below = replace(mistaken(problem, 3.0), bounds={KEY: 0.98 * floor})
    seen: list[PlanCandidate] = []

    def measured(*given: Any) -> PlanCandidate:
        seen.append(planning_measured(*given))
        return seen[-1]

    planning_measured = planning.measured
    monkeypatch.setattr(planning, "measured", measured)
    with pytest.raises(InfeasibleError) as caught:
        settle(context, below, original)
    assert 1 < len(seen) <= ROUNDS * context.recipe.candidates
    closest = min(one.costs[KEY] for one in seen)
    assert closest > below.bounds[KEY]
    assert shown(KEY, closest) in caught.value.message  # what was measured, not what was predicted
