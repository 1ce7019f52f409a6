"""The plan stage: propose, build, measure on the target, correct, keep what is worth training."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpo.errors import InfeasibleError
from mpo.optimizer.batches import limit
from mpo.optimizer.costs import count_macs
from mpo.optimizer.harm import HarmMeter
from mpo.optimizer.planner import Infeasible, Limit, pareto, solutions
from mpo.optimizer.search import refine
from mpo.pipeline.analysis import HARM_EXAMPLES, near_pairs
from mpo.pipeline.budgets import MEASURED, figure, limits, shown
from mpo.pipeline.context import Context
from mpo.pipeline.costs import items, limits_of, savings
from mpo.pipeline.measuring import Measured, quick_figures
from mpo.pipeline.saved import read, save
from mpo.records import Analysis, Metric, Plan, PlanCandidate

ROUNDS = 5
SEARCH_WORK = 1e12  # multiply-accumulates that the joint search may spend: a minute on one core
FEWEST, MOST = 24, 240
# Planned this far under a limit that is measured with noise, so that the final figure holds too.
MARGIN: dict[Metric, float] = {
    "latency_p50_ms": 0.03,
    "latency_p90_ms": 0.05,
    "memory_bytes": 0.01,
}
DIVERSE = 4  # blocks in which the plans tried by recovery differ at least

Costs = dict[Metric, float]


@dataclass(frozen=True)
class Problem:
    """What the planner works on: the original's figures, the bounds, and each block's worth."""

    context: Context
    analysis: Analysis
    full: Costs
    bounds: Costs
    table: Mapping[str, Mapping[str, float]]

    def targets(self) -> Costs:
        """The bounds less the margin for noise."""
        return {m: bound * (1 - MARGIN.get(m, 0.0)) for m, bound in self.bounds.items()}

    def miss(self, candidate: PlanCandidate) -> float:
        """How far a measured plan is from the bounds."""
        return excess(candidate, self.bounds)

    def limits(self, targets: Mapping[Metric, float]) -> list[Limit]:
        """The targets as the planner takes them."""
        return limits_of(self.full, targets)

    def evaluations(self) -> int:
        """Sets that the joint search may measure: bounded by work, not by the clock, so that a
        slower machine finds the same plan."""
        once = count_macs(self.context.original, self.context.batch) * HARM_EXAMPLES
        return int(min(MOST, max(FEWEST, SEARCH_WORK // max(1, once))))


def make_plan(context: Context, analysis: Analysis, original: Measured) -> Plan:
    """The plan of the run, made once and kept in its folder.

    Raises:
        InfeasibleError: nothing can be removed, or no plan holds every budget.
    """

    def make(folder: Path) -> None:
        save(find_plan(context, analysis, original), folder / "plan.json")

    folder = context.folder.stage("plan", context.key, make)
    return read(Plan, folder / "plan.json")


def find_plan(context: Context, analysis: Analysis, original: Measured) -> Plan:
    """Plans that were built and measured to hold the budgets, before any training."""
    problem = pose(context, analysis, original)
    candidates, notes = settle(problem)
    best = candidates[0]
    return Plan(
        method=context.recipe.method,
        subject=context.subject.name,
        seed=context.recipe.seed,
        removed=best.removed,
        harm=best.joint_kl if best.joint_kl is not None else best.harm,
        alternatives=tuple(candidates),
        pareto=front(problem),
        notes=tuple(notes),
    )


def pose(context: Context, analysis: Analysis, original: Measured) -> Problem:
    """Measure the anchors that the budgets need and share their difference among the blocks."""
    removable = [block.name for block in analysis.blocks if block.removable]
    bounds = limits(context.recipe.budgets(), original.figures)
    full: Costs = {metric: figure(original.figures, metric) for metric in bounds}
    floor: Costs = {}
    if MEASURED & set(bounds):
        context.progress("plan: measure the floor", 0, 1)
        floor = build_and_measure(context, tuple(removable), bounds)
        context.progress("plan: measure the floor", 1, 1)
    return Problem(context, analysis, full, bounds, savings(analysis.blocks, full, floor))


def build_and_measure(context: Context, removed: tuple[str, ...], wanted: Costs) -> Costs:
    """Remove the blocks, export, and measure what the budgets bound; no training."""
    with tempfile.TemporaryDirectory(prefix="mpo-plan-") as folder:
        model = context.without(removed)
        return quick_figures(context, model, Path(folder) / "candidate.onnx", wanted.keys())


def settle(problem: Problem) -> tuple[list[PlanCandidate], list[str]]:
    """Propose and measure until plans hold every bound; bounds that a plan missed are tightened.

    Raises:
        InfeasibleError: no plan is predicted, or measured, to hold them.
    """
    context, aims, notes = problem.context, problem.targets(), list[str]()
    batches = limit(context.calibration(), HARM_EXAMPLES)
    meter = HarmMeter(context.original, batches, context.kind)
    tried: list[PlanCandidate] = []
    for number in range(1, ROUNDS + 1):
        context.progress("plan: search and measure", number - 1, ROUNDS)
        now = [measured(problem, one) for one in propose(problem, meter, aims, tried)]
        held = [one for one in now if excess(one, problem.targets()) <= 1]
        held = held or [one for one in now if excess(one, problem.bounds) <= 1]
        if held:
            context.progress("plan: search and measure", ROUNDS, ROUNDS)
            return held, notes
        tried += now
        notes.append(f"Round {number}: {told(problem, min(now, key=problem.miss))}; aimed lower.")
        aims = tightened(problem, aims, now)
    raise missed(problem, tried)


def measured(problem: Problem, candidate: PlanCandidate) -> PlanCandidate:
    """The candidate with the figures of its built model in the place of predictions."""
    costs = build_and_measure(problem.context, candidate.removed, problem.bounds)
    return candidate.model_copy(update={"costs": {str(m): value for m, value in costs.items()}})


def excess(candidate: PlanCandidate, bounds: Mapping[Metric, float]) -> float:
    """The worst ratio of a figure to its bound: 1 or less when all hold."""
    return max(candidate.costs[m] / bound for m, bound in bounds.items())


def tightened(problem: Problem, aims: Costs, now: Sequence[PlanCandidate]) -> Costs:
    """Aims lowered once by what the round's best candidate measured over the target."""
    best, targets = min(now, key=problem.miss), problem.targets()
    return {m: aim * min(1.0, targets[m] / best.costs[m]) for m, aim in aims.items()}


def propose(
    problem: Problem, meter: HarmMeter, aims: Costs, tried: Sequence[PlanCandidate]
) -> tuple[PlanCandidate, ...]:
    """Plans predicted to hold the targets: exact on the surrogate, refined by joint harm."""
    free, wanted = items(problem.analysis, problem.table), problem.limits(aims)
    near, count = near_pairs(problem.analysis), problem.context.recipe.candidates
    found = solutions(free, wanted, near, count=count + 2)
    if isinstance(found, Infeasible) and not tried:  # the margin may ask for too much
        wanted = problem.limits(problem.bounds)
        found = solutions(free, wanted, near, count=count + 2)
    if isinstance(found, Infeasible):
        raise missed(problem, tried) if tried else infeasible(found, problem)
    return refine(
        meter,
        free,
        wanted,
        [solution.removed for solution in found],
        pairs=near,
        count=count,
        distance=DIVERSE,
        max_evaluations=problem.evaluations(),
    )


def front(problem: Problem) -> tuple[PlanCandidate, ...]:
    """Cost against predicted harm for the first budget, from nothing removed to everything."""
    metric = next(iter(problem.bounds))
    free = items(problem.analysis, problem.table)
    points = pareto(free, problem.limits(problem.bounds), metric, near_pairs(problem.analysis))
    return tuple(
        PlanCandidate(removed=point.removed, harm=point.harm, costs=point.costs) for point in points
    )


def infeasible(found: Infeasible, problem: Problem) -> InfeasibleError:
    """The error for a budget under the floor, with the floor and the closest plan."""
    metric: Metric = found.binding.metric  # type: ignore[assignment]
    removed = found.closest.removed
    return InfeasibleError(
        f"The budget {metric} <= {shown(metric, problem.bounds[metric])} cannot be met: "
        f"{shown(metric, found.floor)} is left of {shown(metric, found.binding.full)} with all "
        f"{len(removed)} removable blocks gone. Closest plan: remove {', '.join(removed)}.",
        hint="Raise that budget above the floor, or shrink what depth cannot: a smaller input "
        "or sequence, a lower precision.",
        removed=removed,
    )


def missed(problem: Problem, tried: Sequence[PlanCandidate]) -> InfeasibleError:
    """The error for plans that were built and measured over a bound."""
    closest = min(tried, key=problem.miss)
    return InfeasibleError(
        f"No plan was measured to hold every budget. Closest: {told(problem, closest)}. "
        f"It removes {', '.join(closest.removed)}.",
        hint="Raise the budget a little; noisy figures are planned with a margin.",
        removed=closest.removed,
    )


def told(problem: Problem, candidate: PlanCandidate) -> str:
    """Measured figures beside their limits."""
    return ", ".join(
        f"{m} {shown(m, candidate.costs[m])} (limit {shown(m, bound)})"
        for m, bound in problem.bounds.items()
    )
