"""A plan in seconds, from the analysis and the cost tables that a run folder keeps; no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mpo.errors import InfeasibleError, UsageError
from mpo.optimizer.planning.planner import Infeasible
from mpo.pipeline.plan.bases import PRECISIONS, enough_alone, read_bases
from mpo.pipeline.plan.combining import Posed, left_out, plan_alone, united
from mpo.pipeline.plan.infeasible import infeasible
from mpo.pipeline.plan.planning import start
from mpo.pipeline.plan.problem import Problem
from mpo.pipeline.plan.table import read_tables, stage_of
from mpo.pipeline.run.analysis import nothing_removable
from mpo.pipeline.run.budgets import all_hold, limits
from mpo.pipeline.run.measuring import FIGURES, Measured
from mpo.pipeline.run.saved import read
from mpo.profiles.device import describe, fingerprint
from mpo.profiles.table import require_fresh
from mpo.profiles.targets import opened
from mpo.recipe import Recipe
from mpo.records import Analysis, Budget, CostTable, Plan, PlanCandidate, Precision
from mpo.stages import read_manifest

ORIGINAL, ANALYSIS, SESSION = "original", "analysis", "session"
PROPOSALS = 5


def dry_run(run: Path, recipe: Recipe, *, explain: bool = False) -> Plan:
    """The best plan for these budgets by the saved tables; nothing is built, trained or written.

    Args:
        run: a run folder whose first stages are finished.
        recipe: the run's own, with the budgets that are asked for now.
        explain: say for each block why it goes and not its neighbour; an exact solve for each.

    Raises:
        UsageError: no budget, or a stage that the plan needs is not there.
        BaselineError: this machine is no longer the one that was measured.
        InfeasibleError: no plan is predicted to hold the budgets.
    """
    budgets = recipe.budgets()
    if not budgets:
        raise UsageError("No budget is given.", hint="Add --budget 50MB (or 12ms, 50%).")
    original = read_original(run)
    free = recipe.precision in ("fp32", "auto")
    if free and all_hold(budgets, original.costs(), recipe.target):
        return nothing_to_do(recipe)
    same_options(run, budgets)
    analysis = read(Analysis, finished(run, ANALYSIS) / "analysis.json")
    if recipe.precision == "fp32":
        if not analysis.harms:
            raise nothing_removable(analysis.blocks)
        problem = problem_of(run, recipe, analysis, original, "fp32")
        return predicted_plan(recipe, problem, original, explain=explain)
    choice = saved_choice(run, recipe, analysis, original)
    plans: dict[Precision, Plan] = {
        p: plan_alone(recipe, choice.bases[p], recipe.subject) for p in choice.alone[:1]
    }
    refused: dict[Precision, InfeasibleError] = {}
    for precision, problem in choice.problems.items():
        own = choice.bases[precision].harm if precision in choice.bases else 0.0
        try:
            plans[precision] = predicted_plan(recipe, problem, original, own, explain=explain)
        except InfeasibleError as error:
            refused[precision] = error
    return united(choice, plans, refused, PROPOSALS)


def read_original(run: Path) -> Measured:
    """The original's figures in a run folder."""
    return read(Measured, finished(run, ORIGINAL) / FIGURES)


def problem_of(
    run: Path, recipe: Recipe, analysis: Analysis, original: Measured, precision: Precision
) -> Problem:
    """The problem of a precision from its saved tables."""
    tables = read_tables(finished(run, stage_of(precision)))
    of_one_piece(run, analysis, tables)
    still_true(tables)
    bounds = limits(recipe.budgets(), original.costs(), recipe.target)
    labels = ["", *recipe.target[1:]]
    problem = Problem(analysis, dict(zip(labels, tables, strict=True)), bounds, precision)
    knows_all(run, problem)
    return problem


def saved_choice(run: Path, recipe: Recipe, analysis: Analysis, original: Measured) -> Posed:
    """What a run folder holds of each precision. A table that was not made was not worth it for
    the budgets of then; the reason is told."""
    found = read_bases(finished(run, PRECISIONS))
    alone = enough_alone(found, recipe, original, recipe.target)
    keys = limits(recipe.budgets(), original.costs(), recipe.target)
    passed = left_out(recipe, found, alone, original, keys, analysis)
    problems: dict[Precision, Problem] = {}
    for precision in ("fp32", *found) if recipe.precision == "auto" else tuple(found):
        if precision in passed or precision in alone:
            continue
        if read_manifest(run / "stages" / stage_of(precision)) is None:
            passed[precision] = "The folder holds no cost table of it."
            continue
        problems[precision] = problem_of(run, recipe, analysis, original, precision)
    if not alone and not analysis.harms:
        raise nothing_removable(analysis.blocks)
    if not alone and not problems:
        raise nothing_to_go_by(run, passed)
    return Posed(found, alone, problems, passed)


def nothing_to_go_by(run: Path, passed: Mapping[Precision, str]) -> UsageError:
    """The error for a folder whose tables say nothing of these budgets."""
    reasons = " ".join(f"{precision}: {reason}" for precision, reason in passed.items())
    return UsageError(
        f"{run} holds no cost table for these budgets. {reasons}",
        hint="Make them: mpo plan SUBJECT --budget ... -o ANOTHER_FOLDER.",
    )


def predicted_plan(
    recipe: Recipe, problem: Problem, original: Measured, own: float = 0.0, *, explain: bool
) -> Plan:
    """The best plan by a precision's tables.

    Args:
        own: harm of the precision alone; it is added to that of the removals.

    Raises:
        InfeasibleError: none is predicted to hold the budgets.
    """
    budgets = recipe.budgets()
    found = start(problem, (problem.safe_targets(), problem.bounds), PROPOSALS)
    if isinstance(found, Infeasible):
        raise infeasible(found, problem, "is predicted not to be met")
    best = found.solutions[0]
    return Plan(
        method=recipe.method,
        subject=recipe.subject,
        seed=recipe.seed,
        removed=best.removed,
        harm=best.harm + own,
        precision=problem.precision,
        budgets=problem.planned(budgets, best.removed, original.costs()),
        alternatives=tuple(
            PlanCandidate(
                removed=one.removed,
                harm=one.harm + own,
                costs=one.costs,
                precision=problem.precision,
            )
            for one in found.solutions
        ),
        fronts=problem.fronts(best.removed),
        reasons=problem.reasons(best.removed, found.aims) if explain else (),
        notes=tuple(problem.notes()),
    )


def still_true(tables: Sequence[CostTable]) -> None:
    """Refuse tables of this machine as it was before it changed. Devices over ssh are not asked:
    their fingerprints are checked when something is built and measured there.

    Raises:
        BaselineError: another processor, runtime, power mode, ...
    """
    here = [table for table in tables if table.target.startswith("local")]
    with opened([table.target for table in here]) as targets:
        for table, target in zip(here, targets, strict=True):
            require_fresh(table, fingerprint(describe(target)))


def knows_all(run: Path, problem: Problem) -> None:
    """Refuse a budget on something that the tables were not made for."""
    lacking = problem.bounds.keys() - problem.fits().keys()
    if lacking:
        raise UsageError(
            f"The cost table in {run} knows nothing of {', '.join(sorted(lacking))}.",
            hint="Make another: mpo plan SUBJECT with such a budget, -o ANOTHER_FOLDER.",
        )


def nothing_to_do(recipe: Recipe) -> Plan:
    """The plan for budgets that the original holds already."""
    told = "The original holds every budget already."
    return Plan(
        method=recipe.method,
        subject=recipe.subject,
        seed=recipe.seed,
        removed=(),
        harm=0.0,
        notes=(told,),
    )


def same_options(run: Path, budgets: Sequence[Budget]) -> None:
    """Refuse a memory budget against figures that were taken without one: the runtime's options
    that lower the peak are chosen only for it."""
    asked = any(budget.metric == "memory_bytes" for budget in budgets)
    if asked and read_manifest(run / "stages" / SESSION) is None:
        raise UsageError(
            f"{run} was measured without a memory budget, with the runtime's default options.",
            hint="mpo plan SUBJECT --budget memory=... -o ANOTHER_FOLDER",
        )


def of_one_piece(run: Path, analysis: Analysis, tables: Sequence[CostTable]) -> None:
    """Refuse stages of different runs, as a killed one leaves them."""
    blocks = {harm.name for harm in analysis.harms}
    if any({unit.name for unit in table.units} != blocks for table in tables):
        raise UsageError(
            f"The analysis and the cost tables in {run} are not of one run.",
            hint="Finish it: mpo plan SUBJECT --budget ..., or mpo optimize.",
        )


def finished(run: Path, stage: str) -> Path:
    """The folder of a stage that is whole.

    Raises:
        UsageError: it is not there, or damaged.
    """
    folder = run / "stages" / stage
    if read_manifest(folder) is None:
        raise UsageError(
            f"{run} holds no finished stage {stage!r}.",
            hint="Make it: mpo plan SUBJECT --budget ..., or mpo optimize.",
        )
    return folder
