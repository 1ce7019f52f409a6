"""A plan in seconds, from the analysis and the cost tables that a run folder keeps; no model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mpo.errors import UsageError
from mpo.optimizer.planner import Infeasible
from mpo.pipeline.analysis import nothing_removable
from mpo.pipeline.budgets import all_hold, limits
from mpo.pipeline.infeasible import infeasible
from mpo.pipeline.measuring import FIGURES, Measured
from mpo.pipeline.planning import start
from mpo.pipeline.problem import Problem
from mpo.pipeline.saved import read
from mpo.pipeline.table import TABLES, read_tables
from mpo.profiles.device import describe, fingerprint
from mpo.profiles.table import require_fresh
from mpo.profiles.targets import opened
from mpo.recipe import Recipe
from mpo.records import Analysis, Budget, CostTable, Plan, PlanCandidate
from mpo.store import read_manifest

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
    original = read(Measured, finished(run, ORIGINAL) / FIGURES)
    targets = recipe.target
    if all_hold(budgets, original.costs(), targets):
        return nothing_to_do(recipe)
    same_options(run, budgets)
    analysis = read(Analysis, finished(run, ANALYSIS) / "analysis.json")
    if not analysis.harms:
        raise nothing_removable(analysis.blocks)
    tables = read_tables(finished(run, TABLES))
    of_one_piece(run, analysis, tables)
    still_true(tables)
    bounds = limits(budgets, original.costs(), targets)
    problem = Problem(analysis, dict(zip(["", *targets[1:]], tables, strict=True)), bounds)
    knows_all(run, problem)
    found = start(problem, (problem.safe_targets(), problem.bounds), PROPOSALS)
    if isinstance(found, Infeasible):
        raise infeasible(found, problem, "is predicted not to be met")
    best = found.solutions[0]
    return Plan(
        method=recipe.method,
        subject=recipe.subject,
        seed=recipe.seed,
        removed=best.removed,
        harm=best.harm,
        budgets=problem.planned(budgets, best.removed, original.costs()),
        alternatives=tuple(
            PlanCandidate(removed=one.removed, harm=one.harm, costs=one.costs)
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
