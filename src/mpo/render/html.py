"""The report as one HTML file: no script, nothing fetched, both themes, charts as inline SVG."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from mpo.records import Report
from mpo.render import acceptance, bars, heatmap, lines, names, removed, spread, text
from mpo.render.contracthtml import section
from mpo.render.front import front
from mpo.units import format_bytes, format_count, format_ms


def html(report: Report) -> str:
    """Return the page. It opens from a file, prints, and needs neither network nor script."""
    style = _resource("report.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return _template().render(
        report=report,
        style=Markup(style),  # our own file, not data
        style_hash=digest,
        verdict=text.verdict(report),
        tiles=_tiles(report),
        rows=_rows(report),
        budgets=_budgets(report),
        plans=_plans(report),
        blocks=_blocks(report),
        gone=removed.gone(report),
        speed=_speed(report),
        charts=_charts(report),
        pattern=_pattern(report.analysis.names),
        cost=text.METRICS[metric].lower() if (metric := lines.cost_metric(report)) else "cost",
        text=text,
        names=names,
        lines=lines,
        contract=section(report.contract) if report.contract else None,
        share=text.is_share(report),
        guard=acceptance,
    )


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "clean": names.clean,
        "bytes": format_bytes,
        "count": format_count,
        "ms": format_ms,
        "minus": lambda value: re.sub(r"(?<!\S)-(?=[0-9.])", "\u2212", value),
        "seconds": text.format_seconds,
    }
    return environment.from_string(_resource("report.html.jinja"))


@cache
def _resource(name: str) -> str:
    return files("mpo.render").joinpath(name).read_text(encoding="utf-8")


def _pattern(blocks: tuple[str, ...]) -> str:
    start, end = map(names.clean, names.common_ends(blocks))
    return f"{start}*{end}" if start or end else ""


def _tiles(report: Report) -> list[dict[str, str]]:
    """The figures that a reader wants first, as change with both values under it."""
    shown = {row.label: row for row in text.rows(report)}
    tiles = []
    for label in ("Parameters", "File size", "Peak memory", "Latency p50"):
        row = shown[label]
        within = ""
        if row.interval:
            low, high = (text.signed(100 * (bound - 1), 0) for bound in row.interval)
            within = f"{low} to {high} %, both models in turn"
        tiles.append(
            {
                "label": label,
                "change": f"{text.signed(100 * (row.share - 1), 0)} %",
                "within": within,
                "detail": f"{row.before} → {row.after}{' alone' if within else ''}",
            }
        )
    old, new = report.original.quality, report.optimized.quality
    share = text.is_share(report)
    detail = " → ".join(text.format_quality(q.value, share, q.samples) for q in (old, new))
    label = names.shorten(old.metric, 24).capitalize()
    change = text.quality_change(report)
    return [*tiles, {"label": label, "change": change, "within": "", "detail": detail}]


def _rows(report: Report) -> list[tuple[text.Row, Markup]]:
    rows = [_ranged(row, report) for row in text.rows(report)]
    last = rows[-1]
    about = f"{last.label}: original {last.before}, optimized {last.after}"
    drawn = [(row, bars.pair(row)) for row in rows[:-1]]
    return [*drawn, (last, bars.quality_pair(report.original, report.optimized, about))]


def _ranged(row: text.Row, report: Report) -> text.Row:
    """The row with the range over processes behind each figure that has one."""
    told = format_bytes if row.label == "Peak memory" else format_ms
    seen = []
    for model in (report.original, report.optimized):
        spans = {
            "Peak memory": model.peak_memory_range,
            "Latency p50": model.latency_ms.p50_range,
            "Latency p90": model.latency_ms.p90_range,
        }
        span = spans.get(row.label)
        seen.append(f" [{told(span[0])}, {told(span[1])}]" if span else "")
    return replace(row, before=row.before + seen[0], after=row.after + seen[1])


def _budgets(report: Report) -> list[dict[str, Any]]:
    return [
        {
            "text": text.asked(report, budget),
            "figure": text.METRICS[budget.metric],
            "limit": text.format_metric(budget.metric, budget.limit),
            "measured": text.format_metric(budget.metric, budget.measured),
            "met": budget.met,
            "gauge": bars.gauge(budget, text.budget_line(budget)),
        }
        for budget in report.budgets
    ]


def _plans(report: Report) -> list[dict[str, Any]]:
    share, metric = text.is_share(report), lines.cost_metric(report)
    return [
        {
            "chosen": text.is_chosen(report.plan, plan),
            "count": len(plan.removed),
            "names": text.blocks_of(report.plan, plan),
            "cost": text.format_metric(metric, plan.costs[metric])
            if metric and metric in plan.costs
            else "",
            "harm": f"{plan.harm:.3g}",
            "joint": "" if plan.joint_kl is None else f"{plan.joint_kl:.3g}",
            "quality": ""
            if plan.recovered_quality is None
            else text.format_quality(plan.recovered_quality, share),
        }
        for plan in text.candidates(report.plan)[:12]
    ]


def _blocks(report: Report) -> list[dict[str, Any]]:
    harms, removed = {item.name: item for item in report.analysis.harms}, set(report.removed)
    found = []
    for block in report.analysis.blocks:
        item = harms.get(block.name)
        fate = "removed" if block.name in removed else "kept"
        found.append(
            {
                "block": block,
                "fate": fate if block.removable else f"stays: {names.clean(block.reason)}",
                "removed": block.name in removed,
                "kl": f"{item.kl:.3g}" if item else "",
                "agreement": f"{100 * item.agreement:.1f} %" if item else "",
                "branch": f"{item.branch_ratio:.2f}" if item else "",
            }
        )
    return found


def _speed(report: Report) -> str:
    """How much of the removed work became speed, when some was removed."""
    macs, latency = report.ratio.macs, report.ratio.latency.estimate
    if not report.removed:
        return ""
    return (
        f"{100 * (1 - macs):.0f} % of the multiply-accumulates are gone; "
        f"one inference takes {100 * abs(1 - latency):.0f} % "
        f"{'less' if latency <= 1 else 'more'} time."
    )


def _charts(report: Report) -> dict[str, Any]:
    analysis = report.analysis
    share = text.is_share(report)
    return {
        "latency": spread.latency(report.original.latency_ms, report.optimized.latency_ms),
        "cka": heatmap.similarity(analysis, report.removed) if analysis.names else None,
        "harm": bars.harm(analysis, report.removed) if analysis.harms else None,
        "costs": bars.costs(analysis, report.removed, removed.shares(report))
        if analysis.harms
        else None,
        "fronts": [drawn for one in report.plan.fronts if (drawn := front(one))],
        "recovery": lines.recovery(report.recovery, share) if report.recovery else None,
    }
