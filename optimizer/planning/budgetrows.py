"""Budgets as inequalities between whole numbers, so that a solver with tolerances decides exactly.

A floating-point number is a whole number times a power of two. So `cost <= limit` is an inequality
sum_i w_i x_i >= needed between whole numbers, without any error. A solver cannot be given whole
numbers of 60 bits: it misses rows by 1e-6. Two forms of the row are made for it:

* *rough*: divided by its largest weight and relaxed by a millionth. No set that holds the budget is
  lost; a few that miss it by a hair may pass, and are told apart outside.
* *digits*: with w_i = sum_l a_il B^l and needed = sum_l n_l B^l the inequality holds if and only if
  there are whole carries c_l (c_0 = 0, none out of the last) with
  sum_i a_il x_i + c_l - B c_(l+1) >= n_l  for every digit l.
  (Take c_(l+1) = floor((sum_i a_il x_i + c_l - n_l) / B), the most that a digit can hand on; the
  other direction is the sum of all rows, each times B^l.) All numbers are small, and a set that
  misses the budget misses some row by a whole unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from mpo.optimizer.planning.problem import Item, Limit

BASE = 2**13
WHOLE = 2**16  # up to here one row of whole numbers is exact for the solver
ROUGH = 1e3  # the largest weight of a rough row
SLACK = 1e-3  # and what it is relaxed by: a thousand times the solver's tolerance
UNIT = 0.5  # rows of whole numbers are relaxed by half a unit


@dataclass(frozen=True)
class Row:
    """sum_i weights[i] x_i (+ the carry of the row before) (- BASE times a carry of its own)
    >= needed, as the solver takes it."""

    weights: Mapping[int, float]
    needed: float
    carry_in: bool = False
    carry_out: bool = False


@dataclass(frozen=True)
class Inequality:
    """sum_i weights[i] x_i >= needed in whole numbers, equal to "the budget holds" for 0/1 x."""

    weights: Mapping[int, int]
    needed: int

    def holds(self, chosen: Sequence[int]) -> bool:
        """Whether the places `chosen` (x = 1 there, else 0) satisfy it."""
        return sum(self.weights.get(place, 0) for place in chosen) >= self.needed

    @property
    def always(self) -> bool:
        """Whether every set satisfies it."""
        return sum(min(0, weight) for weight in self.weights.values()) >= self.needed

    @property
    def never(self) -> bool:
        """Whether no set satisfies it."""
        return sum(max(0, weight) for weight in self.weights.values()) < self.needed

    @property
    def small(self) -> bool:
        """Whether one row of whole numbers is exact for the solver."""
        return max(map(abs, [*self.weights.values(), 0])) <= WHOLE

    def first(self) -> list[Row]:
        """The row to begin with: exact when the numbers are small, else rough."""
        if self.small:
            return [Row(self.weights, self.needed - UNIT)]
        top = max(map(abs, self.weights.values()))
        weights = {place: ROUGH * (weight / top) for place, weight in self.weights.items()}
        return [Row(weights, ROUGH * (self.needed / top) - SLACK)]

    def digits(self) -> list[Row]:
        """The exact rows, lowest digit first; every digit but the last hands a carry on."""
        rows = list[Row]()
        weights, needed = dict(self.weights), self.needed
        while max(map(abs, weights.values())) >= BASE:
            low = {place: weight % BASE for place, weight in weights.items()}
            rows.append(Row(low, needed % BASE - UNIT, bool(rows), True))
            weights = {place: weight // BASE for place, weight in weights.items()}
            needed //= BASE
        return [*rows, Row(weights, needed - UNIT, bool(rows), False)]


def inequality(items: Sequence[Item], limit: Limit) -> Inequality | None:
    """What a budget asks of the blocks, or None when it asks nothing (an infinite limit).

    Fixed blocks have no weight. A weight above what is needed even after every block that makes
    things worse counts as just that: it changes no answer and keeps the numbers small.
    """
    if math.isinf(limit.limit):
        return None
    saved = {
        place: Fraction(item.savings.get(limit.metric, 0.0))
        for place, item in enumerate(items)
        if not item.fixed and item.savings.get(limit.metric, 0.0)
    }
    needed, strict = _needed(limit)
    scale = math.lcm(needed.denominator, *(value.denominator for value in saved.values()))
    weights = {place: int(value * scale) for place, value in saved.items()}
    whole = int(needed * scale) + strict
    most = whole - sum(min(0, weight) for weight in weights.values())
    weights = {place: min(weight, max(most, 0)) for place, weight in weights.items()}
    weights = {place: weight for place, weight in weights.items() if weight}
    shared = math.gcd(*weights.values()) or 1
    return Inequality(
        {place: weight // shared for place, weight in weights.items()}, -(-whole // shared)
    )


def _needed(limit: Limit) -> tuple[Fraction, bool]:
    """The least total saving, and whether it must be exceeded.

    A cost is the correctly rounded difference, ties to even: it is at most the bound when the exact
    difference is below the middle between the bound and the next number, or on it and the bound is
    even.
    """
    above = math.nextafter(limit.bound, math.inf)
    middle = (Fraction(limit.bound) + Fraction(above)) / 2
    return Fraction(limit.full) - middle, not _is_even(limit.bound)


def _is_even(value: float) -> bool:
    """Whether the last bit of the number's mantissa is 0."""
    return value == 0 or int(abs(value) / math.ulp(value)) % 2 == 0
