"""The distribution of single latencies of both models, on one axis."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from mpo.records import Latency
from mpo.render.svg import Scale, chart, join, label, line, linear, rect, ticks
from mpo.units import format_ms

_WIDTH, _LEFT, _RIGHT, _BAND, _BINS = 480, 12, 12, 92, 60


def latency(original: Latency, optimized: Latency) -> Markup:
    """A histogram a model with p50 and p90; without raw samples the span from p50 to p90."""
    pair = (original, optimized)
    low, high = _domain(pair)
    axis = linear((low, high), (_LEFT, _WIDTH - _RIGHT))
    bottom = 2 * _BAND + 4
    parts = []
    for value in ticks(low, high, 5):
        parts.append(line(axis(value), 20, axis(value), bottom, "grid"))
        parts.append(
            label(
                axis(value),
                bottom + 16,
                format_ms(value) if value else "0",
                "small muted",
                "middle",
            )
        )
    for number, (item, kind) in enumerate(zip(pair, ("old", "new"), strict=True)):
        parts.append(_band(item, kind, axis, (low, high), _BAND * (number + 1)))
    beyond = sum(sample > high for item in pair for sample in item.samples_ms)
    if beyond:
        text = f"{beyond} slower samples lie beyond the right edge"
        parts.append(label(_WIDTH - _RIGHT, bottom + 34, text, "small muted", "end"))
    about = "; ".join(
        f"{name}: p50 {format_ms(item.p50)}, p90 {format_ms(item.p90)}, {item.n} runs"
        for name, item in zip(("original", "optimized"), pair, strict=True)
    )
    size = (_WIDTH, bottom + (42 if beyond else 24))
    return chart("latency", size, "Latency of single inferences", about, join(parts))


def _domain(pair: Sequence[Latency]) -> tuple[float, float]:
    samples = [sample for item in pair for sample in item.samples_ms]
    lows = samples + [item.p50 for item in pair]
    # Rare stalls would squeeze the rest into a corner: the axis ends a little beyond p90.
    slow = 1.35 * max(item.p90 for item in pair)
    high = min(max([*samples, *(item.p90 for item in pair)]), slow)
    low = min(lows)
    margin = 0.04 * (high - low) or 0.1 * high or 1.0
    return max(0.0, low - margin), high + margin


def _band(
    item: Latency, kind: str, axis: Scale, domain: tuple[float, float], bottom: float
) -> Markup:
    counts = _histogram(item.samples_ms, domain)
    step = (axis(domain[1]) - axis(domain[0])) / _BINS
    tallest = max(counts, default=0) or 1
    height = _BAND - 42
    parts = [
        rect(
            axis(domain[0]) + i * step,
            bottom - height * n / tallest,
            step - 0.5,
            height * n / tallest,
            kind,
        )
        for i, n in enumerate(counts)
        if n
    ]
    if not item.samples_ms:
        parts.append(rect(axis(item.p50), bottom - 12, axis(item.p90) - axis(item.p50), 8, kind))
    parts.append(line(_LEFT, bottom, _WIDTH - _RIGHT, bottom, "axis"))
    for value in (item.p50, item.p90):
        parts.append(line(axis(value), bottom - height - 6, axis(value), bottom, "bound thin"))
    name = "Original" if kind == "old" else "Optimized"
    text = f"{name}: p50 {format_ms(item.p50)}, p90 {format_ms(item.p90)}, {item.n:,} runs"
    left = axis(item.p50) < _WIDTH / 2
    x, anchor = (_LEFT, "start") if left else (_WIDTH - _RIGHT, "end")
    parts.append(label(x, bottom - height - 12, text, f"{kind}-name", anchor))
    return join(parts)


def _histogram(samples: Sequence[float], domain: tuple[float, float]) -> list[int]:
    counts = [0] * _BINS if samples else []
    width = (domain[1] - domain[0]) / _BINS
    for sample in samples:
        place = int((sample - domain[0]) / width)
        if sample <= domain[1]:
            counts[min(max(place, 0), _BINS - 1)] += 1
    return counts
