"""The similarity matrix as a heat map: removed blocks, clusters and undefined cells marked."""

from __future__ import annotations

import math

from markupsafe import Markup

from mpo.records import Analysis
from mpo.render.names import clean, common_ends, shorten
from mpo.render.svg import chart, join, label, line, rect, tag

LEVELS = 11
_TIPS_UP_TO = 30


def similarity(analysis: Analysis, removed: tuple[str, ...]) -> Markup:
    """Draw the CKA matrix over `analysis.names`, the first block at the top left."""
    names = analysis.names
    start, end = common_ends(names)
    texts = [shorten(name.removeprefix(start).removesuffix(end), 18) for name in names]
    cell = min(30.0, max(12.0, 620 / max(len(names), 1)))
    margin = 26 + 6.6 * max((len(text) for text in texts), default=1)
    side = cell * len(names)
    lowest = _lowest(analysis)
    width = max(margin + side + 12, margin + 330)
    body = join(
        [
            _hatch(),
            _cells(analysis, lowest, cell, margin),
            rect(margin, margin, side, side, "frame"),
            _clusters(analysis, cell, margin),
            _axes(names, texts, set(removed), cell, margin),
            _legend(analysis, lowest, margin, margin + side + 30),
        ]
    )
    undefined = sum(value is None for row in analysis.similarity for value in row)
    about = (
        f"{len(names)} blocks, similarity from {lowest:g} to 1 over {analysis.samples} samples; "
        f"{len(analysis.clusters)} clusters outlined, {len(removed)} removed blocks marked, "
        f"{undefined} cells undefined."
    )
    size = (width, margin + side + 88)
    return chart("cka", size, "CKA similarity of the blocks' outputs", about, body)


def _lowest(analysis: Analysis) -> float:
    defined = [value for row in analysis.similarity for value in row if value is not None]
    return min(math.floor(10 * max(min(defined, default=0.0), 0.0)) / 10, 0.9)


def _level(value: float, lowest: float) -> int:
    share = (value - lowest) / (1 - lowest)
    return min(max(int(share * LEVELS), 0), LEVELS - 1)


def _hatch() -> Markup:
    lines = rect(0, 0, 6, 6, "undefined") + tag("path", d="M0 6L6 0", class_="hatch")
    return tag(
        "defs",
        tag("pattern", lines, id="cka-hatch", width=6, height=6, patternUnits="userSpaceOnUse"),
    )


def _cells(analysis: Analysis, lowest: float, cell: float, margin: float) -> Markup:
    # One path per colour keeps a map of 60 blocks small; few blocks get a tip for each cell.
    names = [clean(name) for name in analysis.names]
    paths: dict[str, list[str]] = {}
    tips: list[Markup] = []
    for row, values in enumerate(analysis.similarity):
        for column, value in enumerate(values):
            kind = "undefined-cell" if value is None else f"k{_level(value, lowest)}"
            x, y = margin + column * cell, margin + row * cell
            square = f"M{x:.4g} {y:.4g}h{cell:.4g}v{cell:.4g}h-{cell:.4g}z"
            if len(names) > _TIPS_UP_TO:
                paths.setdefault(kind, []).append(square)
                continue
            shown = "undefined" if value is None else f"{value:.3f}"
            tip = tag("title", f"{names[row]} and {names[column]}: {shown}")
            tips.append(tag("path", tip, d=square, class_=kind))
    return join([*tips, *(tag("path", d="".join(d), class_=kind) for kind, d in paths.items())])


def _clusters(analysis: Analysis, cell: float, margin: float) -> Markup:
    place = {name: index for index, name in enumerate(analysis.names)}
    parts = []
    for cluster in analysis.clusters:
        known = [place[name] for name in cluster.members if name in place]
        if len(known) > 1:
            start, length = margin + min(known) * cell, (max(known) - min(known) + 1) * cell
            parts.append(rect(start, start, length, length, "cluster"))
    return join(parts)


def _axes(
    names: tuple[str, ...], texts: list[str], gone: set[str], cell: float, margin: float
) -> Markup:
    parts = []
    for index, (name, text) in enumerate(zip(names, texts, strict=True)):
        middle = margin + (index + 0.5) * cell
        kind = "gone-name" if name in gone else "kept-name"
        if name in gone:
            parts.append(rect(margin - 10, middle - cell / 2 + 1, 6, cell - 2, "gone"))
            parts.append(rect(middle - cell / 2 + 1, margin - 10, cell - 2, 6, "gone"))
        parts.append(label(margin - 15, middle + 4, text, f"small {kind}", "end"))
        turned = f"rotate(-90 {middle + 4:.1f} {margin - 15:.1f})"
        parts.append(
            tag(
                "text",
                text,
                x=middle + 4,
                y=margin - 15,
                class_=f"t small {kind}",
                transform=turned,
            )
        )
    return join(parts)


def _legend(analysis: Analysis, lowest: float, x: float, y: float) -> Markup:
    step = 220 / LEVELS
    parts: list[Markup] = [label(x, y - 8, "CKA", "small muted")]
    parts += [rect(x + i * step, y, step + 0.3, 12, f"k{i}") for i in range(LEVELS)]
    parts += [label(x, y + 26, f"{lowest:g}", "small muted")]
    parts += [label(x + 220, y + 26, "1", "small muted", "end")]
    if lowest < analysis.threshold < 1:
        place = x + 220 * (analysis.threshold - lowest) / (1 - lowest)
        parts.append(line(place, y - 4, place, y + 16, "bound"))
        parts.append(
            label(place, y - 8, f"threshold {analysis.threshold:.3g}", "small muted", "middle")
        )
    parts += [rect(x, y + 38, 10, 10, "gone"), label(x + 16, y + 47, "removed", "small muted")]
    parts += [
        rect(x + 78, y + 38, 10, 10, f"k{LEVELS - 1}"),
        rect(x + 78, y + 38, 10, 10, "cluster"),
    ]
    parts += [label(x + 94, y + 47, "cluster", "small muted")]
    parts += [rect(x + 150, y + 38, 10, 10, "undefined-cell")]
    parts += [label(x + 166, y + 47, "undefined", "small muted")]
    return join(parts)
