"""The report as GitHub-flavoured Markdown: for a job summary, a pull request, a run folder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from mpo.records import Report, TargetReport
from mpo.render.acceptance import acceptance_line, round_lines
from mpo.render.contracttext import sentence
from mpo.render.names import clean, compact_names
from mpo.render.text import (
    METRICS,
    asked,
    blocks_of,
    candidates,
    format_metric,
    format_quality,
    format_seconds,
    is_chosen,
    is_share,
    rows,
    target_rows,
    verdict,
)
from mpo.units import format_bytes

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~$&]|:(?=//)|(?<=www)\.)")


def escape(text: str) -> str:
    """Make any text plain Markdown prose: no markup, HTML, link, mention or table border."""
    # A word joiner after "@" keeps GitHub from notifying a person; it cannot be seen.
    return _SPECIAL.sub(r"\\\1", clean(text)).replace("@", "@\u2060")


def code(text: str, *, cell: bool = True) -> str:
    """A code span, whatever backticks the text has; in a table `cell` bars are escaped too."""
    plain = clean(text) or " "
    plain = plain.replace("|", "\\|") if cell else plain
    longest = max((len(run) for run in re.findall("`+", plain)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if longest else ""
    return f"{fence}{pad}{plain}{pad}{fence}"


def markdown(report: Report) -> str:
    """Return the report as Markdown; every text from outside is escaped."""
    outcome = verdict(report)
    mark = "✅" if outcome.tone == "good" else "❌"
    parts = [
        f"# {mark} {outcome.word}: {code(report.subject, cell=False)}",
        escape(outcome.sentence),
        _figures(report),
        *(_target(other) for other in report.others),
        _budgets(report),
        f"**Removed:** {code(compact_names(report.removed), cell=False)} "
        f"({len(report.removed)} of {report.blocks} blocks)",
        _acceptance(report),
        _contract(report),
        _warnings(report),
        _plans(report),
        _files(report),
        _environment(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _acceptance(report: Report) -> str:
    found = report.acceptance
    if found is None:
        return ""
    head = f"**Guard, {found.verdict}:** {escape(acceptance_line(report, found))}"
    steps = "\n".join(f"- {escape(clean(line))}" for line in round_lines(report))
    return f"{head}\n\n{steps}" if steps else head


def _contract(report: Report) -> str:
    if report.contract is None:
        return ""
    told = sentence(report.contract)
    return f"**Contract {report.contract.verdict}:** {escape(told)}"


def _table(head: Sequence[str], body: Iterable[Sequence[str]], right: int = 99) -> str:
    rule = ["---" if place < right else "---:" for place in range(len(head))]
    lines = [head, rule, *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _figures(report: Report) -> str:
    body = [(escape(r.label), r.before, r.after, r.change) for r in rows(report)]
    pairs = report.ratio.latency.pairs
    paired = f"; p50 from {pairs} paired measurements" if pairs else ""
    note = f"Ratio: optimized / original{paired}; intervals are 95 %."
    return _table(("Figure", "Original", "Optimized", "Ratio"), body, right=1) + f"\n\n{note}"


def _target(other: TargetReport) -> str:
    body = [(escape(r.label), r.before, r.after, r.change) for r in target_rows(other)]
    table = _table(("Figure", "Original", "Optimized", "Ratio"), body, right=1)
    return f"## On {escape(other.original.target)}\n\n{table}"


def _budgets(report: Report) -> str:
    if not report.budgets:
        return ""
    body = [
        (
            code(asked(report, budget)),
            METRICS[budget.metric],
            format_metric(budget.metric, budget.limit),
            format_metric(budget.metric, budget.measured),
            "met" if budget.met else "**not met**",
        )
        for budget in report.budgets
    ]
    return "## Budgets\n\n" + _table(("Budget", "Figure", "Limit", "Measured", "Result"), body)


def _warnings(report: Report) -> str:
    if not report.warnings:
        return ""
    return "## Warnings\n\n" + "\n".join(f"- {escape(text)}" for text in report.warnings)


def _plans(report: Report) -> str:
    share = is_share(report)
    body = [
        (
            "**chosen**" if is_chosen(report.plan, plan) else "",
            str(len(plan.removed)),
            f"{plan.harm:.3g}",
            "" if plan.joint_kl is None else f"{plan.joint_kl:.3g}",
            "" if plan.recovered_quality is None else format_quality(plan.recovered_quality, share),
            code(blocks_of(report.plan, plan, limit=8)),
        )
        for plan in candidates(report.plan)[:8]
    ]
    head = ("", "Blocks out", "Harm", "Joint KL", "After recovery", "Blocks")
    return "## Plans considered\n\n" + _table(head, body)


def _files(report: Report) -> str:
    body = [
        (code(f.path), escape(f.format), escape(f.precision), format_bytes(f.bytes), code(f.sha256))
        for f in report.artifacts
    ]
    parity = [
        f"- {escape(name)}: {'in parity' if p.ok else '**not in parity** ' + escape(p.reason)}; "
        f"agreement {100 * p.agreement:.4g} %, max difference {p.max_abs:.2g}, "
        f"{p.samples:,} samples"
        for name, p in report.parity.items()
    ]
    files = _table(("File", "Format", "Precision", "Size", "SHA-256"), body) if body else ""
    return (
        "\n\n".join(["## Files", *filter(None, (files, "\n".join(parity)))])
        if body or parity
        else ""
    )


def _environment(report: Report) -> str:
    env = report.environment
    runtimes = ", ".join(f"{clean(name)} {clean(text)}" for name, text in env.runtimes.items())
    facts = (
        f"mpo {report.tool.get('version', 'unknown')}, method {report.method}, seed {report.seed}",
        f"target {report.target}: {env.cpu}, {env.cores} cores, {format_bytes(env.memory_bytes)}",
        f"{env.os}, Python {env.python}, {runtimes}",
        f"batch {env.batch}, threads {env.threads}, "
        f"took {format_seconds(sum(report.seconds.values()))}",
    )
    return "## Measured on\n\n" + "\n".join(f"- {escape(fact)}" for fact in facts)
