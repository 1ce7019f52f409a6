"""Points and lines: how recovery went."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from mpo.records import Recovery, Report
from mpo.render.svg import Scale, chart, join, label, line, linear, tag, ticks
from mpo.render.text import METRICS, candidates, format_quality

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 480, 280, 58, 16, 34, 42
_X = (_LEFT, _WIDTH - _RIGHT)
_Y = (_HEIGHT - _BOTTOM, _TOP)


def cost_metric(report: Report) -> str | None:
    """The metric to draw plans over: the first budget's that all plans have, else any."""
    known = [set(item.costs) & set(METRICS) for item in candidates(report.plan) if item.costs]
    if not known:
        return None
    shared = set.intersection(*known)
    asked = [budget.metric for budget in report.budgets if budget.metric in shared]
    return next(iter([*asked, *(metric for metric in METRICS if metric in shared)]), None)


Axis = tuple[tuple[float, float], Scale]


def _fit(values: Sequence[float], span: tuple[float, float]) -> Axis:
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    domain = (low - margin, high + margin)
    return domain, linear(domain, span)


def _point(x: float, y: float, kind: str) -> Markup:
    dot = tag("circle", cx=float(x), cy=float(y), r=4.5, class_=f"dot {kind}")
    if kind != "chosen":
        return dot
    return tag("circle", cx=float(x), cy=float(y), r=9, class_="ring") + dot


def recovery(record: Recovery, share: bool) -> Markup | None:
    """Validation quality epoch by epoch beside the original's, with the best epoch ringed.

    None when the history has fewer than two rows with a quality.
    """
    points = [(0.0, record.before)]
    for number, row in enumerate(record.history, 1):
        quality = quality_of(row)
        points += [(row.get("epoch", float(number)), quality)] if quality is not None else []
    if len(points) < 2:
        return None
    across = ((0.0, max(x for x, _ in points)), linear((0.0, max(x for x, _ in points)), _X))
    up = _fit([record.original, *(y for _, y in points)], _Y)
    parts = [_recovery_grid(across, up, share)]
    goal = up[1](record.original)
    parts.append(line(_LEFT, goal, _WIDTH - _RIGHT, goal, "goal"))
    original = f"original {format_quality(record.original, share)}"
    parts.append(label(_LEFT + 10, goal - 7, original, "small old-name"))
    path = "M" + "L".join(f"{across[1](x):.1f} {up[1](y):.1f}" for x, y in points)
    parts.append(tag("path", d=path, class_="front"))
    for x, y in points:
        best = x == record.best_epoch
        parts.append(_point(across[1](x), up[1](y), "chosen" if best else "on"))
    about = (
        f"{format_quality(record.before, share)} before, "
        f"{format_quality(record.after, share)} after {record.epochs} epochs; "
        f"best epoch {record.best_epoch}."
    )
    return chart(
        "recovery", (_WIDTH, _HEIGHT), "Validation quality in recovery", about, join(parts)
    )


def quality_of(row: dict[str, float]) -> float | None:
    """The quality in a row of `Recovery.history`: "quality", or the one entry not epoch or loss."""
    if "quality" in row:
        return row["quality"]
    rest = [value for key, value in row.items() if key != "epoch" and "loss" not in key]
    return rest[0] if len(rest) == 1 else None


def _recovery_grid(across: Axis, up: Axis, share: bool) -> Markup:
    parts = []
    for value in ticks(*up[0], 4):
        parts.append(line(_LEFT, up[1](value), _WIDTH - _RIGHT, up[1](value), "grid"))
        parts.append(
            label(_LEFT - 8, up[1](value) + 4, format_quality(value, share), "small muted", "end")
        )
    for value in [tick for tick in ticks(*across[0], 8) if tick == round(tick)]:
        parts.append(label(across[1](value), _Y[0] + 18, f"{value:g}", "small muted", "middle"))
    parts.append(line(_LEFT, _Y[0], _WIDTH - _RIGHT, _Y[0], "axis"))
    parts.append(
        label(_WIDTH - _RIGHT, _Y[0] + 36, "Epoch (0: before recovery)", "small muted", "end")
    )
    parts.append(label(8, 16, "Validation quality", "small muted"))
    return join(parts)
