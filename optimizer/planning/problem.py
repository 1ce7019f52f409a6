"""The planner's problem in numbers: blocks with harms and savings, budgets, penalties, clusters.

A plan's cost is a correctly rounded sum, in whole units rounded up, so that two ways of asking give
the same number and a budget holds or does not hold without tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from mpo.errors import UsageError

Pairs = Mapping[tuple[str, str], float]
Clusters = Sequence[Collection[str]]
LARGEST = 1e300  # sums of a few hundred such numbers are still finite


@dataclass(frozen=True)
class Item:
    """A block that may go.

    Attributes:
        name: the block.
        harm: predicted harm of removing it alone, >= 0.
        savings: per metric what its removal takes off the cost; 0 when missing, negative when its
            removal makes things worse.
        fixed: it must stay.
        group: blocks of one group stand in a row and are alike in shape; explanations compare
            neighbours of one group.
    """

    name: str
    harm: float
    savings: Mapping[str, float] = field(default_factory=dict)
    fixed: bool = False
    group: str = ""


@dataclass(frozen=True)
class Limit:
    """A budget in numbers: the original costs `full`, the plan at most `limit`, in one unit.

    Metrics whose name ends in `_ms` are real numbers; all others count whole things, so that a
    limit between two whole numbers is the lower one.
    """

    metric: str
    full: float
    limit: float

    @property
    def real(self) -> bool:
        """Whether costs of this metric are real numbers, not whole ones."""
        return self.metric.endswith("_ms")

    @property
    def bound(self) -> float:
        """The highest cost that the limit allows."""
        return self.limit if self.real or math.isinf(self.limit) else float(math.floor(self.limit))

    @property
    def unit(self) -> float:
        """What an excess is divided by to compare budgets: the bound, the full cost for none."""
        return self.bound if self.bound > 0 else (abs(self.full) or 1.0)

    def excess(self, cost: float) -> float:
        """How far a cost is over the bound, as a share of it; 0 when the budget holds."""
        return max(0.0, cost - self.bound) / self.unit

    def cost(self, savings: Sequence[float]) -> float:
        """The cost once `savings` are taken off: rounded once, whole units rounded up."""
        left = math.fsum([self.full, *(-saved for saved in savings)])
        return left if self.real else float(math.ceil(left))


@dataclass(frozen=True)
class Solution:
    """Blocks to remove, the surrogate harm, and the predicted cost per budgeted metric."""

    removed: tuple[str, ...]
    harm: float
    costs: dict[str, float]


def predict(
    items: Sequence[Item], limits: Sequence[Limit], removed: Collection[str]
) -> dict[str, float]:
    """Cost per budgeted metric once `removed` are gone: full - sum of savings, rounded up.

    Metrics whose name ends in `_ms` are real numbers and stay so; all others count whole things.
    """
    gone = set(removed)
    return {
        limit.metric: limit.cost(
            [item.savings.get(limit.metric, 0.0) for item in items if item.name in gone]
        )
        for limit in limits
    }


def surrogate(items: Sequence[Item], pairs: Pairs, removed: Collection[str]) -> float:
    """The objective: harms of the removed plus the penalties of pairs that are both removed."""
    gone = set(removed)
    alone = [item.harm for item in items if item.name in gone]
    together = [penalty for (one, other), penalty in pairs.items() if one in gone and other in gone]
    return math.fsum([*alone, *together])


def holds(costs: Mapping[str, float], limits: Sequence[Limit]) -> bool:
    """Whether every budget holds."""
    return all(costs[limit.metric] <= limit.limit for limit in limits)


def keeps_clusters(clusters: Clusters, removed: Collection[str]) -> bool:
    """Whether at least one block of every cluster stays."""
    gone = set(removed)
    return all(not set(cluster) <= gone for cluster in clusters if cluster)


def excess(costs: Mapping[str, float], limits: Sequence[Limit]) -> float:
    """The total of what the costs are over their limits, each as a share of its limit."""
    return math.fsum(limit.excess(costs[limit.metric]) for limit in limits)


def solution(
    items: Sequence[Item], limits: Sequence[Limit], pairs: Pairs, removed: Collection[str]
) -> Solution:
    """The set `removed`, in the order of `items`, with its harm and costs."""
    gone = set(removed)
    names = tuple(item.name for item in items if item.name in gone)
    return Solution(names, surrogate(items, pairs, names), predict(items, limits, names))


def check(items: Sequence[Item], limits: Sequence[Limit], pairs: Pairs, clusters: Clusters) -> None:
    """Refuse a problem that makes no sense.

    Raises:
        UsageError: a negative or non-finite harm or penalty; a saving or cost that is no finite
            number; two budgets of one metric with different full costs; a pair or cluster of
            unknown names; a block in two clusters.
    """
    names = {item.name for item in items}
    if len(names) < len(items):
        twice = next(x.name for n, x in enumerate(items) if x.name in {y.name for y in items[:n]})
        raise UsageError(f"The block {twice!r} is listed twice.")
    for item in items:
        if not 0 <= item.harm <= LARGEST:
            raise UsageError(f"The harm of {item.name!r} is {item.harm}: it must be a number >= 0.")
    _check_limits(items, limits)
    for (one, other), penalty in pairs.items():
        if not {one, other} <= names or one == other:
            raise UsageError(f"The pair ({one!r}, {other!r}) is not two of the {len(names)} items.")
        if not 0 <= penalty <= LARGEST:
            raise UsageError(
                f"The penalty of ({one!r}, {other!r}) is {penalty}: it must be a number >= 0."
            )
    _check_clusters(names, clusters)


def _check_limits(items: Sequence[Item], limits: Sequence[Limit]) -> None:
    full: dict[str, float] = {}
    for limit in limits:
        if full.setdefault(limit.metric, limit.full) != limit.full:
            raise UsageError(
                f"Two budgets for {limit.metric!r} start from different costs: "
                f"{full[limit.metric]} and {limit.full}."
            )
        if not (abs(limit.full) <= LARGEST and _is_bound(limit.limit)):
            raise UsageError(
                f"The budget {limit.metric!r} bounds {limit.full} by {limit.limit}: "
                "both must be numbers."
            )
        for item in items:
            saved = item.savings.get(limit.metric, 0.0)
            if not abs(saved) <= LARGEST:
                raise UsageError(
                    f"Removing {item.name!r} saves {saved} of {limit.metric!r}: no finite number."
                )


def _is_bound(value: float) -> bool:
    return abs(value) <= LARGEST or value == math.inf


def _check_clusters(names: Collection[str], clusters: Clusters) -> None:
    seen: set[str] = set()
    for cluster in clusters:
        for name in cluster:
            if name not in names:
                raise UsageError(
                    f"A cluster names {name!r}, which is not among the {len(names)} items."
                )
            if name in seen:
                raise UsageError(f"The block {name!r} is listed twice in the clusters.")
            seen.add(name)
