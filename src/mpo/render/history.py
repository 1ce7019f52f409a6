"""Figures over time: a line a series on a terminal, and a drawing of each as one SVG file."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mpo.pipeline.bench.history import Change, Series
from mpo.render.bench import value_text
from mpo.render.names import clean, shorten
from mpo.render.svg import Scale, chart, join, label, line, linear, rect, tag, ticks

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 190, 74, 16, 34, 30
_STYLE = """
.t{font:12px system-ui,sans-serif;fill:#222}.small{font-size:11px}.muted{fill:#666}
.grid{stroke:#ddd}.axis{stroke:#888}.paper{fill:#fff}.dot{fill:#1f5fa8}
.level{stroke:#b3261e;stroke-width:2}.change{stroke:#b3261e;stroke-dasharray:3 3}
@media(prefers-color-scheme:dark){.t{fill:#eee}.muted{fill:#aaa}.grid{stroke:#333}
.paper{fill:#121212}.dot{fill:#7fb3f0}.level,.change{stroke:#ff8a80}}
"""


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """The latest values as a row of small bars."""
    shown = values[-width:]
    low, high = min(shown), max(shown)
    span = (high - low) or 1.0
    return "".join(_BARS[min(7, int(8 * (value - low) / span))] for value in shown)


def change_line(series: Series, change: Change) -> str:
    """ "2026-11-21 3f2a: 1.2 ms to 1.3 ms (+8.0 %)"."""
    entry = series.entries[change.place]
    note = f" {shorten(entry.note, 40)}" if entry.note else ""
    step = f" ({100 * (change.ratio - 1):+.1f} %)" if math.isfinite(change.ratio) else ""
    before, after = (value_text(level, series.unit) for level in (change.before, change.after))
    return f"{entry.created[:10]}{note}: {before} to {after}{step}"


def name_of(series: Series) -> str:
    """The model, the metric, and the device when the metric depends on it."""
    device = f" (device {series.fingerprint[:8]})" if series.fingerprint else ""
    return f"{shorten(series.model, 40)}: {clean(series.metric)}{device}"


def terminal(found: Sequence[Series]) -> RenderableType:
    """Return what to print with rich: a line a series, and below it its changes."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("Series", "Benches", "Latest", "Over time"):
        table.add_column(title, overflow="fold", justify="left")
    steps: list[RenderableType] = []
    for series in found:
        latest = value_text(series.values[-1], series.unit)
        cells = (name_of(series), str(len(series.values)), latest, sparkline(series.values))
        table.add_row(*map(Text, cells))
        for change in series.changes:
            steps.append(Text(f"  {name_of(series)}, {change_line(series, change)}"))
    count = "1 change" if len(steps) == 1 else f"{len(steps) or 'No'} changes"
    head = Text(f"{count} of level", style="bold")
    return Group(table, Text(), head, *steps)


def svg(found: Sequence[Series]) -> str:
    """One file with a drawing of each series, light or dark as its reader's system is."""
    parts = [tag("style", Markup(_STYLE))]
    height = _HEIGHT * max(1, len(found))
    parts.append(rect(0, 0, _WIDTH, height, "paper"))
    for place, series in enumerate(found):
        body = tag("g", _drawing(series), transform=f"translate(0 {place * _HEIGHT})")
        parts.append(body)
    total = sum(len(series.changes) for series in found)
    about = f"{len(found)} series, {total} changes of level."
    drawing = chart("history", (_WIDTH, height), "History of benches", about, join(parts))
    # A file of its own needs the namespace that a page knows.
    return str(drawing).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"


def _drawing(series: Series) -> Markup:
    values = series.values
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    domain = (low - margin, high + margin)
    up = linear(domain, (_HEIGHT - _BOTTOM, _TOP))
    across = linear((0, max(1, len(values) - 1)), (_LEFT + 8, _WIDTH - _RIGHT - 8))
    parts = [label(_LEFT, 18, name_of(series))]
    for value in ticks(*domain, 4):
        parts.append(line(_LEFT, up(value), _WIDTH - _RIGHT, up(value), "grid"))
        text = value_text(value, series.unit)
        parts.append(label(_LEFT - 8, up(value) + 4, text, "small muted", "end"))
    for place, value in enumerate(values):
        entry = series.entries[place]
        note = f" {clean(entry.note)}" if entry.note else ""
        words = f"{entry.created}{note}: {value_text(value, series.unit)}"
        dot = tag("title", shorten(words, 200))
        parts.append(
            tag("circle", dot, cx=float(across(place)), cy=float(up(value)), r=3, class_="dot")
        )
    parts += _levels(series, across, up)
    for place, anchor in ((0, "start"), (len(values) - 1, "end")):
        day = series.entries[place].created[:10]
        parts.append(label(across(place), _HEIGHT - 10, day, "small muted", anchor))
    return join(parts)


def _levels(series: Series, across: Scale, up: Scale) -> list[Markup]:
    """A line for each level, a dashed one for each change."""
    parts: list[Markup] = []
    if not series.changes:
        return parts
    edges = [0, *(change.place for change in series.changes), len(series.values)]
    levels = [series.changes[0].before, *(change.after for change in series.changes)]
    for start, end, level in zip(edges, edges[1:], levels, strict=False):
        parts.append(line(across(start), up(level), across(end - 1), up(level), "level"))
    for change in series.changes:
        x = across(change.place - 0.5)
        parts.append(line(x, _TOP, x, _HEIGHT - _BOTTOM, "change"))
        step = f"{100 * (change.ratio - 1):+.1f} %" if math.isfinite(change.ratio) else "new"
        parts.append(label(x + 4, _TOP + 10, step, "small"))
    return parts
