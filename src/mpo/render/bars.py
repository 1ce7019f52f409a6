"""Bars: both models beside one another, budgets as gauges, harm block by block."""

from __future__ import annotations

import math
from collections.abc import Mapping

from markupsafe import Markup

from mpo.records import Analysis, BudgetResult, ModelFigures
from mpo.render.names import common_ends, shorten
from mpo.render.svg import chart, join, label, line, powers, rect, tag
from mpo.render.text import Row

_ROW, _LEFT, _RIGHT, _WIDTH = 17, 150, 62, 480
_SPAN = _WIDTH - _LEFT - _RIGHT


def pair(row: Row) -> Markup:
    """Two thin bars: the original (100 %) over the optimized, with the ratio's interval if any.

    Lengths are percentages, so the drawing fills its table cell at any width.
    """
    high = row.interval[1] if row.interval else row.share
    scale = 96 / max(1.0, row.share, high)
    body = _bar(4, scale, "old") + _bar(14, row.share * scale, "new")
    if row.interval:
        low, high = (value * scale for value in row.interval)
        body += _mark(low, high, 18)
    about = f"{row.label}: original {row.before}, optimized {row.after}, {row.change}"
    return _strip(about, 26, body)


def quality_pair(original: ModelFigures, optimized: ModelFigures, about: str) -> Markup:
    """Two dots with their 95 % intervals on one scale that spans just both intervals."""
    models = (original.quality, optimized.quality)
    low = min(min(q.ci95[0], q.value) for q in models)
    high = max(max(q.ci95[1], q.value) for q in models)
    width = (high - low) or 1.0
    body = Markup("")
    for quality, y, kind in zip(models, (8, 18), ("old", "new"), strict=True):
        start, end, place = (
            3 + 92 * (value - low) / width for value in (*quality.ci95, quality.value)
        )
        body += tag(
            "line", x1=f"{start:.2f}%", x2=f"{end:.2f}%", y1=y, y2=y, class_=f"whisker {kind}"
        )
        body += tag("circle", cx=f"{place:.2f}%", cy=y, r=4, class_=kind)
    return _strip(about, 26, body)


def gauge(budget: BudgetResult, about: str) -> Markup:
    """The measured figure as a bar, the bound as an upright line."""
    scale = 92 / max(budget.limit, budget.measured, 1e-300)
    bound = budget.limit * scale
    body = _bar(6, budget.measured * scale, "good" if budget.met else "bad")
    body += tag("line", x1=f"{bound:.2f}%", x2=f"{bound:.2f}%", y1=1, y2=19, class_="bound")
    return _strip(about, 20, body)


def costs(
    analysis: Analysis, removed: tuple[str, ...], shares: Mapping[str, tuple[float, float]]
) -> Markup:
    """Two bars a block, its part of the model's parameters and of its multiply-accumulates; rows
    are those of `harm`."""
    names, gone = [item.name for item in analysis.harms], set(removed)
    start, end = common_ends(names)
    most = max((part for name in names for part in shares[name]), default=0.0) or 1.0
    columns = (_LEFT, _LEFT + _SPAN / 2 + 28)
    width, top = _SPAN / 2 - 20, 46
    parts = [
        label(x, 14, text, "muted") for x, text in zip(columns, ("Parameters", "MACs"), strict=True)
    ]
    for number, name in enumerate(names):
        y = top + _ROW * number + _ROW / 2
        kind = "gone" if name in gone else "kept"
        shown = shorten(name.removeprefix(start).removesuffix(end), 17)
        parts.append(label(_LEFT - 8, y + 4, shown, f"small {kind}-name", "end"))
        for x, part in zip(columns, shares[name], strict=True):
            parts.append(rect(x, y - 4, max(width * part / most, 1), 8, kind))
            parts.append(
                label(x + width * part / most + 6, y + 4, f"{100 * part:.1f} %", "small muted")
            )
    about = "; ".join(
        f"{sum(shares[name][place] for name in names if name in gone):.1%} of the {what} removed"
        for place, what in enumerate(("parameters", "multiply-accumulates"))
    )
    height = top + _ROW * len(names) + 6
    return chart("costs", (_WIDTH, height), "Cost of each block", about, join(parts))


def _bar(y: float, percent: float, kind: str) -> Markup:
    return tag("rect", y=y, height=8, width=f"{max(percent, 0.4):.2f}%", rx=2, class_=kind)


def _mark(low: float, high: float, y: float) -> Markup:
    ends = [
        tag("line", x1=f"{x:.2f}%", x2=f"{x:.2f}%", y1=y - 4, y2=y + 4, class_="interval")
        for x in (low, high)
    ]
    rail = tag("line", x1=f"{low:.2f}%", x2=f"{high:.2f}%", y1=y, y2=y, class_="interval")
    return join([rail, *ends])


def _strip(about: str, height: int, body: Markup) -> Markup:
    return tag(
        "svg", body, class_="strip", role="img", aria_label=about, width="100%", height=height
    )


def harm(analysis: Analysis, removed: tuple[str, ...]) -> Markup:
    """A line a block: its KL divergence (logarithmic) and agreement; removed ones marked."""
    harms, gone = analysis.harms, set(removed)
    start, end = common_ends([item.name for item in harms])
    positive = [item.kl for item in harms if item.kl > 0]
    low = 10.0 ** math.floor(math.log10(min(positive, default=0.01)))
    high = max(10.0 ** math.ceil(math.log10(max(positive, default=1.0))), low * 10)
    decades = math.log10(high / low)

    def place(value: float) -> float:
        return _LEFT + _SPAN * math.log10(max(value, low) / low) / decades

    top, bottom = 46, 46 + _ROW * len(harms)
    parts = [label(_LEFT, 14, "Change of the output, log scale", "muted")]
    parts.append(label(_WIDTH - 4, 14, "agree", "muted", "end"))
    for value in powers(low, high):
        parts.append(line(place(value), top - 4, place(value), bottom, "grid"))
        parts.append(label(place(value), top - 9, f"{value:g}", "muted small", "middle"))
    for number, item in enumerate(harms):
        y = top + _ROW * number + _ROW / 2
        kind = "gone" if item.name in gone else "kept"
        name = shorten(item.name.removeprefix(start).removesuffix(end), 17)
        parts.append(label(_LEFT - 8, y + 4, name, f"small {kind}-name", "end"))
        parts.append(rect(_LEFT, y - 2, place(item.kl) - _LEFT, 4, kind))
        dot = kind if item.kl > 0 else f"{kind} zero"
        parts.append(tag("circle", cx=place(item.kl), cy=y, r=4, class_=dot))
        parts.append(
            label(_WIDTH - 4, y + 4, f"{100 * item.agreement:.1f} %", "small muted", "end")
        )
    about = f"{len(harms)} blocks, each bypassed alone; {len(gone)} removed ones are marked."
    return chart(
        "harm", (_WIDTH, bottom + 6), "Harm of removing each block alone", about, join(parts)
    )
