"""A contract as HTML: the section of a report, and a page of its own."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from mpo.records import Contract, MarginBin, Witness
from mpo.render.contracttext import facts, more, percent, sentence
from mpo.render.names import clean
from mpo.render.pictures import drawn
from mpo.render.svg import chart, join, label, line, linear, tag, ticks

TONES = {"kept": "good", "broken": "bad", "undecided": "bad"}
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 480, 260, 58, 16, 34, 42


def page(record: Contract) -> str:
    """The contract as one HTML file: no script, nothing fetched."""
    style = files("mpo.render").joinpath("report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return _template("contractpage.html.jinja").render(
        record=record,
        style=Markup(style),  # our own file, not data
        style_hash=digest,
        tone=TONES[record.verdict],
        section=section(record),
    )


def section(record: Contract) -> Markup:
    """The section: sentence, claims, agreement against margin, witnesses side by side."""
    told = _template("contract.html.jinja").render(
        record=record,
        sentence=sentence(record),
        tone=TONES[record.verdict],
        claims=[_claim(record, place) for place in range(len(record.claims))],
        curve=curve(record),
        witnesses=[_witness(one, place) for place, one in enumerate(record.witnesses)],
        facts=facts(record),
    )
    return Markup(told)  # rendered with autoescape just above


@cache
def _template(name: str) -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["clean"] = clean
    text = files("mpo.render").joinpath(name).read_text(encoding="utf-8")
    return environment.from_string(text)


def _claim(record: Contract, place: int) -> Mapping[str, str]:
    claim = record.claims[place]
    names = {"overall": "all inputs", "region": "near the boundary"}
    return {
        "name": names.get(claim.stratum, f"class {clean(claim.label)}"),
        "samples": f"{claim.samples:,}",
        "differ": f"{claim.differ:,}",
        "rate": percent(claim.rate),
        "bounds": f"{percent(claim.low, up=False)} to {percent(claim.high, up=True)}",
        "eps": percent(claim.eps),
        "verdict": claim.verdict,
        "tone": TONES[claim.verdict],
        "more": more(claim),
    }


def curve(record: Contract) -> Markup | None:
    """Agreement by tenths of the margin, with 95 % intervals; the region's end is dashed."""
    bins = record.curve
    if len(bins) < 2:
        return None
    least = min(one.ci95[0] for one in bins)
    up = linear((least, 1.0), (_HEIGHT - _BOTTOM, _TOP))
    across = linear((0.0, float(len(bins))), (_LEFT, _WIDTH - _RIGHT))
    parts = [_grid(bins, least)]
    for place, one in enumerate(bins):
        x = across(place + 0.5)
        parts.append(line(x, up(one.ci95[0]), x, up(one.ci95[1]), "interval"))
        parts.append(tag("circle", cx=x, cy=up(one.agreement), r=4.5, class_="dot on"))
    if record.region is not None:
        inside = sum(one.high <= record.region.tau for one in bins)
        x = across(float(inside))
        parts.append(line(x, _TOP, x, _HEIGHT - _BOTTOM, "goal"))
    first, last = percent(bins[0].agreement), percent(bins[-1].agreement)
    about = f"{first} agree at the least margins, {last} at the largest."
    size = (_WIDTH, _HEIGHT)
    return chart("agreement", size, "Agreement against margin", about, join(parts))


def _grid(bins: tuple[MarginBin, ...], least: float) -> Markup:
    up = linear((least, 1.0), (_HEIGHT - _BOTTOM, _TOP))
    across = linear((0.0, float(len(bins))), (_LEFT, _WIDTH - _RIGHT))
    parts = []
    for value in ticks(least, 1.0, 4):
        parts.append(line(_LEFT, up(value), _WIDTH - _RIGHT, up(value), "grid"))
        parts.append(label(_LEFT - 8, up(value) + 4, percent(value), "small muted", "end"))
    for place in range(0, len(bins), 2):
        shown = f"{bins[place].high:.3g}"
        x = across(place + 1.0)
        parts.append(label(x, _HEIGHT - _BOTTOM + 18, shown, "small muted", "middle"))
    parts.append(line(_LEFT, _HEIGHT - _BOTTOM, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM, "axis"))
    told = "Top-two margin under the original, in tenths of the samples"
    parts.append(label(_WIDTH - _RIGHT, _HEIGHT - 6, told, "small muted", "end"))
    parts.append(label(8, 16, "Decisions that agree", "small muted"))
    return join(parts)


def _witness(one: Witness, place: int) -> Mapping[str, Any]:
    size = ""
    if one.tokens is not None:
        size = f"{one.tokens} of the tokens changed"
    elif one.linf_of_range is not None and one.search != "data":
        size = f"no value moved by more than {percent(one.linf_of_range, up=True)} of the range"
    number = place + 1
    return {
        "search": "in the data" if one.search == "data" else f"{one.search} {clean(one.detail)}",
        "size": size,
        "before": drawn(one.before, f"Witness {number}: the seed") if one.before else None,
        "after": drawn(one.after, f"Witness {number}: as found") if one.after else None,
        "text_before": clean(one.text_before),
        "text_after": clean(one.text_after),
        "seed": one.seed_decision,
        "original": one.original,
        "candidate": one.candidate,
        "margin": f"{one.margin:.3g}",
        "same": one.search == "data",
    }
