"""Why no plan holds every budget, and what would help: found before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mpo.optimizer.planning.problem import Clusters, Item, Limit, Pairs, Solution, solution
from mpo.optimizer.planning.program import Program
from mpo.optimizer.planning.wording import beside, called, listed, shown

STEPS = 20  # lower costs asked for one after the other; see `least_cost`


@dataclass(frozen=True)
class Infeasible:
    """No set of removals holds every budget.

    Attributes:
        binding: the budget that is missed most: by its floor when it cannot hold alone, else the
            one of `conflict` that the closest plan misses most.
        floor: the lowest cost that `binding` can reach when nothing else counts: every block
            removed that helps it (one of each cluster stays).
        closest: the set that misses the budgets least in total, each by its share of the limit;
            among those that miss none by more, the one of least harm.
        floors: the floor of every budgeted metric.
        conflict: budgets that cannot hold together, though any of them left out the others can: one
            that is below its floor, or several that blocks serve and harm.
        relaxed: per metric the lowest limit that would make all budgets hold, the others left as
            they are; None where relaxing this one alone does not help.
    """

    binding: Limit
    floor: float
    closest: Solution
    floors: Mapping[str, float] = field(default_factory=dict)
    conflict: tuple[Limit, ...] = ()
    relaxed: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def message(self) -> str:
        """One sentence with the numbers."""
        if len(self.conflict) > 1:
            asked = listed([_asked(limit) for limit in self.conflict])
            return f"{asked} contradict each other: no set of removals holds them together."
        metric = self.binding.metric
        floor, limit = beside(metric, self.floor, self.binding.bound)
        return (
            f"{called(metric)} is {shown(metric, self.binding.full)} and cannot come under "
            f"{floor} by removing blocks; the budget is {limit}."
        )

    @property
    def help(self) -> tuple[str, ...]:
        """What would do: each budget that can be relaxed alone, or else all that the closest plan
        misses, together."""
        alone = [
            f"{called(metric)} <= {shown(metric, enough(limit))} would do, the rest as asked"
            for metric, limit in self.relaxed.items()
            if limit is not None
        ]
        costs = self.closest.costs
        together = [
            f"{called(m)} <= {shown(m, enough(costs[m]))}" for m in self.relaxed if m in costs
        ]
        return tuple(alone) or (f"{listed(together)} would do together",)


def enough(limit: float) -> float:
    """The limit in three digits, rounded up: what is shown must do when it is asked for."""
    if limit <= 0:
        return limit
    step = 10.0 ** (math.floor(math.log10(limit)) - 2)
    return math.ceil(limit / step) * step


def _asked(limit: Limit) -> str:
    return f"{called(limit.metric)} <= {shown(limit.metric, limit.bound)}"


def diagnose(
    items: Sequence[Item], limits: Sequence[Limit], pairs: Pairs, clusters: Clusters
) -> Infeasible:
    """What to say about budgets that no set holds.

    Args:
        items: the blocks.
        limits: budgets that `Program` found infeasible.
        pairs: penalties, for the closest plan's harm.
        clusters: sets of blocks of which at least one stays.
    """
    floors = {limit.metric: floor(items, limit, clusters) for limit in limits}
    below = [limit for limit in limits if floors[limit.metric] > limit.bound]
    nearest = closest(items, limits, pairs, clusters)
    if below:
        binding = max(below, key=lambda limit: limit.excess(floors[limit.metric]))
        against: tuple[Limit, ...] = (binding,)
    else:
        against = conflict(items, limits, clusters)
        binding = max(against, key=lambda limit: limit.excess(nearest.costs[limit.metric]))
    relaxed = {
        limit.metric: least_cost(items, limit, [x for x in limits if x != limit], clusters)
        for limit in limits
    }
    return Infeasible(binding, floors[binding.metric], nearest, floors, against, relaxed)


def floor(items: Sequence[Item], limit: Limit, clusters: Clusters = ()) -> float:
    """The lowest cost of one metric when nothing else counts: every block removed that helps, the
    least helpful of each cluster kept if all of them would go."""
    saved = {item.name: item.savings.get(limit.metric, 0.0) for item in items if not item.fixed}
    helpful = {name: value for name, value in saved.items() if value > 0}
    for cluster in clusters:
        if cluster and all(name in helpful for name in cluster):
            del helpful[min(cluster, key=helpful.__getitem__)]
    return limit.cost(list(helpful.values()))


def closest(
    items: Sequence[Item], limits: Sequence[Limit], pairs: Pairs, clusters: Clusters
) -> Solution:
    """The set that misses the limits least in total, and of least harm among those that miss no
    limit by more."""
    nearest = Program(items, limits, pairs, clusters).closest()
    costs = solution(items, limits, pairs, nearest).costs
    reached = [replace(x, limit=max(x.limit, costs[x.metric])) for x in limits]
    best = Program(items, reached, pairs, clusters).next()
    return solution(items, limits, pairs, nearest if best is None else best)


def conflict(
    items: Sequence[Item], limits: Sequence[Limit], clusters: Clusters
) -> tuple[Limit, ...]:
    """Budgets that cannot hold together, while any one of them left out the others can: each budget
    is left out for good when the rest still contradict."""
    kept = list(limits)
    for limit in limits:
        rest = [other for other in kept if other is not limit]
        if rest and not feasible(items, rest, clusters):
            kept = rest
    return tuple(kept)


def feasible(items: Sequence[Item], limits: Sequence[Limit], clusters: Clusters) -> bool:
    """Whether some set holds all limits."""
    harmless = [replace(item, harm=0.0) for item in items]
    return Program(harmless, limits, {}, clusters).next() is not None


def least_cost(
    items: Sequence[Item], limit: Limit, others: Sequence[Limit], clusters: Clusters = ()
) -> float | None:
    """The lowest cost of one metric while the other limits hold; None when they cannot.

    The solver's answer is right to a billionth of the largest saving; then a lower cost is asked
    for, decided exactly, until there is none (at most `STEPS` times: savings that differ by less
    than that in more ways are told apart no further).
    """
    best: float | None = None
    for _ in range(STEPS):
        below = [] if best is None else [replace(limit, limit=_below(limit, best))]
        found = Program(items, [*others, *below], {}, clusters).cheapest(limit.metric)
        if found is None:
            return best
        gone = set(found)
        best = limit.cost([x.savings.get(limit.metric, 0.0) for x in items if x.name in gone])
    return best


def _below(limit: Limit, cost: float) -> float:
    return math.nextafter(cost, -math.inf) if limit.real or abs(cost) >= 2**53 else cost - 1
