"""From raw times to lines that predict: agreement over processes, sharing, calibration. Pure.

What an isolated block takes and what it adds inside a model differ by a factor that blocks have in
common (boundaries, caches), so that two measured models, whole and empty, calibrate the sum: 0.9 to
1.4 % mean error where full minus marginals has 3 to 8 % (MEASURING.md 5.4).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mpo.records import Anchor, CostTable, Fit, Line, Metric, UnitCost
from mpo.records.costs import EMPTY, FULL, MIDDLE, feature, weight

LATENCY: frozenset[Metric] = frozenset({"latency_p50_ms", "latency_p90_ms"})
COUNTED: frozenset[Metric] = frozenset({"params", "macs"})
NOT_ADDITIVE = 0.10  # MEASURING.md 5.4: beyond this a sum of parts is no estimate
# The least margin: one check point that fits by luck proves nothing.
LEAST: dict[Metric, float] = {
    "latency_p50_ms": 0.02,
    "latency_p90_ms": 0.02,
    "memory_bytes": 0.01,
    "size_bytes": 0.001,
}
LEAST_SHARE = 1e-3  # a block that takes less of the whole is told apart from nothing by luck
NEAR = 0.005  # of the whole model: an empty model this near to the line belongs to it
CANDIDATE = "candidate"
Point = tuple[float, float]
MEMORY_STEP = 500_000  # bytes: the heap grows and shrinks in steps, whatever the weights


@dataclass(frozen=True)
class Agreement:
    """One figure from several processes.

    Attributes:
        value: the median of those that agree best.
        spread: width of the narrowest window that holds two thirds of the processes, and all of the
            first three; relative to the value.
    """

    value: float
    spread: float


def agree(values: Sequence[float]) -> Agreement:
    """What processes say together: noise is one-sided and comes in bursts, so the narrowest window
    that holds most of them counts and the rest is left out."""
    ranked = sorted(values)
    most = min(len(ranked), max(3, math.ceil(len(ranked) * 2 / 3)))
    starts = range(len(ranked) - most + 1)
    first = min(starts, key=lambda start: ranked[start + most - 1] - ranked[start])
    window = ranked[first : first + most]
    value = statistics.median(window)
    width = window[-1] - window[0]
    return Agreement(value, width / max(abs(value), LEAST_SHARE))


def spread_over(units: Mapping[str, tuple[int, Agreement]]) -> float:
    """Relative noise of a sum of units that were measured apart: `count` units have each figure."""
    total = math.fsum(count * one.value for count, one in units.values())
    square = math.fsum((count * one.value * one.spread) ** 2 for count, one in units.values())
    return math.sqrt(square) / total if total > 0 else 0.0


def shared_by_macs(
    known: Mapping[str, float], missing: Mapping[str, int], macs: Mapping[str, int], left: float
) -> dict[str, float]:
    """Shares of blocks that could not be measured alone, at the rate of those that could.

    Args:
        known: measured shares by block.
        missing: multiply-accumulates of the blocks without one.
        macs: multiply-accumulates of the measured blocks.
        left: what all blocks together take, used when none was measured.
    """
    total = sum(macs[name] for name in known)
    if total > 0:
        rate = math.fsum(known.values()) / total
        return {name: rate * count for name, count in missing.items()}
    whole = sum(missing.values())
    even = 1 / len(missing) if missing else 0.0
    return {n: left * (count / whole if whole else even) for n, count in missing.items()}


def value_at(metric: Metric, anchor: Anchor, full: Anchor) -> float | None:
    """What an anchor measured: for latency its ratio to the whole model times that one's own."""
    if metric in LATENCY and anchor.share is not None and metric in full.figures:
        return anchor.share * full.figures[metric]
    return anchor.figures.get(metric)


def line_through(points: Sequence[tuple[float, float]]) -> Line:
    """The line through two points, or the one of least squared errors through more.

    Errors count relative to their value, or to a third of the largest one where they are smaller:
    no plan is made there. Points that all have one feature (blocks without weights) give a flat
    line.
    """
    least = max(abs(y) for _, y in points) / 3
    weights = [1 / max(abs(y), least) ** 2 if least else 1.0 for _, y in points]
    pairs, total = list(zip(weights, points, strict=True)), math.fsum(weights)
    mean_x = math.fsum(w * x for w, (x, _) in pairs) / total
    mean_y = math.fsum(w * y for w, (_, y) in pairs) / total
    across = math.fsum(w * (x - mean_x) * (y - mean_y) for w, (x, y) in pairs)
    along = math.fsum(w * (x - mean_x) ** 2 for w, (x, _) in pairs)
    slope = across / along if along > 0 else 0.0
    return Line(slope=slope, intercept=mean_y - slope * mean_x)


def fit(
    metric: Metric, units: Sequence[UnitCost], anchors: Sequence[Anchor], noise: float
) -> Fit | None:
    """The metric's line with its errors; None when the whole model's figure is not known.

    With three anchors the line goes through the whole and the empty model and the third checks it.
    With more it goes through all with blocks, and through the empty one when that lies near it.
    """
    full = next(anchor for anchor in anchors if anchor.name == FULL)
    points: dict[str, Point] = {}
    for anchor in anchors:
        value = value_at(metric, anchor, full)
        if value is not None:
            points[anchor.name] = (weight(metric, units, anchor.removed), value)
    if FULL not in points:
        return None
    through, jump = _chosen(metric, points)
    ends = {FULL, min(through, key=lambda name: points[name][0])}
    errors = {
        name: _error(_line(metric, [points[n] for n in through if n != name]), points[name])
        for name in points
        if name not in ends | {EMPTY}
    }
    worst = max((abs(error) for error in errors.values()), default=0.0)
    if metric == "memory_bytes":
        noise = max(noise, MEMORY_STEP / (points[FULL][1] or math.inf))  # of half the model
    return Fit(
        line=_line(metric, [points[name] for name in through]),
        residual=errors.get(MIDDLE),
        worst=worst,
        jump=jump,
        noise=noise,
        margin=max(worst, 2 * noise, LEAST.get(metric, 0.0)),
    )


def _chosen(metric: Metric, points: Mapping[str, Point]) -> tuple[list[str], float]:
    """The anchors that the line goes through, and how far the empty one lies below it when it is
    left out, over the whole model."""
    filled = [name for name in points if name != EMPTY]
    if EMPTY not in points or points[FULL][1] == 0:
        return filled, 0.0
    if len(filled) < 3:
        return [FULL, EMPTY], 0.0
    line = _line(metric, [points[name] for name in filled])
    x, y = points[EMPTY]
    jump = (line.slope * x + line.intercept - y) / points[FULL][1]
    return (list(points), 0.0) if abs(jump) <= NEAR else (filled, jump)


def _line(metric: Metric, points: Sequence[Point]) -> Line:
    if metric in COUNTED or len(points) == 1:  # what is counted adds up
        slope = 1.0 if metric in COUNTED else 0.0
        return Line(slope=slope, intercept=points[0][1] - slope * points[0][0])
    return line_through(points)


def _error(line: Line, point: Point) -> float:
    x, y = point
    return (line.slope * x + line.intercept - y) / y if y else 0.0


def fit_all(
    metrics: Iterable[Metric],
    units: Sequence[UnitCost],
    anchors: Sequence[Anchor],
    noise: Mapping[Metric, float],
) -> dict[Metric, Fit]:
    """A fit for every metric that the anchors have."""
    found = {m: fit(m, units, anchors, noise.get(m, 0.0)) for m in metrics}
    return {metric: one for metric, one in found.items() if one is not None}


def with_latency(units: Sequence[UnitCost], fits: Mapping[Metric, Fit]) -> tuple[UnitCost, ...]:
    """The units with what their removal takes off the whole model's p50, or p90 without one."""
    metric: Metric = "latency_p50_ms" if "latency_p50_ms" in fits else "latency_p90_ms"
    if metric not in fits:
        return tuple(units)
    slope = fits[metric].line.slope
    return tuple(
        unit.model_copy(update={"latency_ms": slope * feature(metric, unit)}) for unit in units
    )


def verdict(uncalibrated: float | None, fits: Mapping[Metric, Fit]) -> list[str]:
    """Why blocks do not add up on this device, one sentence each; none when they do."""
    said = []
    if uncalibrated is not None and abs(uncalibrated - 1) > NOT_ADDITIVE:
        said.append(
            f"Blocks measured alone and the empty model sum up to {uncalibrated:.0%} of the whole "
            f"model's latency."
        )
    for metric, one in fits.items():
        if abs(one.residual or 0.0) > NOT_ADDITIVE:
            said.append(
                f"{metric} of the model with every second block is predicted {one.residual:+.1%} "
                f"off."
            )
        elif metric in LATENCY and one.line.slope <= 0:
            said.append(f"{metric} does not fall when blocks go.")
    return said


def refit(
    table: CostTable, measured: Sequence[tuple[Sequence[str], Mapping[Metric, float]]]
) -> CostTable:
    """The table with built and measured candidates as further anchors.

    Args:
        measured: the blocks that each candidate lacks, with its figures; one that is an anchor
            already is left out.

    Returns:
        A table whose lines are the least squares through all anchors, each error taken without the
        anchor itself.
    """
    names = [unit.name for unit in table.units]
    anchors = list(table.anchors)
    known = {frozenset(one.removed) for one in anchors if one.name.startswith(CANDIDATE)}
    for removed, figures in measured:
        gone = frozenset(removed)
        if gone in known:
            continue
        known.add(gone)
        anchors.append(
            Anchor(
                name=f"{CANDIDATE} {len(anchors)}",
                removed=tuple(removed),
                kept=tuple(name for name in names if name not in gone),
                figures=dict(figures),
            )
        )
    noise = {metric: one.noise for metric, one in table.fits.items()}
    fits = fit_all(table.fits, table.units, anchors, noise)
    return table.model_copy(
        update={
            "anchors": tuple(anchors),
            "fits": fits,
            "units": with_latency(table.units, fits),
            "additive": table.additive and not verdict(None, fits),
        }
    )
