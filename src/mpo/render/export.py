"""An export on a terminal: the formats with their files, parity and quality, what was not as
asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mpo.records import Export, Exported, Parity, Trunk
from mpo.render.names import clean
from mpo.render.text import format_quality
from mpo.units import format_bytes

DIGITS = 12  # of a sha256 that are shown
WORDS = {
    "complete": ("Exported", "bold green"),
    "partial": ("Partly exported", "bold yellow"),
    "below-floor": ("Exported below the quality floor", "bold red"),
}


def export_table(record: Export, folder: Path) -> RenderableType:
    """Return what to print with rich."""
    word, tone = WORDS[record.status]
    made = sum(one.ok for one in record.formats)
    title = f": {made} of {len(record.formats)} formats in {clean(str(folder))}"
    parts: list[RenderableType] = [Text.assemble((word, tone), title), Text(), _formats(record)]
    parts += [Text(), *map(Text, _facts(record.trunk))]
    parts += [Text(clean(text), style="yellow") for text in _told(record)]
    return Group(*parts)


def _formats(record: Export) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("Format", "File", "Size", "sha256", "State"):
        table.add_column(
            title,
            overflow="fold",
            no_wrap=title != "State",
            justify="right" if title == "Size" else "left",
        )
    for one in record.formats:
        if not one.files:
            table.add_row(Text(clean(one.format)), "", "", "", _state(one))
        for place, file in enumerate(one.files):
            name = one.format if place == 0 else ""
            state = _state(one) if place == 0 else Text()
            size, digest = format_bytes(file.bytes), file.sha256[:DIGITS]
            table.add_row(Text(clean(name)), Text(clean(file.path)), size, digest, state)
    return table


def _state(one: Exported) -> Text:
    if not one.ok:
        return Text(clean(f"not made: {one.reason}"), style="bold red")
    if one.parity is not None and one.ran:
        return Text(f"in parity: {_parity(one.parity)}", style="green")
    made = "made" if one.engine is None else "built"
    return Text(clean(f"{made}, not run: {one.ran_reason}"), style="yellow")


def _parity(parity: Parity) -> str:
    cosine = "" if parity.cosine is None else f", cosine {parity.cosine:.6f}"
    return (
        f"max difference {parity.max_abs:.2g} ({parity.max_rel:.1g} of the scale){cosine}, "
        f"{parity.agreement:.4g} of decisions, {parity.samples} samples"
    )


def _facts(trunk: Trunk) -> Iterator[str]:
    nodes = f"{trunk.nodes} nodes"
    if trunk.simplified:
        nodes += f" (simplified from {trunk.raw_nodes})"
    yield f"ONNX     opset {trunk.opset}, {nodes}, {trunk.precision}, by {trunk.tracer}"
    for axis in trunk.axes:
        yield (
            f"Axis     {clean(axis.name)} ({', '.join(map(clean, axis.inputs))}): engines take "
            f"{axis.low} to {axis.high}, best {axis.best} ({axis.source})"
        )
    for who, quality in trunk.quality.items():
        share = quality.metric == "accuracy"
        value = format_quality(quality.value, share)
        yield f"Quality  {who}: {clean(quality.metric)} {value} on {quality.samples} test samples"
    if trunk.conversion is not None:
        kept = len(trunk.conversion.kept)
        yield f"{trunk.precision:8} {kept} nodes stay in float32{_note(trunk.conversion.note)}"


def _note(text: str) -> str:
    return f"; {clean(text)}" if text else ""


def _told(record: Export) -> Iterator[str]:
    for one in record.formats:
        if not one.ok and one.hint:
            yield f"{one.format}: {one.hint}"
        yield from (f"{one.format}: {text}" for text in one.warnings)
    yield from record.warnings
