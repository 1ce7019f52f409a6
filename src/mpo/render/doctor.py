"""What `mpo doctor` prints: works or not, then backends, packages, advisories, and what to do."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mpo.records import Doctor, Package
from mpo.render.names import clean
from mpo.units import format_bytes

TONES = {
    **{"works": "green", "ok": "green", "builds": "green"},
    **{"missing": "dim", "old": "bold red", "fails": "bold red"},
}
LITTLE_BYTES = 1_000_000_000  # a run folder of a small model with its stages


def doctor(record: Doctor, *, verbose: bool = False) -> RenderableType:
    """Return what to print with rich.

    Args:
        verbose: all packages; otherwise those of the core only when something is wrong with them.
    """
    word, tone = ("The core works", "bold green") if record.ok else ("NOT WORKING", "bold red")
    rest = "" if record.ok else ": see what fails or is missing below"
    parts: list[RenderableType] = [
        _title(record),
        Text.assemble((word, tone), f"{rest}."),
        Text(),
        _trials(record),
    ]
    parts += [Text(), _packages(record, verbose), *_place(record), *_advisories(record)]
    return Group(*parts, *_todo(record))


def _title(record: Doctor) -> Text:
    facts = (
        f"mpo {record.tool['version']}",
        f"Python {record.python}",
        record.os,
        f"{record.cores} cores, {format_bytes(record.memory_bytes)}",
        record.gpu or "no GPU",
    )
    return Text(" · ".join(clean(fact) for fact in facts), style="dim")


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in titles:
        table.add_column(title, overflow="fold", no_wrap=title != titles[-1])
    return table


def _trials(record: Doctor) -> Table:
    table = _table("Backend", "State", "Seen")
    for trial in record.trials:
        state = Text(trial.state, style=TONES[trial.state])
        table.add_row(Text(clean(trial.backend)), state, Text(clean(trial.told)))
    return table


def _packages(record: Doctor, verbose: bool) -> Table:
    table = _table("Package", "Part", "Wanted", "Installed")
    for row in record.packages:
        if verbose or row.part != "core" or row.state != "ok":
            here = Text(row.installed or "missing", style=TONES[row.state])
            table.add_row(Text(row.name), Text(row.part), Text(row.wanted), here)
    core = [row for row in record.packages if row.part == "core"]
    if not verbose:
        good = sum(row.state == "ok" for row in core)
        table.add_row(f"{good} of {len(core)}", "core", "", "ok (-v lists them)")
    return table


def _place(record: Doctor) -> list[Text]:
    place = record.place
    lines = [Text(), Text(f"{format_bytes(place.free_bytes)} free in {clean(place.folder)}.")]
    if not place.writable:
        told = f"Nothing can be written there: {clean(place.reason)}. Choose another folder."
        lines.append(Text(told, style="bold red"))
    elif place.free_bytes < LITTLE_BYTES:
        lines.append(Text("That is little: a run keeps both models several times.", style="yellow"))
    return lines


def _advisories(record: Doctor) -> list[Text]:
    if not record.advisories:
        return [Text(f"No known advisory against what is installed ({record.advisories_date}).")]
    lines = []
    for row in record.advisories:
        head = f"{row.package} {row.installed}: {', '.join(row.ids)}, {row.text}"
        lines.append(Text(clean(f"{head}; fixed in {row.fixed_in} ({row.source})"), style="yellow"))
    return lines


def _todo(record: Doctor) -> list[RenderableType]:
    """The lines that bring what is missing, each once; the needed ones first."""
    table = _table("To get", "Run")
    for row in record.packages:
        if row.install:
            table.add_row(Text(_what(row)), Text(row.install))
    for advisory in record.advisories:
        table.add_row(Text(f"{advisory.package} without {advisory.ids[0]}"), Text(advisory.install))
    named = tuple(row.install for row in record.packages if row.install)
    for trial in record.trials:
        if trial.install and trial.state == "missing" and not trial.install.startswith(named):
            table.add_row(Text(clean(trial.backend)), Text(clean(trial.install)))
    return [Text(), table] if table.row_count else []


def _what(row: Package) -> str:
    return f"{row.name} {row.wanted}" if row.state == "old" else row.name
