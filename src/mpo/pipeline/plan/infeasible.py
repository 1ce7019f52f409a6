"""Errors for budgets that cannot be met: what binds, the floor, the closest plan, what helps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mpo.errors import InfeasibleError
from mpo.optimizer.planning.planner import Infeasible
from mpo.optimizer.planning.wording import called, shown
from mpo.pipeline.plan.problem import Problem
from mpo.records import PlanCandidate


def infeasible(
    found: Infeasible, problem: Problem, verdict: str = "cannot be met"
) -> InfeasibleError:
    """The error for budgets that no plan is predicted to hold: what binds, with its floor; the
    closest plan; what would help."""
    removed = found.closest.removed
    floors = ", ".join(f"{called(key)} {shown(key, floor)}" for key, floor in found.floors.items())
    costs = ", ".join(
        f"{called(key)} {shown(key, cost)}" for key, cost in found.closest.costs.items()
    )
    total = len(problem.analysis.harms)
    return InfeasibleError(
        f"The budget {verdict}: {found.message} What no removal can touch needs at least: "
        f"{floors} ({total} blocks may go). Closest plan: {costs}; it removes "
        f"{', '.join(removed) or 'nothing'}.",
        hint="; ".join(
            (
                *found.help,
                "or shrink what depth cannot: a smaller input or sequence, a lower precision.",
            )
        ),
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


def figures(costs: Mapping[str, float]) -> str:
    """ "latency p90 12 ms, memory 31.2 MB"."""
    return ", ".join(f"{called(key)} {shown(key, cost)}" for key, cost in costs.items())


def told(problem: Problem, candidate: PlanCandidate) -> str:
    """Measured figures beside their limits."""
    return ", ".join(
        f"{called(key)} {shown(key, candidate.costs[key])} (limit {shown(key, bound)})"
        for key, bound in problem.bounds.items()
    )
