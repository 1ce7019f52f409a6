"""The 0/1 program behind the planner, solved with HiGHS and yet without tolerance.

Minimise  sum_i harm_i x_i + sum_(i,j) penalty_ij x_i x_j   over x in {0, 1}^n
subject to the budgets, at least one block of every cluster staying, and what was excluded.

A product x_i x_j with a penalty >= 0 becomes y_ij >= x_i + x_j - 1, y_ij >= 0 (exact for 0/1 x).
HiGHS works with tolerances; two steps around it take them out:

* Budgets are first given as relaxed rows (`budgetrows`), which lose no set that holds them. When an
  answer misses a budget in whole numbers, that budget's exact digits are added and HiGHS is asked
  again. An answer that passes is the best of a larger set than is allowed, so it is the best.
* HiGHS stops within 1e-6 of the optimum. Once an answer of harm U is known, no block and no pair
  above U can be part of a better one: they are shut out, the rest is scaled up, and HiGHS is asked
  again until 1e-6 is less than a billionth of what it found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial

from mpo.errors import MpoError
from mpo.optimizer.planning.budgetrows import BASE, Inequality, inequality
from mpo.optimizer.planning.highs import Model
from mpo.optimizer.planning.problem import Clusters, Item, Limit, Pairs, surrogate

SCALE = 1e6  # the objective's largest coefficient
ENOUGH = 1e5  # an objective of this much is right to a billionth
ROUNDS = 100  # every round decides a budget exactly or brings the harm down at least tenfold
TINY = 1e-290  # smaller harms count as this where they are scaled
SLACK_ROW = 1e3  # the largest saving in a row with slack


class Program:
    """The program; rules grow by one with every excluded answer.

    Args:
        items: the blocks; fixed ones stay.
        limits: the budgets.
        pairs: penalties for removing both of two blocks.
        clusters: sets of blocks of which at least one stays.
        gone: blocks that must be removed.
    """

    def __init__(
        self,
        items: Sequence[Item],
        limits: Sequence[Limit],
        pairs: Pairs,
        clusters: Clusters = (),
        gone: Collection[str] = (),
    ) -> None:
        self.items, self.limits, self.pairs = items, limits, pairs
        self.places = {item.name: place for place, item in enumerate(items)}
        self.gone = {self.places[name] for name in gone}
        found = [inequality(items, limit) for limit in limits]
        self.budgets = [one for one in found if one is not None and not one.always]
        self.exact: set[int] = set()  # budgets whose digits are in the program
        self.rules = [
            ({self.places[name]: -1.0 for name in cluster}, 1.0 - len(cluster))
            for cluster in clusters
            if cluster
        ]

    def exclude(self, removed: Collection[str], distance: int) -> None:
        """From now on answers differ from `removed` in at least `distance` blocks."""
        gone = set(removed)
        row = {i: -1.0 if item.name in gone else 1.0 for i, item in enumerate(self.items)}
        self.rules.append((row, float(distance - len(gone))))

    def next(self) -> tuple[str, ...] | None:
        """The best answer not yet excluded; None when there is none.

        Raises:
            MpoError: the solver gave up.
        """
        best: tuple[str, ...] | None = None
        known = math.inf
        for _ in range(ROUNDS):
            scale = self._scale(known)
            answer = self._exactly(partial(self._least_harm, known, scale))
            if answer is None:
                return best
            harm = surrogate(self.items, self.pairs, answer)
            if harm < known:
                best, known = answer, harm
            if known == 0 or known * scale >= ENOUGH:
                return best
        raise MpoError(f"The planner's solver found no answer in {ROUNDS} rounds.")

    def cheapest(self, metric: str) -> tuple[str, ...] | None:
        """The answer that saves most of `metric`, to a billionth of the largest saving, whatever
        its harm; None when there is none."""
        saved = [item.savings.get(metric, 0.0) for item in self.items]
        top = max(map(abs, saved), default=0.0) or 1.0

        def ask() -> list[float] | None:
            model = self._blocks([-value / top * SCALE for value in saved], math.inf)
            self._budgets(model)
            return model.solve()

        return self._exactly(ask)

    def closest(self) -> tuple[str, ...]:
        """The set that misses the budgets least in total (`problem.excess`, before whole units are
        rounded up), to a billionth of the largest saving; the budgets do not bind it."""
        model = self._blocks([0.0] * len(self.items), math.inf)
        scales = [self._slack_scale(limit) for limit in self.limits]
        worth = [1 / scale / limit.unit for scale, limit in zip(scales, self.limits, strict=True)]
        for limit, scale, value in zip(self.limits, scales, worth, strict=True):
            if not math.isinf(limit.limit):
                slack = model.column(value / max(worth) * SCALE, 0.0, math.inf, whole=False)
                row = {
                    place: item.savings.get(limit.metric, 0.0) * scale
                    for place, item in enumerate(self.items)
                    if not item.fixed
                }
                model.require({**row, slack: 1.0}, (limit.full - limit.bound) * scale)
        return self._names(model.solve() or [0.0] * len(self.items))

    def _slack_scale(self, limit: Limit) -> float:
        saved = [abs(item.savings.get(limit.metric, 0.0)) for item in self.items if not item.fixed]
        return SLACK_ROW / (max(saved, default=0.0) or 1.0)

    def _exactly(self, ask: Callable[[], list[float] | None]) -> tuple[str, ...] | None:
        """Ask until the answer holds every budget in whole numbers; None when there is none."""
        if any(budget.never for budget in self.budgets):
            return None
        while (found := ask()) is not None:
            answer = [place for place in range(len(self.items)) if found[place] > 0.5]
            missed = {n for n, one in enumerate(self.budgets) if not one.holds(answer)}
            if not missed:
                return self._names(found)
            if missed <= self.exact:
                raise MpoError("The planner's solver misses a budget that it was given exactly.")
            self.exact |= missed
        return None

    def _names(self, columns: Sequence[float]) -> tuple[str, ...]:
        return tuple(item.name for place, item in enumerate(self.items) if columns[place] > 0.5)

    def _scale(self, known: float) -> float:
        """What harms are multiplied by, those above `known` left out."""
        harms = [item.harm for item in self.items if not item.fixed] + [*self.pairs.values()]
        top = max((harm for harm in harms if harm <= known), default=0.0)
        return SCALE / max(top, TINY) if top > 0 else 1.0

    def _least_harm(self, known: float, scale: float) -> list[float] | None:
        """HiGHS's columns of least harm with blocks and pairs above `known` shut out."""
        model = self._blocks([item.harm * scale for item in self.items], known * scale)
        for (one, other), penalty in self.pairs.items():
            if penalty > 0:
                free = penalty <= known
                both = model.column(penalty * scale if free else 0.0, 0.0, free, whole=False)
                row = {both: 1.0, self.places[one]: -1.0, self.places[other]: -1.0}
                model.require(row, -1.0)
        self._budgets(model)
        return model.solve()

    def _blocks(self, costs: Sequence[float], known: float) -> Model:
        """A model with a column for every block and the rules; those that cost more than `known`
        stay."""
        model = Model()
        for place, (item, cost) in enumerate(zip(self.items, costs, strict=True)):
            must = place in self.gone
            free = must or not (item.fixed or cost > known)
            model.column(cost if free else 0.0, must, free, whole=True)
        for row, needed in self.rules:
            model.require(row, needed)
        return model

    def _budgets(self, model: Model) -> None:
        for number, budget in enumerate(self.budgets):
            for row in budget.first():
                model.require(row.weights, row.needed)
            if number in self.exact:
                self._digits(model, budget)

    def _digits(self, model: Model, budget: Inequality) -> None:
        carry = -1
        for row in budget.digits():
            weights = dict(row.weights)
            if row.carry_in:
                weights[carry] = 1.0
            if row.carry_out:
                carry = model.column(0.0, -1.0, len(self.items) + 1.0, whole=True)
                weights[carry] = -float(BASE)
            model.require(weights, row.needed)
