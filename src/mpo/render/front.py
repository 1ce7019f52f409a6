"""Harm against one cost: the front of the plans with the chosen one marked, for the HTML page."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from mpo.records import Front
from mpo.render.names import clean
from mpo.render.svg import Scale, chart, join, label, line, linear, tag, ticks
from mpo.render.text import METRICS, format_metric

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 480, 280, 58, 16, 34, 42
_X = (_LEFT, _WIDTH - _RIGHT)
_Y = (_HEIGHT - _BOTTOM, _TOP)
_MARGIN = 0.08


def named(metric: str) -> str:
    """ "latency_p90_ms" -> "Latency p90"; "ssh://pi memory_bytes" -> "Peak memory on ssh://pi"."""
    place, _, name = clean(metric).rpartition(" ")
    words = METRICS.get(name, name)
    return f"{words} on {place}" if place else words


def front(found: Front) -> Markup | None:
    """Predicted cost against surrogate harm: the front as steps, the chosen plan ringed.

    Steps, since between two levels only the harm of the cheaper one is known to do. None below two
    points, the chosen plan counted.
    """
    points = [(point.cost, point.harm) for point in found.points]
    ours = (found.chosen.cost, found.chosen.harm) if found.chosen else None
    drawn = [*points, ours] if ours else points
    if len(set(drawn)) < 2:
        return None
    across, up = _Axis([x for x, _ in drawn], _X), _Axis([y for _, y in drawn], _Y)
    parts = [_grid(across, up, found.metric)]
    if len(points) > 1:
        parts.append(tag("path", d=_steps(points, across, up), class_="front"))
    parts += [_dot(across(x), up(y), "on") for x, y in points if (x, y) != ours]
    if ours:
        x, y = across(ours[0]), up(ours[1])
        ring = tag("circle", cx=x, cy=y, r=9, class_="ring")
        right = x < _WIDTH - 90
        anchor = "start" if right else "end"
        parts += [ring, _dot(x, y, "chosen")]
        parts.append(label(x + (13 if right else -13), y - 8, "chosen", "chosen-name", anchor))
    key = "front-" + "".join(c if c.isalnum() else "-" for c in found.metric.lower())
    title = f"{named(found.metric)} against harm"
    return chart(key, (_WIDTH, _HEIGHT), title, _about(found), join(parts))


def _about(found: Front) -> str:
    words = f"{len(found.points)} plans on the front."
    if found.chosen is None:
        return words
    cost = format_metric(found.metric, found.chosen.cost)
    words += f" The chosen plan, ringed: {cost}, harm {found.chosen.harm:.3g}"
    if found.least is not None and found.chosen.harm > found.least:
        words += f"; {found.least:.3g} is the least at that cost"
    return f"{words}."


class _Axis:
    """A scale with its domain, a little wider than the values."""

    def __init__(self, values: Sequence[float], span: tuple[float, float]) -> None:
        low, high = min(values), max(values)
        margin = _MARGIN * (high - low) or 0.1 * abs(high) or 1.0
        self.domain = (low - margin, high + margin)
        self.scale: Scale = linear(self.domain, span)

    def __call__(self, value: float) -> float:
        return self.scale(value)


def _steps(points: Sequence[tuple[float, float]], across: _Axis, up: _Axis) -> str:
    ordered = sorted(points)
    path = [f"M{across(ordered[0][0]):.1f} {up(ordered[0][1]):.1f}"]
    path += [f"H{across(x):.1f}V{up(y):.1f}" for x, y in ordered[1:]]
    return "".join(path)


def _grid(across: _Axis, up: _Axis, metric: str) -> Markup:
    parts = []
    for value in ticks(*up.domain, 4):
        parts.append(line(_LEFT, up(value), _WIDTH - _RIGHT, up(value), "grid"))
        parts.append(label(_LEFT - 8, up(value) + 4, f"{value:.3g}", "small muted", "end"))
    for value in ticks(*across.domain, 4):
        parts.append(line(across(value), _Y[0], across(value), _Y[0] + 4, "axis"))
        text = format_metric(metric, value)
        parts.append(label(across(value), _Y[0] + 18, text, "small muted", "middle"))
    parts.append(line(_LEFT, _Y[0], _WIDTH - _RIGHT, _Y[0], "axis"))
    words = named(metric)
    # "MACs" and other abbreviations keep their capitals.
    title = f"Predicted {words if words[1:2].isupper() else words[:1].lower() + words[1:]}"
    parts.append(label(_WIDTH - _RIGHT, _Y[0] + 36, title, "small muted", "end"))
    parts.append(label(8, 16, "Predicted harm", "small muted"))
    return join(parts)


def _dot(x: float, y: float, kind: str) -> Markup:
    return tag("circle", cx=float(x), cy=float(y), r=4.5, class_=f"dot {kind}")
