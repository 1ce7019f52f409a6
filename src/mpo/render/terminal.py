"""Reports on a terminal, in a few lines: verdict, both models side by side, budgets, warnings."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mpo.records import Analysis, Report
from mpo.render.acceptance import TONES as ACCEPTED
from mpo.render.acceptance import acceptance_line, round_lines
from mpo.render.contract import TONES
from mpo.render.contracttext import sentence
from mpo.render.names import clean, compact_names
from mpo.render.text import Row, asked, budget_line, removed_line, rows, target_rows, verdict
from mpo.units import format_bytes, format_count

_TONES = {"good": "bold green", "bad": "bold red"}


def terminal(report: Report) -> RenderableType:
    """Return what to print with rich.

    Names are put into `Text` objects, never into markup, so that nothing in them is obeyed.
    """
    outcome = verdict(report)
    head = Text.assemble((outcome.word, _TONES[outcome.tone]), ": ", outcome.sentence)
    tables = [_figures(rows(report))]
    for other in report.others:
        tables += [Text(), Text(f"On {clean(other.original.target)}", style="bold")]
        tables += [_figures(target_rows(other))]
    return Group(_title(report), head, Text(), *tables, Text(), _facts(report))


def _title(report: Report) -> Text:
    facts = (report.subject, report.target, report.method, f"seed {report.seed}")
    return Text(" · ".join(clean(fact) for fact in facts), style="dim")


def _figures(lines: tuple[Row, ...]) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    for title in ("Original", "Optimized", "Ratio [95 %]"):
        table.add_column(title, justify="right")
    for row in lines:
        cells = (row.label, row.before, row.after, row.change)
        table.add_row(*(Text(cell) for cell in cells))
    return Padding(table, (0, 0, 0, 2))


def _facts(report: Report) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for budget in report.budgets:
        state = ("met", "green") if budget.met else ("NOT MET", "bold red")
        line = f"  {asked(report, budget)}: {budget_line(budget)}"
        grid.add_row("Budget", Text.assemble(state, line))
    grid.add_row("Blocks", Text(removed_line(report, limit=12)))
    if report.acceptance is not None:
        given = report.acceptance.verdict
        line = f"  {acceptance_line(report, report.acceptance)}"
        grid.add_row("Guard", Text.assemble((given, ACCEPTED[given]), line))
    for line in round_lines(report):
        grid.add_row("", Text(clean(line)))
    if report.contract is not None:
        state = (report.contract.verdict, TONES[report.contract.verdict])
        line = f"  {sentence(report.contract)}"
        grid.add_row("Contract", Text.assemble(state, line))
    if report.artifacts:
        files = (f"{clean(file.path)} ({format_bytes(file.bytes)})" for file in report.artifacts)
        grid.add_row("Files", Text(", ".join(files)))
    for line in _parity(report):
        grid.add_row("Parity", Text(line))
    for warning in report.warnings:
        grid.add_row(Text("Warning", "yellow"), Text(clean(warning)))
    return grid


def _parity(report: Report) -> list[str]:
    lines = []
    for name, parity in report.parity.items():
        state = "in parity" if parity.ok else f"NOT in parity: {clean(parity.reason)}"
        lines.append(
            f"{clean(name)} {state} (agreement {100 * parity.agreement:.4g} %, "
            f"max difference {parity.max_abs:.2g}, {parity.samples:,} samples)"
        )
    return lines


def analysis_table(analysis: Analysis) -> RenderableType:
    """Return every block with its cost and harm, then the clusters: what `mpo analyze` prints."""
    harms = {item.name: item for item in analysis.harms}
    cluster = {name: i for i, found in enumerate(analysis.clusters, 1) for name in found.members}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("Block", "Parameters", "MACs", "KL", "Agree", "Branch", "Note"):
        left = title in {"Block", "Note"}
        table.add_column(title, justify="left" if left else "right", overflow="fold")
    for block in analysis.blocks:
        harm = harms.get(block.name)
        note = f"cluster {cluster[block.name]}" if block.name in cluster else ""
        cells = (
            clean(block.name),
            format_count(block.params),
            format_count(block.macs),
            f"{harm.kl:.3g}" if harm else "",
            f"{100 * harm.agreement:.1f} %" if harm else "",
            f"{harm.branch_ratio:.2f}" if harm else "",
            note if block.removable else f"stays: {clean(block.reason)}",
        )
        table.add_row(*map(Text, cells), style="" if block.removable else "dim")
    return Group(table, Text(), *_clusters(analysis))


def _clusters(analysis: Analysis) -> list[Text]:
    can_go = sum(block.removable for block in analysis.blocks)
    lines = [
        f"{can_go} of {len(analysis.blocks)} blocks can be removed. CKA over "
        f"{analysis.samples:,} samples; threshold {analysis.threshold:g}, 95 % of unrelated "
        f"pairs under {analysis.null_95:.3f}.",
        *(
            f"Cluster {number}: {compact_names(found.members)}, CKA {found.min_cka:.3f} or more"
            for number, found in enumerate(analysis.clusters, 1)
        ),
    ]
    return [Text(line) for line in lines]
