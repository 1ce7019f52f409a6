"""Small grey pictures as inline SVG: a path for every grey, nothing fetched, no style."""

from __future__ import annotations

from itertools import groupby

from markupsafe import Markup

from mpo.records import Picture
from mpo.render.svg import join, tag

LEVELS = 16
SIDE = 128


def drawn(picture: Picture, about: str) -> Markup:
    """The picture, 128 units wide; equal neighbours in a row are one stroke of a path."""
    raw = bytes.fromhex(picture.grey)
    runs: dict[int, list[str]] = {}
    for y in range(picture.height):
        row = raw[y * picture.width : (y + 1) * picture.width]
        x = 0
        for level, cells in groupby(value * LEVELS // 256 for value in row):
            length = len(list(cells))
            runs.setdefault(level, []).append(f"M{x} {y}h{length}v1h-{length}z")
            x += length
    paths = [tag("path", d="".join(runs[level]), fill=_grey(level)) for level in sorted(runs)]
    return tag(
        "svg",
        join(paths),
        class_="picture",
        role="img",
        aria_label=about,
        shape_rendering="crispEdges",
        viewBox=f"0 0 {picture.width} {picture.height}",
        width=SIDE,
        height=round(SIDE * picture.height / picture.width),
    )


def _grey(level: int) -> str:
    value = round(255 * level / (LEVELS - 1))
    return f"#{value:02x}{value:02x}{value:02x}"
