"""Small parts for hand-made SVG: escaped elements, a frame with title and description, ticks.

Charts carry classes instead of colours: the page's style sheet holds both themes, and the page's
Content-Security-Policy allows no style attributes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from markupsafe import Markup, escape

Scale = Callable[[float], float]


def tag(name: str, content: str = "", **attributes: str | float) -> Markup:
    """An element, text and values escaped; `class_` is class and `text_anchor` text-anchor."""
    parts = [f"<{name}"]
    for key, value in attributes.items():
        shown = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
        parts.append(f' {key.rstrip("_").replace("_", "-")}="{escape(shown)}"')
    parts.append(f">{escape(content)}</{name}>" if content else "/>")
    return Markup("".join(parts))


def join(parts: Iterable[str]) -> Markup:
    """Put elements one after the other; plain text among them is escaped."""
    return Markup("").join(parts)


def chart(key: str, size: tuple[float, float], title: str, about: str, body: Markup) -> Markup:
    """A drawing that scales with the page; `key` makes the ids of its title and text unique."""
    head = tag("title", title, id=f"{key}-title") + tag("desc", about, id=f"{key}-desc")
    return tag(
        "svg",
        head + body,
        class_="chart",
        role="img",
        aria_labelledby=f"{key}-title {key}-desc",
        viewBox=f"0 0 {size[0]:g} {size[1]:g}",
        width=size[0],
        height=size[1],
    )


def label(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> Markup:
    """A line of text at a point; `kind` is its class."""
    return tag("text", text, x=float(x), y=float(y), class_=f"t {kind}".strip(), text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A straight line."""
    return tag("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=kind)


def rect(x: float, y: float, width: float, height: float, kind: str) -> Markup:
    """A filled or outlined rectangle, by its class; negative sizes become zero."""
    return tag(
        "rect",
        x=float(x),
        y=float(y),
        width=float(max(width, 0)),
        height=float(max(height, 0)),
        class_=kind,
    )


def linear(domain: tuple[float, float], span: tuple[float, float]) -> Scale:
    """A straight map from `domain` to `span`; an empty domain maps to the middle."""
    width = domain[1] - domain[0]
    if width == 0:
        return lambda value: (span[0] + span[1]) / 2
    return lambda value: span[0] + (value - domain[0]) / width * (span[1] - span[0])


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * nice for nice in (1, 2, 5, 10) if power * nice >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [place * step for place in range(first, last + 1)]


def powers(low: float, high: float) -> list[float]:
    """The powers of ten within [low, high], both positive; at most six, thinned evenly."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    step = max(1, math.ceil((last - first + 1) / 6))
    return [10.0**place for place in range(first, last + 1, step)]
