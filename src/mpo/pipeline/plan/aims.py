"""What the next round of planning aims at, from what was predicted and what was measured. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from mpo.pipeline.plan.infeasible import told
from mpo.pipeline.plan.problem import Problem, excess
from mpo.pipeline.plan.table import refitted
from mpo.pipeline.run.budgets import Costs
from mpo.records import PlanCandidate

BELOW = 1e-6  # relative, so that a plan that missed is not asked for again
ROUNDS = 5
LOOSE = 0.9  # of a target, or of what must be saved: below is room for a block that need not go


def holding(problem: Problem, tried: Sequence[PlanCandidate]) -> list[PlanCandidate]:
    """The measured plans that hold every bound, with the margin for noise when any does; the least
    harm first."""
    safe = [one for one in tried if excess(one, problem.targets()) <= 1]
    held = safe or [one for one in tried if excess(one, problem.bounds) <= 1]
    return sorted(held, key=harm_of)


def harm_of(candidate: PlanCandidate) -> float:
    """The joint harm, or its estimate where none was measured."""
    return candidate.harm if candidate.joint_kl is None else candidate.joint_kl


def better(
    proposed: Sequence[PlanCandidate], held: Sequence[PlanCandidate]
) -> tuple[PlanCandidate, ...]:
    """The proposals that are worth measuring beside the plans in hand."""
    return tuple(one for one in proposed if not held or harm_of(one) < harm_of(held[0]))


def loose(problem: Problem, aims: Costs, now: Sequence[PlanCandidate], held: PlanCandidate) -> bool:
    """Whether a plan that holds leaves room under every target, and another round may use it: aims
    that follow its figures ask for that much less, or plans of less harm missed beside it."""
    if excess(held, problem.targets()) >= LOOSE:
        return False
    meant, full = followed(problem, held), problem.predicted(())
    less = any(full[key] - meant[key] < LOOSE * (full[key] - aim) for key, aim in aims.items())
    return less or bool(better(now, [held]))


def corrected(
    problem: Problem,
    aims: Costs,
    tried: Sequence[PlanCandidate],
    now: Sequence[PlanCandidate],
    held: PlanCandidate | None = None,
    *,
    rounds: int = 1,
) -> tuple[Problem, Costs]:
    """Tables that go through what was measured where they may be trusted, and the aims that follow.

    Args:
        tried: all measured plans.
        now: those of this round.
        held: the plan in hand. With one, nothing is lost by aiming high: a plan that misses is
            dropped, and the next aim is halfway down to the plan in hand.
        rounds: rounds so far.
    """
    if problem.additive:
        problem = problem.with_tables(refitted(problem.tables, tried))
    if held is None:
        return problem, lowered(problem, aims, now, rounds)
    if held in now:
        return problem, again(problem, tried, held)
    said = problem.predicted(held.removed)
    return problem, {key: (aim + min(aim, said[key])) / 2 for key, aim in aims.items()}


def lowered(problem: Problem, aims: Costs, now: Sequence[PlanCandidate], rounds: int) -> Costs:
    """Aims after rounds without a plan that holds: what the corrected tables call safe; where
    blocks do not add up, what follows the round's best plan.

    Correction alone can chase noise until the rounds are over, so from the second round on aims
    also go down towards the least that any plan may take, and reach it in the last: budgets are
    called infeasible only after that plan was measured too.
    """
    best, targets = min(now, key=problem.miss), problem.targets()
    meant = problem.safe_targets() if problem.additive else followed(problem, best)
    least = problem.predicted([harm.name for harm in problem.analysis.harms])
    share = max(0, rounds - 1) / (ROUNDS - 2)
    found: Costs = {}
    for key, aim in aims.items():
        over = best.costs[key] > targets[key]
        lower = min(aim, meant[key]) if over or problem.additive else aim
        found[key] = lower - share * max(0.0, lower - least[key]) if over else lower
    return found


def again(problem: Problem, tried: Sequence[PlanCandidate], held: PlanCandidate) -> Costs:
    """Aims that follow the plan in hand, below what was predicted of plans that missed."""
    meant, targets = followed(problem, held), problem.targets()
    found: Costs = {}
    for key, target in targets.items():
        missed = [problem.predicted(x.removed)[key] for x in tried if x.costs[key] > target]
        found[key] = min([meant[key], *(one * (1 - BELOW) for one in missed)])
    return found


def followed(problem: Problem, known: PlanCandidate) -> Costs:
    """What the tables say of a plan that would measure its targets, if what removals save were as
    far off everywhere as for this measured plan; tables go through the whole model's figure."""
    full, said, targets = problem.predicted(()), problem.predicted(known.removed), problem.targets()
    found: Costs = {}
    for key, target in targets.items():
        saved, told = full[key] - known.costs[key], full[key] - said[key]
        if saved > 0 < told:
            found[key] = full[key] - (full[key] - target) * told / saved
        else:  # nothing was saved, or nothing was to be: only the level says something
            found[key] = said[key] * target / known.costs[key] if known.costs[key] else target
    return found


def closer(problem: Problem, tried: Sequence[PlanCandidate]) -> Costs:
    """The bounds, lowered by what the tables said too little of the plans that missed them: what
    still may hold when the aims, which keep a margin, are out of reach."""
    said = [(one.costs, problem.predicted(one.removed)) for one in tried]
    return {
        key: bound
        * min([1.0, *(told[key] / costs[key] for costs, told in said if costs[key] > bound)])
        for key, bound in problem.bounds.items()
    }


def tale(problem: Problem, now: Sequence[PlanCandidate], held: PlanCandidate | None) -> str:
    """What a round measured that was not the last one."""
    if held is not None and held in now:
        return f"{told(problem, held)}; holds with room to spare, so fewer blocks may do."
    best = min(now, key=problem.miss)
    return f"{told(problem, best)}; aimed lower."
