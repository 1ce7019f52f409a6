"""What each level of a cost takes in harm, and where the chosen plan lies."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from mpo.optimizer.planning.planner import pareto
from mpo.optimizer.planning.problem import Clusters, Item, Limit, Pairs, Solution, solution
from mpo.records import Front, FrontPoint


def front(
    items: Sequence[Item],
    metric: str,
    full: float,
    chosen: Collection[str],
    pairs: Pairs | None = None,
    *,
    clusters: Clusters = (),
    points: int = 12,
) -> Front:
    """The front of one cost against surrogate harm, with the chosen plan's place.

    Args:
        items: the blocks.
        metric: the cost; every block's `savings` tell it, 0 where they do not.
        full: the original's cost.
        chosen: the blocks that the plan removes.
        pairs: penalties for removing both blocks of a pair.
        clusters: sets of blocks of which at least one stays.
        points: how many levels, evenly spaced from `full` to the floor, are solved beside the
            chosen plan's own.
    """
    free = [Limit(metric, full, math.inf)]
    ours = _point(solution(items, free, pairs or {}, chosen), metric)
    solved = pareto(
        items, free, metric, pairs, points=points, clusters=clusters, levels=(ours.cost,)
    )
    found = tuple(_point(one, metric) for one in solved)
    under = [point.harm for point in found if point.cost <= ours.cost]
    return Front(metric=metric, points=found, chosen=ours, least=min(under, default=None))


def _point(one: Solution, metric: str) -> FrontPoint:
    return FrontPoint(removed=one.removed, harm=one.harm, cost=one.costs[metric])
