"""The plan stage: propose, build, measure on the targets, correct, keep what is worth training."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mpo.optimizer.analysis.harm import HarmMeter
from mpo.optimizer.blocks.costs import count_macs
from mpo.optimizer.planning.planner import Infeasible, Solution, solutions
from mpo.optimizer.planning.search import refine, spread
from mpo.pipeline.plan.aims import ROUNDS, better, closer, corrected, harm_of, holding, loose, tale
from mpo.pipeline.plan.infeasible import infeasible, missed
from mpo.pipeline.plan.problem import Problem
from mpo.pipeline.plan.table import cost_tables
from mpo.pipeline.run.analysis import HARM_EXAMPLES, harm_meter
from mpo.pipeline.run.budgets import Costs, limits
from mpo.pipeline.run.context import Context
from mpo.pipeline.run.measuring import Measured, quick_figures
from mpo.pipeline.run.saved import read, save
from mpo.pipeline.run.shipping import file_harm, ship
from mpo.records import Analysis, Plan, PlanCandidate, Precision

SEARCH_WORK = 1e12  # multiply-accumulates that the joint search may spend: a minute on one core
FEWEST, MOST = 24, 240
DIVERSE = 4  # blocks in which the plans tried by recovery differ at least
EXPLAINED = 40  # blocks, beyond which only `mpo plan --explain` tells reasons
LIMIT = "--time-limit"  # begins what is told of work that was left out
SPARE = 2  # proposals beyond those that are tried, for the joint search to start from


def make_plan(context: Context, analysis: Analysis, original: Measured) -> Plan:
    """The plan of the run, made once and kept in its folder.

    Raises:
        InfeasibleError: nothing can be removed, or no plan holds every budget.
    """
    problem = pose(context, analysis, original)

    def make(folder: Path) -> None:
        save(find_plan(context, problem, original), folder / "plan.json")

    folder = context.folder.stage("plan", context.key, make)
    return read(Plan, folder / "plan.json")


def pose(
    context: Context,
    analysis: Analysis,
    original: Measured,
    base: Measured | None = None,
    precision: Precision = "fp32",
) -> Problem:
    """The run's problem in a precision, with a cost table of every target.

    Args:
        base: the original in that precision; None for fp32, where it is the original itself.
    """
    bounds = limits(context.recipe.budgets(), original.costs(), context.targets)
    metrics = {budget.metric for budget in context.recipe.budgets()}
    tables = cost_tables(context, analysis, base or original, metrics, precision)
    labels = ["", *context.targets[1:]]
    return Problem(analysis, dict(zip(labels, tables, strict=True)), bounds, precision)


def find_plan(context: Context, problem: Problem, original: Measured) -> Plan:
    """Plans that were built and measured to hold the budgets, before any training."""
    settled, candidates, notes = settle(context, problem, original)
    best, costs = candidates[0], original.costs()
    return Plan(
        method=context.recipe.method,
        subject=context.subject.name,
        seed=context.recipe.seed,
        removed=best.removed,
        harm=harm_of(best),
        precision=problem.precision,
        alternatives=candidates,
        budgets=settled.planned(context.recipe.budgets(), best.removed, costs),
        fronts=settled.fronts(best.removed),
        reasons=settled.reasons(best.removed, settled.targets()) if few(settled) else (),
        notes=tuple(notes),
        cut=tuple(note for note in notes if note.startswith(LIMIT)),
    )


def few(problem: Problem) -> bool:
    """Whether reasons take seconds: up to 0.2 s for each block (benchmarks/planner.py)."""
    return len(problem.analysis.harms) <= EXPLAINED


def settle(
    context: Context, problem: Problem, original: Measured
) -> tuple[Problem, tuple[PlanCandidate, ...], list[str]]:
    """Propose and measure until plans hold every bound and remove no more than they must; each
    round's figures correct the tables and the aims. Once the time is over, the
    plans that hold by then are taken.

    Returns:
        The problem with the corrected tables, the plans that hold, and what there is to tell.

    Raises:
        InfeasibleError: no plan is predicted, or measured, to hold the bounds.
    """
    aims, notes = problem.safe_targets(), problem.notes()
    meter = harm_meter(context)
    tried: list[PlanCandidate] = []
    held: tuple[PlanCandidate, ...] = ()
    for number in range(1, ROUNDS + 1):
        context.progress("plan: search and measure", number - 1, ROUNDS)
        proposed = propose(context, problem, meter, aims, tried)
        now = [measured(context, problem, original, one) for one in better(proposed, held)]
        tried += now
        held = spread(holding(problem, tried), context.recipe.candidates, DIVERSE)
        best = held[0] if held else None
        if not now or (best is not None and best in now and not loose(problem, aims, now, best)):
            break
        if best is not None and context.deadline.over():
            notes.append(
                f"{LIMIT} {context.recipe.time_limit}: the search for plans ended in round "
                f"{number} of {ROUNDS}, with room to spare."
            )
            break
        notes.append(f"Round {number}: {tale(problem, now, best)}")
        problem, aims = corrected(problem, aims, tried, now, best, rounds=number)
    context.progress("plan: search and measure", ROUNDS, ROUNDS)
    if not held:
        raise missed(problem, tried)
    return problem, held, notes


def measured(
    context: Context, problem: Problem, original: Measured, candidate: PlanCandidate
) -> PlanCandidate:
    """The candidate, built and measured without training, with its figures in the place of
    predictions; in another precision than fp32 so is its harm, as the file answers."""
    precision, found = problem.precision, dict[str, object]()
    with tempfile.TemporaryDirectory(prefix="mpo-plan-") as folder:
        model = context.without(candidate.removed)
        path = Path(folder) / "candidate.onnx"
        costs = quick_figures(context, model, path, original, problem.bounds.keys(), precision)
        if precision != "fp32":
            if not path.is_file():  # only counts were asked for
                ship(context, model, path, precision)
            found = {"precision": precision, "joint_kl": file_harm(context, path)}
    return candidate.model_copy(update={"costs": costs, "measured": True, **found})


def propose(
    context: Context,
    problem: Problem,
    meter: HarmMeter,
    aims: Costs,
    tried: Sequence[PlanCandidate],
) -> tuple[PlanCandidate, ...]:
    """Plans predicted to hold the aims: exact on the surrogate, refined by joint harm.

    Where none is predicted to hold the bounds themselves, the closest one is still built once when
    the tables may be that far off: a prediction alone calls no budget infeasible.
    """
    known = {one.removed for one in tried}
    count = context.recipe.candidates
    begun = start(problem, (aims, closer(problem, tried)), count + SPARE)
    if isinstance(begun, Infeasible):
        begun = nearly(problem, begun, tried)
    best = refine(
        meter,
        problem.items(),
        problem.limits(begun.aims),
        [solution.removed for solution in begun.solutions],
        pairs=problem.pairs,
        clusters=begun.clusters,
        count=count + len(known),
        distance=DIVERSE,
        max_evaluations=evaluations(context),
    )
    fresh = [one for one in best if one.removed not in known][:count]
    return tuple(fresh)


@dataclass(frozen=True)
class Start:
    """The exact program's answers, best first, with the aims and clusters that they hold."""

    solutions: tuple[Solution, ...]
    aims: Costs
    clusters: tuple[tuple[str, ...], ...] = ()


def start(problem: Problem, aims: Sequence[Costs], count: int) -> Start | Infeasible:
    """The best sets of removals that are predicted to hold the first of these aims that any set
    holds. Clusters may be emptied only when no set that keeps one of each holds an aim.
    """
    items, pairs = problem.items(), problem.pairs
    found: tuple[Solution, ...] | Infeasible = ()
    for wanted in aims:
        for clusters in dict.fromkeys((problem.clusters, ())):
            limits_now = problem.limits(wanted)
            found = solutions(items, limits_now, pairs, clusters=clusters, count=count)
            if not isinstance(found, Infeasible):
                return Start(found, wanted, clusters)
    return found if isinstance(found, Infeasible) else Start((), problem.bounds)


def nearly(problem: Problem, found: Infeasible, tried: Sequence[PlanCandidate]) -> Start:
    """The closest plan as a start; it is built unless the tables put even it out of reach: by more
    than they may be off, and by more than the empty model was measured below their lines.

    Raises:
        InfeasibleError: it is out of reach.
    """
    costs, full, fits = found.closest.costs, problem.predicted(()), problem.fits()
    low = {
        key: costs[key] - (fits[key].margin + max(fits[key].jump, 0.0)) * full[key]
        for key in problem.bounds
    }
    if not tried and any(low[key] > bound for key, bound in problem.bounds.items()):
        raise infeasible(found, problem)
    aims = {key: max(aim, costs[key]) for key, aim in closer(problem, tried).items()}
    return Start((found.closest,), aims)


def evaluations(context: Context) -> int:
    """Sets that the joint search may measure: bounded by work, not by the clock, so that a slower
    machine finds the same plan."""
    once = count_macs(context.original, context.batch) * HARM_EXAMPLES
    return int(min(MOST, max(FEWEST, SEARCH_WORK // max(1, once))))
