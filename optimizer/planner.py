"""Which blocks to remove so that every budget holds at the least predicted harm: an exact program.

Minimise  sum_i harm_i x_i + sum_(i,j) penalty_ij x_i x_j   over x in {0, 1}^n
subject to, for every budget,  full - sum_i saving_i x_i <= limit.

A product x_i x_j with a penalty >= 0 becomes y_ij >= x_i + x_j - 1, y_ij >= 0 (exact for 0/1 x).
HiGHS solves it; since it lets a row be missed by 1e-6, each answer is checked outside and excluded
when it fails. (Savings that differ by less than a millionth can make its presolve miss the optimum,
never a budget.) Next-best answers come from no-good cuts. Costs in whole units are rounded up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from mpo.errors import MpoError, UsageError

Pairs = Mapping[tuple[str, str], float]
OBJECTIVE_SCALE = 1e4  # HiGHS stops within 1e-6 of the optimum: make that small beside any harm
ROW_SCALE = 1e3  # its tolerance of 1e-6 is then a billionth of the largest saving
NEAR_MISSES = 20  # answers that miss a budget by rounding are excluded one by one up to here


@dataclass(frozen=True)
class Item:
    """A block that may go.

    Attributes:
        name: the block.
        harm: predicted harm of removing it alone, >= 0.
        savings: per metric what its removal takes off the cost; 0 when missing, negative when its
            removal makes things worse.
        fixed: it must stay.
    """

    name: str
    harm: float
    savings: Mapping[str, float] = field(default_factory=dict)
    fixed: bool = False


@dataclass(frozen=True)
class Limit:
    """A budget in numbers: the original costs `full`, the plan at most `limit`, in one unit."""

    metric: str
    full: float
    limit: float


@dataclass(frozen=True)
class Solution:
    """Blocks to remove, the surrogate harm, and the predicted cost per budgeted metric."""

    removed: tuple[str, ...]
    harm: float
    costs: dict[str, float]


@dataclass(frozen=True)
class Infeasible:
    """No set of removals holds every budget.

    Attributes:
        binding: the budget that is missed most, by its best reachable cost over its limit.
        floor: that best reachable cost: everything removed that helps this metric.
        closest: what removing every block that may go would cost.
    """

    binding: Limit
    floor: float
    closest: Solution

    @property
    def message(self) -> str:
        """One sentence with the numbers."""
        name, full, limit = self.binding.metric, self.binding.full, self.binding.limit
        reach = f"cannot come under {self.floor:g} by removing blocks"
        return f"{name} is {full:g} and {reach}; the budget is {limit:g}."


def predict(
    items: Sequence[Item], limits: Sequence[Limit], removed: Sequence[str]
) -> dict[str, float]:
    """Cost per budgeted metric once `removed` are gone: full - sum of savings, rounded up.

    Metrics whose name ends in `_ms` are real numbers and stay so; all others count whole things.
    """
    gone = set(removed)
    costs = {}
    for limit in limits:
        saved = (-item.savings.get(limit.metric, 0.0) for item in items if item.name in gone)
        cost = math.fsum([limit.full, *saved])
        costs[limit.metric] = cost if limit.metric.endswith("_ms") else float(math.ceil(cost))
    return costs


def surrogate(items: Sequence[Item], pairs: Pairs, removed: Sequence[str]) -> float:
    """The objective: harms of the removed plus the penalties of pairs that are both removed."""
    gone = set(removed)
    alone = [item.harm for item in items if item.name in gone]
    together = [penalty for (one, other), penalty in pairs.items() if one in gone and other in gone]
    return math.fsum([*alone, *together])


def holds(costs: Mapping[str, float], limits: Sequence[Limit]) -> bool:
    """Whether every budget holds."""
    return all(costs[limit.metric] <= limit.limit for limit in limits)


def solve(
    items: Sequence[Item], limits: Sequence[Limit], pairs: Pairs | None = None
) -> Solution | Infeasible:
    """The best of `solutions`: the least surrogate harm that holds every limit."""
    found = solutions(items, limits, pairs, count=1)
    return found if isinstance(found, Infeasible) else found[0]


def solutions(
    items: Sequence[Item],
    limits: Sequence[Limit],
    pairs: Pairs | None = None,
    *,
    count: int = 5,
    distance: int = 1,
) -> tuple[Solution, ...] | Infeasible:
    """The best sets of removals in order of surrogate harm, each differing from all before it.

    Args:
        items: the blocks.
        limits: the budgets; none means that removing nothing is best.
        pairs: penalty >= 0 for removing both blocks of a pair.
        count: how many sets at most; fewer when there are no more.
        distance: in how many blocks two sets differ at least.

    Raises:
        UsageError: a negative or non-finite harm or penalty, or a pair of unknown names.
        MpoError: the solver gave up.
    """
    program, chosen, near_misses = _Program(items, limits, pairs or {}), list[Solution](), 0
    while len(chosen) < count and (answer := program.next()) is not None:
        costs = predict(items, limits, answer)
        if not holds(costs, limits):  # by less than the solver's tolerance
            program.exclude(answer, 1)
            near_misses += 1
            if near_misses == NEAR_MISSES:
                program.tighten()
            continue
        chosen.append(Solution(answer, surrogate(items, pairs or {}, answer), costs))
        program.exclude(answer, distance)
    return tuple(chosen) if chosen else _explain(items, limits, pairs or {})


def pareto(
    items: Sequence[Item],
    limits: Sequence[Limit],
    metric: str,
    pairs: Pairs | None = None,
    *,
    points: int = 12,
) -> tuple[Solution, ...]:
    """The front of cost in `metric` against surrogate harm, from nothing removed to everything that
    may go.

    Args:
        limits: one entry a metric to predict; their `limit` is not used.
        metric: the cost to trade; must be among `limits`.
        points: how many cost levels, evenly spaced, are solved.

    Returns:
        Solutions none of which is beaten in both cost and harm, in order of falling cost.
    """
    full = next(limit.full for limit in limits if limit.metric == metric)
    floor = _floor(items, Limit(metric, full, full))
    found: list[Solution] = []
    for level in np.linspace(full, floor, points):
        bounds = {metric: float(level)}
        bounded = [replace(limit, limit=bounds.get(limit.metric, math.inf)) for limit in limits]
        answer = solve(items, bounded, pairs)
        if isinstance(answer, Solution) and answer not in found:
            found.append(answer)
    return tuple(one for one in found if not any(_beats(other, one, metric) for other in found))


def _beats(one: Solution, other: Solution, metric: str) -> bool:
    ours, theirs = (one.costs[metric], one.harm), (other.costs[metric], other.harm)
    return ours != theirs and ours[0] <= theirs[0] and ours[1] <= theirs[1]


def _floor(items: Sequence[Item], limit: Limit) -> float:
    helpful = [x.name for x in items if not x.fixed and x.savings.get(limit.metric, 0.0) > 0]
    return predict(items, [limit], helpful)[limit.metric]


def _explain(items: Sequence[Item], limits: Sequence[Limit], pairs: Pairs) -> Infeasible:
    floors = [(_floor(items, limit), limit) for limit in limits]
    floor, binding = max(
        floors, key=lambda one: one[0] / one[1].limit if one[1].limit > 0 else math.inf
    )
    everything = tuple(item.name for item in items if not item.fixed)
    closest = Solution(
        everything, surrogate(items, pairs, everything), predict(items, limits, everything)
    )
    return Infeasible(binding, floor, closest)


class _Program:
    """The program in HiGHS's form; rows grow by one with every excluded answer."""

    def __init__(self, items: Sequence[Item], limits: Sequence[Limit], pairs: Pairs) -> None:
        _check(items, pairs)
        self.items = items
        places = {item.name: place for place, item in enumerate(items)}
        self.pairs = [(places[a], places[b], value) for (a, b), value in pairs.items() if value > 0]
        self.size = len(items) + len(self.pairs)
        cost = np.array([item.harm for item in items] + [value for _, _, value in self.pairs])
        top = float(cost.max(initial=0.0))
        self.cost = cost * (OBJECTIVE_SCALE / top) if top > 0 else cost
        self.rows: list[dict[int, float]] = []
        self.lower: list[float] = []
        self.budgets: list[int] = []
        for limit in limits:
            self._bound(limit)
        for place, (a, b, _) in enumerate(self.pairs, start=len(items)):
            self._require({place: 1.0, a: -1.0, b: -1.0}, -1.0)

    def _require(self, row: dict[int, float], lower: float) -> None:
        self.rows.append(row)
        self.lower.append(lower)

    def _bound(self, limit: Limit) -> None:
        if math.isinf(limit.limit):
            return
        # a cost in whole units holds the limit when its ceiling does, so only whole limits matter
        bound = limit.limit if limit.metric.endswith("_ms") else math.floor(limit.limit)
        needed = limit.full - bound
        savings = {i: item.savings.get(limit.metric, 0.0) for i, item in enumerate(self.items)}
        scale = max(map(abs, [needed, *savings.values()])) / ROW_SCALE or 1.0
        self.budgets.append(len(self.rows))
        self._require({i: value / scale for i, value in savings.items() if value}, needed / scale)

    def tighten(self) -> None:
        """Ask every budget for a little more than the solver's tolerance (1e-6)."""
        for row in self.budgets:
            self.lower[row] += 2e-6

    def exclude(self, removed: Sequence[str], distance: int) -> None:
        """From now on answers differ from `removed` in at least `distance` blocks."""
        gone = set(removed)
        row = {i: -1.0 if item.name in gone else 1.0 for i, item in enumerate(self.items)}
        self._require(row, distance - len(gone))

    def next(self) -> tuple[str, ...] | None:
        """The best answer not yet excluded; None when there is none."""
        if not self.items:
            return None if any(bound > 0 for bound in self.lower) else ()
        upper = [0.0 if item.fixed else 1.0 for item in self.items] + [1.0] * len(self.pairs)
        whole = [1] * len(self.items) + [0] * len(self.pairs)
        result = milp(
            self.cost,
            integrality=np.array(whole),
            bounds=Bounds(np.zeros(self.size), np.array(upper)),
            constraints=self._constraints(),
            options={"mip_rel_gap": 0.0},
        )
        if result.status == 2:
            return None
        if result.x is None or result.status != 0:
            raise MpoError(f"The planner's solver stopped without an answer: {result.message}")
        return tuple(item.name for i, item in enumerate(self.items) if result.x[i] > 0.5)

    def _constraints(self) -> list[LinearConstraint]:
        if not self.rows:
            return []
        table = np.zeros((len(self.rows), self.size))
        for place, row in enumerate(self.rows):
            table[place, list(row)] = list(row.values())
        return [LinearConstraint(csr_array(table), lb=np.array(self.lower), ub=np.inf)]


def _check(items: Sequence[Item], pairs: Pairs) -> None:
    names = {item.name for item in items}
    for item in items:
        if not (math.isfinite(item.harm) and item.harm >= 0):
            raise UsageError(f"The harm of {item.name!r} is {item.harm}: it must be a number >= 0.")
    for (one, other), penalty in pairs.items():
        if not {one, other} <= names or one == other:
            raise UsageError(f"The pair ({one!r}, {other!r}) is not two of the {len(names)} items.")
        if not (math.isfinite(penalty) and penalty >= 0):
            raise UsageError(
                f"The penalty of ({one!r}, {other!r}) is {penalty}: it must be a number >= 0."
            )
