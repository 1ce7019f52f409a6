"""Contracts on a terminal: verdict, every claim, what was searched."""

from __future__ import annotations

from typing import Literal

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mpo.records import Contract
from mpo.render.contracttext import facts, more, percent, sentence
from mpo.render.names import clean

TONES = {"kept": "bold green", "broken": "bold red", "undecided": "bold yellow"}


def terminal(record: Contract) -> RenderableType:
    """Return what to print with rich; names go into `Text`, never into markup."""
    title = " · ".join(
        clean(part) for part in (record.original.name, record.candidate.name, record.data.subject)
    )
    head = Text.assemble(
        (record.verdict.capitalize(), TONES[record.verdict]), ": ", sentence(record)
    )
    return Group(
        Text(title, style="dim"), head, Text(), claims_table(record), Text(), _facts(record)
    )


def claims_table(record: Contract) -> RenderableType:
    """A row a claim."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("Differ on", no_wrap=True)
    for title in ("Samples", "Differ", "Share", "Bounds", "Allowed", "Verdict", "More"):
        side: Literal["left", "right"] = "left" if title == "Verdict" else "right"
        table.add_column(title, justify=side, no_wrap=True)
    names = {"overall": "all inputs", "region": "region"}
    for claim in record.claims:
        low = percent(claim.low, up=False).removesuffix(" %")
        bounds = f"{low} to {percent(claim.high, up=True)}"
        table.add_row(
            Text(names.get(claim.stratum, f"class {clean(claim.label)}")),
            f"{claim.samples:,}",
            f"{claim.differ:,}",
            percent(claim.rate),
            bounds,
            percent(claim.eps),
            Text(claim.verdict, style=TONES[claim.verdict]),
            more(claim),
        )
    return Padding(table, (0, 0, 0, 2))


def _facts(record: Contract) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, told in facts(record):
        table.add_row(name, Text(told))
    return table
