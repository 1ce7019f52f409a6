"""What each block costs on a device, and what a model without some of them is predicted to cost.

Every metric is a line over what the kept blocks hold of one feature:

    cost(kept) = slope * sum of feature(block) over kept + intercept

The feature of latency is the block's share of the whole model's time, measured alone; of size and
peak memory its bytes of weights; of params and macs itself. The line goes through measured models:
the whole one, those with every second and every fourth block, and the one without any, unless that
one is off it (a first block also brings buffers that the others share); each is checked against the
line through the others (MEASURING.md 5.4).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Literal

from pydantic import Field

from mpo.records.base import Document, Record
from mpo.records.budgets import Metric
from mpo.records.devices import SessionOptions

How = Literal["measured", "like", "macs", "counted"]
HEAP: Metric = "memory_bytes"
FULL, EMPTY, MIDDLE, FEW = "full", "empty", "middle", "few"


class UnitCost(Record):
    """One removable block.

    Attributes:
        how: "measured" alone; "like" another block of the same structure, named in `like`; shared
            by "macs" because it cannot run alone (`reason`); only "counted" when no time was asked
            for.
        share: its latency alone over the whole model's, the launch of a model taken off; before
            calibration.
        latency_ms: what its removal takes off the whole model's p50, after calibration.
        spread: of the share over processes, relative to the whole model.
        size_bytes: of its weights in the exported file.
    """

    name: str
    how: How
    like: str = ""
    reason: str = ""
    share: float | None = None
    latency_ms: float | None = None
    spread: float = 0.0
    size_bytes: int = 0
    params: int = 0
    macs: int = 0


class Anchor(Record):
    """A model that was built and measured, so that lines have points to go through.

    Attributes:
        figures: its own solo figures.
        share: its latency over the whole model's from processes that ran both in turn; None when it
            was not measured so, and then its solo figures stand for it.
        spread: of the share over processes: the narrowest window that holds two thirds of them.
    """

    name: str
    removed: tuple[str, ...]
    kept: tuple[str, ...]
    figures: dict[Metric, float]
    share: float | None = None
    spread: float = 0.0


class Line(Record):
    """slope * feature + intercept, in the metric's own unit."""

    slope: float
    intercept: float


class Fit(Record):
    """How a metric is predicted, and how far that can be off.

    Attributes:
        residual: signed, (predicted - measured) / measured at the middle anchor, predicted without
            it; None without one.
        worst: the largest such error of any anchor but the two ends of the line.
        jump: what the empty model takes less than the line says, over the whole model; 0 when the
            line goes through it.
        noise: half the spread of what was measured, relative.
        margin: max(worst, 2 noise), and at the least a share fixed by metric. A plan is safe when
            its prediction, raised by this share of the whole model's cost, holds the budget: what
            a prediction is off by shrinks less than the model does.
    """

    line: Line
    residual: float | None = None
    worst: float = 0.0
    jump: float = 0.0
    noise: float = 0.0
    margin: float = 0.0


class CostTable(Document):
    """Costs per removable block on one device with one session, and what they predict.

    Attributes:
        target: name of the device that was measured.
        fingerprint: of that device; another device's table is refused.
        session: the runtime's options that the figures hold for.
        batch: examples in one inference.
        uncalibrated: sum of the blocks' own shares and the empty model's: 1 when blocks add up.
        additive: False when that sum misses the whole model, or the line the middle anchor, by more
            than 10 %: then only built and measured candidates count.
        processes: in how many the interleaved times were taken.
        warnings: one sentence each.
    """

    schema_: Literal["mpo.costs/1"] = Field("mpo.costs/1", alias="schema")
    target: str
    fingerprint: str
    session: SessionOptions
    batch: int
    units: tuple[UnitCost, ...]
    anchors: tuple[Anchor, ...]
    fits: dict[Metric, Fit]
    uncalibrated: float | None = None
    additive: bool = True
    processes: int = 0
    warnings: tuple[str, ...] = ()

    def predict(self, removed: Collection[str]) -> dict[Metric, float]:
        """The cost of the model without these blocks, for every metric of the table.

        Small models hold more memory than the line says, because the heap grows in steps: below the
        lightest measured model that has blocks, the way from the empty one to it counts where it
        lies higher.
        """
        costs = {
            metric: fit.line.slope * weight(metric, self.units, removed) + fit.line.intercept
            for metric, fit in self.fits.items()
        }
        if HEAP in costs:
            costs[HEAP] = max(costs[HEAP], self._least_heap(removed))
        return costs

    def _least_heap(self, removed: Collection[str]) -> float:
        points = sorted(
            (weight(HEAP, self.units, anchor.removed), anchor.figures[HEAP])
            for anchor in self.anchors
            if HEAP in anchor.figures
        )
        empty = any(anchor.name == EMPTY and HEAP in anchor.figures for anchor in self.anchors)
        if not empty:
            return 0.0
        (none, least), *others = points
        heavier = [point for point in others if point[0] > none]
        if not heavier:
            return least
        (some, more), here = heavier[0], weight(HEAP, self.units, removed)
        return least + (more - least) * min(1.0, (here - none) / (some - none))

    def bounds(self, removed: Collection[str]) -> dict[Metric, float]:
        """The predictions raised by each metric's margin: what the model will hardly exceed."""
        whole = self.predict(())
        return {
            m: cost + self.fits[m].margin * whole[m] for m, cost in self.predict(removed).items()
        }

    def savings(self) -> dict[str, dict[Metric, float]]:
        """Per block and metric what its removal takes off: predict(()) - the sum of savings of what
        is removed = predict(removed), but for the memory of the smallest models."""
        return {
            unit.name: {m: fit.line.slope * feature(m, unit) for m, fit in self.fits.items()}
            for unit in self.units
        }


def feature(metric: Metric, unit: UnitCost) -> float:
    """What a metric's line runs over."""
    if metric == "params":
        return float(unit.params)
    if metric == "macs":
        return float(unit.macs)
    if metric in ("size_bytes", "memory_bytes"):
        return float(unit.size_bytes)
    return unit.share or 0.0


def weight(metric: Metric, units: Sequence[UnitCost], removed: Collection[str]) -> float:
    """The feature summed over the blocks that stay."""
    gone = set(removed)
    return math.fsum(feature(metric, unit) for unit in units if unit.name not in gone)
