"""Depth and precision together: one exact program per precision, compared by measured joint harm.

A precision is a choice of one among few, and every other decision depends on it through the cost
table alone. So the joint program (precision, blocks) is solved exactly by solving the program of
the blocks once per precision and taking the least total.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpo.errors import InfeasibleError
from mpo.pipeline.plan.aims import harm_of
from mpo.pipeline.plan.bases import Based, Bases, above_floor, bases, dominated, enough_alone
from mpo.pipeline.plan.planning import find_plan, pose
from mpo.pipeline.plan.problem import Problem
from mpo.pipeline.run.analysis import nothing_removable
from mpo.pipeline.run.budgets import limits
from mpo.pipeline.run.context import Context
from mpo.pipeline.run.measuring import Measured
from mpo.pipeline.run.saved import read, save
from mpo.recipe import Recipe
from mpo.records import Analysis, Plan, PlanCandidate, Precision, PrecisionChoice

ALONE = "It holds every budget without any removal."


@dataclass(frozen=True)
class Posed:
    """What there is to choose from.

    Attributes:
        bases: the original in each precision.
        alone: precisions that hold every budget without any removal, the one to take first.
        problems: what the planner works on, per precision that is worth it.
        passed: why the others are not looked at further.
    """

    bases: Bases
    alone: tuple[Precision, ...]
    problems: Mapping[Precision, Problem]
    passed: Mapping[Precision, str]


def posed(context: Context, analysis: Analysis, original: Measured) -> Posed:
    """Measure the original in every precision that is asked for, and a cost table of each one that
    may still give the least harmful plan.

    Raises:
        InfeasibleError: no precision alone holds the budgets, and no block can go.
        UsageError, MpoError: as `bases`.
    """
    recipe = context.recipe
    found = bases(context, original)
    alone = enough_alone(found, recipe, original, context.targets)
    if not alone and not analysis.harms:
        raise nothing_removable(analysis.blocks)
    keys = limits(recipe.budgets(), original.costs(), context.targets)
    problems: dict[Precision, Problem] = {}
    passed = left_out(recipe, found, alone, original, keys, analysis)
    for precision in ("fp32", *found) if recipe.precision == "auto" else tuple(found):
        if precision not in passed and precision not in alone:
            base = found[precision].measured if precision in found else original
            problems[precision] = pose(context, analysis, original, base, precision)
    return Posed(found, alone, problems, passed)


def left_out(
    recipe: Recipe,
    found: Bases,
    alone: Sequence[Precision],
    original: Measured,
    keys: Mapping[str, float],
    analysis: Analysis,
) -> dict[Precision, str]:
    """Precisions whose plans with removals cannot be the least harmful, each with the reason."""
    known: list[Precision] = ["fp32", *found] if recipe.precision == "auto" else [*found]
    reasons: dict[Precision, str] = {p: one.reason for p, one in found.items() if one.reason}
    if recipe.precision == "auto":
        for precision, other in dominated(found, original, keys).items():
            told = f"{other} costs no more in any bounded figure, and harms no more."
            reasons.setdefault(precision, told)
    safe = above_floor(found, alone, original, recipe.allowed_drop())
    least_block = min((harm.kl for harm in analysis.harms), default=float("inf"))
    for precision in known:
        own = found[precision].harm if precision in found else 0.0
        if safe and precision not in alone and own + least_block >= found[safe[0]].harm:
            told = f"Removing any block harms more than {safe[0]} alone."
            reasons.setdefault(precision, told)
    return reasons


def combined_plan(context: Context, choice: Posed, original: Measured) -> Plan:
    """The plan of the run over all its precisions, made once and kept in its folder.

    Raises:
        InfeasibleError: no plan holds every budget in any precision.
    """

    def make(folder: Path) -> None:
        save(_chosen(context, choice, original), folder / "plan.json")

    folder = context.folder.stage("plan", context.key, make)
    return read(Plan, folder / "plan.json")


def _chosen(context: Context, choice: Posed, original: Measured) -> Plan:
    plans: dict[Precision, Plan] = {}
    refused: dict[Precision, InfeasibleError] = {}
    for precision in choice.alone[:1]:
        plans[precision] = plan_alone(context.recipe, choice.bases[precision], context.subject.name)
    for precision, problem in choice.problems.items():
        try:
            plans[precision] = find_plan(context, problem, original)
        except InfeasibleError as error:
            refused[precision] = error
    return united(choice, plans, refused, context.recipe.candidates)


def united(
    choice: Posed,
    plans: Mapping[Precision, Plan],
    refused: Mapping[Precision, InfeasibleError],
    count: int,
) -> Plan:
    """The least harmful of the plans, with the best of every precision first among what recovery
    tries.

    Raises:
        InfeasibleError: there is no plan; the error of the precision that holds least.
    """
    if not plans:
        raise unmet(refused)
    ranked = sorted(plans.values(), key=lambda plan: plan.harm)
    firsts = [one for plan in ranked for one in plan.alternatives[:1]]
    others = sorted((one for plan in ranked for one in plan.alternatives[1:]), key=harm_of)
    best = ranked[0]
    return best.model_copy(
        update={
            "alternatives": tuple([*firsts, *others][: max(count, 1)]),
            "choices": choices(choice, plans, refused),
        }
    )


def unmet(refused: Mapping[Precision, InfeasibleError]) -> InfeasibleError:
    """The error when no precision has a plan."""
    precision, error = list(refused.items())[-1]
    none = f"No plan holds in {', '.join(refused)}. " if len(refused) > 1 else ""
    return InfeasibleError(
        f"{none}In {precision}: {error.message}",
        hint=error.hint,
        removed=error.removed,
    )


def choices(
    choice: Posed, plans: Mapping[Precision, Plan], refused: Mapping[Precision, InfeasibleError]
) -> tuple[PrecisionChoice, ...]:
    """Every precision that was weighed, the best first."""
    known = dict.fromkeys((*plans, *choice.alone, *choice.problems, *choice.bases, *choice.passed))
    rows = []
    for precision in known:
        plan = plans.get(precision)
        note = choice.passed.get(precision, "")
        if precision in choice.alone:
            note = ALONE
        elif precision in refused:
            note = refused[precision].message
        base = choice.bases.get(precision)
        rows.append(
            PrecisionChoice(
                precision=precision,
                harm=base.harm if base else 0.0,
                total=plan.harm if plan else None,
                removed=plan.removed if plan else (),
                note=note,
            )
        )
    return tuple(sorted(rows, key=lambda row: (row.total is None, row.total or 0.0)))


def plan_alone(recipe: Recipe, base: Based, subject: str) -> Plan:
    """The plan that changes nothing but the precision."""
    costs = base.measured.costs() if base.measured else {}
    candidate = PlanCandidate(
        removed=(), harm=0.0, joint_kl=base.harm, costs=costs, measured=True,
        precision=base.precision,
    )  # fmt: skip
    return Plan(
        method=recipe.method,
        subject=subject,
        seed=recipe.seed,
        removed=(),
        harm=base.harm,
        precision=base.precision,
        alternatives=(candidate,),
        notes=(f"{base.precision} alone: {ALONE}",),
    )
