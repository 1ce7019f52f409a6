"""Why each block goes or stays: the best plan in which it is decided the other way."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from mpo.optimizer.planning.infeasible import conflict, floor
from mpo.optimizer.planning.planner import alternative
from mpo.optimizer.planning.problem import (
    Clusters,
    Item,
    Limit,
    Pairs,
    Solution,
    check,
    keeps_clusters,
    solution,
)
from mpo.optimizer.planning.wording import called, listed, over
from mpo.records import Reason

TIE = 1e-9  # harms closer than this share of the plan's are equal


def explain(
    items: Sequence[Item],
    limits: Sequence[Limit],
    pairs: Pairs | None,
    clusters: Clusters,
    chosen: Collection[str],
) -> tuple[Reason, ...]:
    """A sentence with numbers for every block that goes and every kept block beside one, in order.

    Args:
        items: the blocks in execution order; `group` tells which are neighbours.
        limits: the budgets that the plan was made for.
        pairs: penalties for removing both blocks of a pair.
        clusters: sets of blocks of which at least one stays.
        chosen: the blocks that the plan removes.

    Raises:
        UsageError: as `planner.solutions`.
        MpoError: the solver gave up.
    """
    check(items, limits, pairs or {}, clusters)
    case = _Case(items, limits, pairs or {}, clusters, frozenset(chosen))
    reasons = []
    for item in items:
        if item.name in case.chosen:
            reasons.append(case.goes(item))
        elif not item.fixed and case.beside_gap(item):
            reasons.append(case.stays(item))
    return tuple(reasons)


@dataclass(frozen=True)
class _Case:
    """The problem and its plan."""

    items: Sequence[Item]
    limits: Sequence[Limit]
    pairs: Pairs
    clusters: Clusters
    chosen: frozenset[str]

    def plan(self, removed: Collection[str]) -> Solution:
        """A set of removals with its harm and costs."""
        return solution(self.items, self.limits, self.pairs, removed)

    def broken(self, removed: Collection[str]) -> str:
        """What a set of removals breaks, in words; empty when it may be."""
        costs = self.plan(removed).costs
        words = [over(x, costs[x.metric]) for x in self.limits if costs[x.metric] > x.limit]
        if not keeps_clusters(self.clusters, removed):
            words.append("no block of its cluster left")
        return listed(words)

    def group(self, item: Item) -> list[Item]:
        """The blocks among which it has neighbours, in execution order."""
        return [other for other in self.items if other.group == item.group]

    def beside_gap(self, item: Item) -> bool:
        """Whether the block before or after it in its group goes."""
        group = self.group(item)
        place = group.index(item)
        around = [*group[max(place - 1, 0) : place], *group[place + 1 : place + 2]]
        return any(other.name in self.chosen for other in around)

    def neighbour(self, item: Item) -> str | None:
        """The nearest block of its group that stays and could go; the earlier of two."""
        group = self.group(item)
        place = group.index(item)
        kept = [
            (abs(n - place), n)
            for n, other in enumerate(group)
            if other.name not in self.chosen and not other.fixed
        ]
        return group[min(kept)[1]].name if kept else None

    def goes(self, item: Item) -> Reason:
        """Why a removed block is removed."""
        name = item.name
        other = alternative(self.items, self.limits, self.pairs, self.clusters, stays=[name])
        if other is None:
            text = f"{name} goes: {self.never_without(item)}."
            return Reason(block=name, removed=True, text=text)
        harm = other.harm - self.plan(self.chosen).harm
        instead = tuple(one for one in other.removed if one not in self.chosen)
        missed = self.broken(self.chosen - {name})
        cause = f", since with it {missed}" if missed else ", though no budget needs it gone"
        place = f" ({listed(instead)} in its place)" if instead else ""
        text = f"{name} goes: {self.price('keeping', harm)}{place}{cause}"
        text += self.swapped(item, instead)
        return Reason(
            block=name, removed=True, text=f"{text}.", harm_difference=harm, instead=instead
        )

    def stays(self, item: Item) -> Reason:
        """Why a kept block beside a gap is kept."""
        name = item.name
        other = alternative(self.items, self.limits, self.pairs, self.clusters, goes=[name])
        if other is None:
            missed = self.broken(self.chosen | {name}) or "the budgets do not hold"
            text = f"{name} stays: no plan that holds the budgets removes it; now {missed}."
            return Reason(block=name, removed=False, text=text)
        harm = other.harm - self.plan(self.chosen).harm
        back = tuple(sorted(self.chosen - set(other.removed), key=self.order))
        place = f" ({listed(back)} would stay in its place)" if back else ""
        text = f"{name} stays: {self.price('removing', harm)}{place}."
        return Reason(block=name, removed=False, text=text, harm_difference=harm, instead=back)

    def order(self, name: str) -> int:
        """A block's place in execution order."""
        return next(place for place, item in enumerate(self.items) if item.name == name)

    def price(self, deed: str, harm: float) -> str:
        """What deciding otherwise costs at best."""
        if abs(harm) <= TIE * max(self.plan(self.chosen).harm, 1e-12):
            return f"{deed} it would be as good by predicted harm"
        if harm < 0:
            return f"{deed} it would be better by predicted harm ({harm:+.2g}), measured it was not"
        return f"{deed} it would cost {harm:+.2g} harm"

    def swapped(self, item: Item, instead: Sequence[str]) -> str:
        """What its nearest kept neighbour in its place would do, when that is not told yet."""
        near = self.neighbour(item)
        if near is None or tuple(instead) == (near,):
            return ""
        removed = self.chosen - {item.name} | {near}
        missed = self.broken(removed)
        if missed:
            return f"; {near} in its place would not do: {missed}"
        harm = self.plan(removed).harm - self.plan(self.chosen).harm
        return f"; {near} alone in its place: {harm:+.2g} harm"

    def never_without(self, item: Item) -> str:
        """Why no plan that holds the budgets keeps the block."""
        held = [replace(x, fixed=x.fixed or x.name == item.name) for x in self.items]
        floors = [(limit, floor(held, limit, self.clusters)) for limit in self.limits]
        words = [over(limit, least) for limit, least in floors if least > limit.bound]
        if words:
            return f"keeping it breaks {listed(words)}, whatever else goes"
        against = conflict(held, self.limits, self.clusters)
        names = listed([called(limit.metric) for limit in against])
        return f"keeping it, {names} cannot hold together, whatever else goes"
