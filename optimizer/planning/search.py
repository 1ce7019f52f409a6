"""From predicted to true harm: a search over sets of removals whose joint harm is measured by
forward passes.

Harms of single blocks do not add up (two blocks may each stand in for the other), so the planner's
sets are starting points. The search removes one block at a time, each time the one that costs the
least *joint* harm for the part of the missing budget that it pays, measured anew after every
removal; then, from each starting point in turn, it gives blocks back that the budgets can spare and
exchanges a removed block for a kept one while that lowers the joint harm and every budget holds.
Every set measured on the way is a candidate; the best ones that differ in enough blocks are
returned, because what fine-tuning can recover shows only there. No randomness: the same inputs give
the same plans.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from itertools import product
from typing import Protocol

from mpo.optimizer.planning.planner import (
    Clusters,
    Infeasible,
    Item,
    Limit,
    Pairs,
    holds,
    keeps_clusters,
    predict,
    solutions,
    surrogate,
)
from mpo.records import PlanCandidate

Removal = frozenset[str]
COUNT_METRIC = "blocks"  # stands in for a budget when there is none
MARGIN = 1e-9  # an exchange must gain more than rounding


class Meter(Protocol):
    """Whatever can tell the joint harm of a set of removals; `harm.HarmMeter` does."""

    def kl(self, removed: Collection[str]) -> float:
        """The joint harm of removing all of `removed`."""
        ...


def refine(
    meter: Meter,
    items: Sequence[Item],
    limits: Sequence[Limit],
    starts: Iterable[Collection[str]] = (),
    *,
    pairs: Pairs | None = None,
    clusters: Clusters = (),
    count: int = 5,
    distance: int = 2,
    max_evaluations: int = 200,
    shortlist: int = 8,
) -> tuple[PlanCandidate, ...]:
    """Plans that hold every limit, by measured joint harm, the best first.

    Args:
        meter: measures joint harm; asked for at most `max_evaluations` different sets.
        items: the blocks; fixed ones stay.
        limits: the budgets. Without any, plans remove as many blocks as the largest of `starts`.
        starts: sets to begin from beside the greedy one: the planner's answers, the paper's
            removals. Those that miss a limit are passed over.
        pairs: penalties for the surrogate harm that is reported beside the measured one.
        clusters: sets of blocks of which at least one stays.
        count: plans to return at most.
        distance: in how many blocks two returned plans differ at least (an exchange makes 2).
        max_evaluations: bounds the time: one forward pass over the calibration data each.
        shortlist: blocks measured per greedy step, the most promising by their last known harm.

    Returns:
        Plans in order of joint harm; empty when no set holds the limits.
    """
    given = [frozenset(start) for start in starts]
    bounds = list(limits) or _by_count(items, given)
    counted = items if limits else [_counted(item) for item in items]
    proposed = solutions(counted, bounds, pairs, clusters=clusters, count=count, distance=distance)
    if isinstance(proposed, Infeasible):
        return ()
    rules = (pairs or {}, clusters)
    search = _Search(meter, counted, bounds, rules, max(1, max_evaluations), shortlist)
    known = [
        one
        for one in [*(frozenset(solution.removed) for solution in proposed), *given]
        if search.feasible(one) and search.measure(one) is not None
    ]
    known.append(search.spare(search.greedy()))
    for start in sorted(known, key=lambda one: (search.known[one], search.sort(one))):
        search.exchange(start)
    return spread(search.candidates([limit.metric for limit in limits]), count, distance)


class _Search:
    """What has been measured so far, and the moves."""

    def __init__(
        self,
        meter: Meter,
        items: Sequence[Item],
        limits: Sequence[Limit],
        rules: tuple[Pairs, Clusters],
        evaluations: int,
        shortlist: int,
    ) -> None:
        self.meter, self.items, self.limits = meter, items, limits
        self.pairs, self.clusters = rules
        self.left, self.shortlist = evaluations, shortlist
        self.free = {item.name: item for item in items if not item.fixed}
        self.order = {item.name: place for place, item in enumerate(items)}
        self.known: dict[Removal, float] = {frozenset(): 0.0}

    def measure(self, removed: Removal) -> float | None:
        """Joint harm, measured once; None when the evaluations are spent."""
        if removed not in self.known:
            if self.left <= 0:
                return None
            self.left -= 1
            self.known[removed] = self.meter.kl(self.sort(removed))
        return self.known[removed]

    def sort(self, removed: Collection[str]) -> tuple[str, ...]:
        """Names in execution order."""
        return tuple(sorted(removed, key=lambda name: self.order[name]))

    def costs(self, removed: Removal) -> dict[str, float]:
        """Predicted cost per limited metric."""
        return predict(self.items, self.limits, self.sort(removed))

    def allowed(self, removed: Removal) -> bool:
        """Whether only free blocks go and one of every cluster stays."""
        return removed <= self.free.keys() and keeps_clusters(self.clusters, removed)

    def feasible(self, removed: Removal) -> bool:
        """Whether the set is allowed and every budget holds."""
        return self.allowed(removed) and holds(self.costs(removed), self.limits)

    def gains(self, removed: Removal) -> dict[str, float]:
        """Per block that pays: the share of what the budgets miss that its removal saves."""
        costs = self.costs(removed)
        missing = {x: costs[x.metric] - x.limit for x in self.limits if costs[x.metric] > x.limit}
        paid = {
            name: sum(
                min(item.savings.get(x.metric, 0.0), rest) / max(x.full - x.limit, rest)
                for x, rest in missing.items()
            )
            for name, item in self.free.items()
            if name not in removed and self.allowed(removed | {name})
        }
        return {name: gain for name, gain in paid.items() if gain > 0}

    def greedy(self) -> Removal:
        """Remove the block of least added harm per budget paid, until the budgets hold."""
        removed: Removal = frozenset()
        added = {name: item.harm for name, item in self.free.items()}
        while not self.feasible(removed):
            now, gains = self.known[removed], self.gains(removed)
            likely = sorted(gains, key=lambda name: (added[name] / gains[name], self.order[name]))
            measured = []
            for name in likely[: self.shortlist]:
                then = self.measure(removed | {name})
                if then is None:
                    return removed
                added[name] = max(then - now, 0.0)
                measured.append((added[name] / gains[name], then, self.order[name], name))
            if not measured:
                return removed
            removed |= {min(measured)[-1]}
        return removed

    def spare(self, removed: Removal) -> Removal:
        """Give back blocks that the budgets can spare, best first, while that lowers the harm."""
        while True:
            smaller = [removed - {name} for name in self.sort(removed)]
            known = [(self.measure(s), self.sort(s)) for s in smaller if self.feasible(s)]
            better = [
                (kl, names) for kl, names in known if kl is not None and kl < self.known[removed]
            ]
            if not better:
                return removed
            removed = frozenset(min(better)[1])

    def exchange(self, start: Removal) -> None:
        """Move to a better neighbour, likeliest first, until there is none or nothing is left."""
        here, moved = start, self.feasible(start)
        while moved:
            moved = False
            for there in self.neighbours(here):
                kl = self.measure(there)
                if kl is None:
                    return
                if kl < self.known[here] - MARGIN:
                    here, moved = self.spare(there), True
                    break

    def neighbours(self, removed: Removal) -> list[Removal]:
        """Every feasible set one exchange or one further removal away, by surrogate harm."""
        kept = [name for name in self.free if name not in removed]
        swapped = [removed - {back} | {gone} for back, gone in product(self.sort(removed), kept)]
        allowed = [one for one in [*swapped, *(removed | {n} for n in kept)] if self.feasible(one)]
        ranks = {one: surrogate(self.items, self.pairs, list(one)) for one in allowed}
        return sorted(allowed, key=lambda one: (ranks[one], self.sort(one)))

    def candidates(self, metrics: Sequence[str]) -> list[PlanCandidate]:
        """Every measured set that holds the budgets, the least joint harm first."""
        held = sorted(
            (kl, len(one), self.sort(one)) for one, kl in self.known.items() if self.feasible(one)
        )
        return [
            PlanCandidate(
                removed=names,
                harm=surrogate(self.items, self.pairs, names),
                joint_kl=kl,
                costs={metric: self.costs(frozenset(names))[metric] for metric in metrics},
            )
            for kl, _, names in held
        ]


def _by_count(items: Sequence[Item], starts: Sequence[Removal]) -> list[Limit]:
    """Without budgets: remove at least as many blocks as the largest start."""
    most = max((len(start) for start in starts), default=0)
    return [Limit(COUNT_METRIC, len(items), len(items) - most)]


def _counted(item: Item) -> Item:
    return replace(item, savings={**item.savings, COUNT_METRIC: 1.0})


def spread(plans: Sequence[PlanCandidate], count: int, distance: int) -> tuple[PlanCandidate, ...]:
    """The first `count` plans that differ from all before in at least `distance` blocks."""
    chosen: list[PlanCandidate] = []
    for plan in plans:
        removed = set(plan.removed)
        if all(len(removed ^ set(other.removed)) >= distance for other in chosen):
            chosen.append(plan)
        if len(chosen) == count:
            break
    return tuple(chosen)
