"""Which blocks to remove so that every budget holds at the least predicted harm: an exact program.

Minimise  sum_i harm_i x_i + sum_(i,j) penalty_ij x_i x_j   over x in {0, 1}^n
subject to, for every budget,  full - sum_i saving_i x_i <= limit,  costs in whole units rounded up;
and for every cluster  sum_(i in cluster) x_i <= size - 1.

Clusters bound what may merge: their blocks stand in for one another, so one of them stays. The
published algorithm keeps the first, its anchor; here the budgets and harms choose which.

The answer is exact (`program`): a budget holds or does not hold in whole numbers, and no set that
holds all has a harm lower by more than a billionth. Budgets that no set holds are told apart before
anything is trained (`infeasible`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from mpo.optimizer.planning.infeasible import Infeasible, diagnose, floor
from mpo.optimizer.planning.problem import (
    Clusters,
    Item,
    Limit,
    Pairs,
    Solution,
    check,
    holds,
    keeps_clusters,
    predict,
    solution,
    surrogate,
)
from mpo.optimizer.planning.program import Program

__all__ = [
    "Clusters",
    "Infeasible",
    "Item",
    "Limit",
    "Pairs",
    "Solution",
    "alternative",
    "holds",
    "keeps_clusters",
    "pareto",
    "predict",
    "solutions",
    "solve",
    "surrogate",
]


def solve(
    items: Sequence[Item],
    limits: Sequence[Limit],
    pairs: Pairs | None = None,
    *,
    clusters: Clusters = (),
) -> Solution | Infeasible:
    """The best of `solutions`: the least surrogate harm that holds every limit."""
    found = solutions(items, limits, pairs, count=1, clusters=clusters)
    return found if isinstance(found, Infeasible) else found[0]


def solutions(
    items: Sequence[Item],
    limits: Sequence[Limit],
    pairs: Pairs | None = None,
    *,
    count: int = 5,
    distance: int = 1,
    clusters: Clusters = (),
) -> tuple[Solution, ...] | Infeasible:
    """The best sets of removals in order of surrogate harm, each differing from all before it.

    Args:
        items: the blocks.
        limits: the budgets; none means that removing nothing is best.
        pairs: penalty >= 0 for removing both blocks of a pair.
        count: how many sets at most; fewer when there are no more.
        distance: in how many blocks two sets differ at least.
        clusters: sets of blocks, none in two of them, of which at least one block stays.

    Raises:
        UsageError: a number that is none, a negative harm or penalty, an unknown name in a pair or
            cluster (`problem.check`).
        MpoError: the solver gave up.
    """
    pairs = pairs or {}
    check(items, limits, pairs, clusters)
    program, chosen = Program(items, limits, pairs, clusters), list[Solution]()
    while len(chosen) < count and (answer := program.next()) is not None:
        chosen.append(solution(items, limits, pairs, answer))
        program.exclude(answer, distance)
    return tuple(chosen) if chosen else diagnose(items, limits, pairs, clusters)


def alternative(
    items: Sequence[Item],
    limits: Sequence[Limit],
    pairs: Pairs,
    clusters: Clusters = (),
    *,
    stays: Collection[str] = (),
    goes: Collection[str] = (),
) -> Solution | None:
    """The best set in which the blocks of `stays` stay and those of `goes` go; None without one."""
    held = [replace(item, fixed=item.fixed or item.name in stays) for item in items]
    answer = Program(held, limits, pairs, clusters, goes).next()
    return None if answer is None else solution(items, limits, pairs, answer)


def pareto(
    items: Sequence[Item],
    limits: Sequence[Limit],
    metric: str,
    pairs: Pairs | None = None,
    *,
    points: int = 12,
    clusters: Clusters = (),
    levels: Sequence[float] = (),
) -> tuple[Solution, ...]:
    """The front of cost in `metric` against surrogate harm, from nothing removed to everything that
    may go.

    Args:
        limits: one entry a metric to predict; their `limit` is not used.
        metric: the cost to trade; must be among `limits`.
        points: how many cost levels, evenly spaced, are solved.
        clusters: sets of blocks of which at least one stays.
        levels: further costs to solve for.

    Returns:
        Solutions none of which is beaten in both cost and harm, in order of falling cost.
    """
    pairs = pairs or {}
    check(items, limits, pairs, clusters)
    free = [replace(limit, limit=math.inf) for limit in limits]
    traded = next(limit for limit in limits if limit.metric == metric)
    lowest = floor(items, traded, clusters)
    wanted = {float(level) for level in np.linspace(traded.full, lowest, points)}
    found: dict[tuple[str, ...], Solution] = {}
    for level in sorted(wanted | {one for one in levels if one >= lowest}, reverse=True):
        answer = Program(items, [replace(traded, limit=level)], pairs, clusters).next()
        if answer is not None:
            found[answer] = solution(items, free, pairs, answer)
    front = [x for x in found.values() if not any(_beats(y, x, metric) for y in found.values())]
    return tuple(sorted(front, key=lambda one: (-one.costs[metric], one.harm)))


def _beats(one: Solution, other: Solution, metric: str) -> bool:
    ours, theirs = (one.costs[metric], one.harm), (other.costs[metric], other.harm)
    return ours != theirs and ours[0] <= theirs[0] and ours[1] <= theirs[1]
