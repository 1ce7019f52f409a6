"""A bundle's model card, and a bundle on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from mpo.records import Bundle, BundleTarget, BundleTensor, Report
from mpo.render.markdown import code, escape
from mpo.render.names import clean, compact_names
from mpo.render.text import is_share, quality_interval, rows, verdict
from mpo.units import format_bytes, format_ms

RUN = """```console
$ python3 mpo_edge.py verify FILE.mpo      # every byte is what the manifest says
$ python3 mpo_edge.py selftest FILE.mpo    # the samples come out as they did where it was made
$ python3 mpo_edge.py run FILE.mpo --input x.npz --output y.npz
$ python3 mpo_edge.py bench FILE.mpo       # latency and memory on this device
```"""


def card(bundle: Bundle, report: Report) -> str:
    """The model card as Markdown; every text from outside is escaped."""
    share, quality = is_share(report), report.optimized.quality
    parts = [
        f"# {escape(bundle.name)} {escape(bundle.version)}",
        escape(verdict(report).sentence),
        "## Model",
        "| | |\n|---|---|\n" + "\n".join(f"| {key} | {value} |" for key, value in _facts(bundle)),
        "## Figures",
        f"On {quality.samples} test examples: {escape(quality.metric)} "
        f"{escape(quality_interval(quality, share))}.",
        _figures(report),
        f"Removed: {code(compact_names(report.removed), cell=False)} "
        f"({len(report.removed)} of {report.blocks} blocks).",
        "## Devices",
        "*Tested* means measured there; *expected* means that nobody has.",
        _devices(bundle),
        "## Running it",
        "Needs Python, numpy and onnxruntime "
        f"{escape(bundle.runtime.onnxruntime)} or newer; `mpo_edge.py` lies in `runtime/`.",
        RUN,
        "## Limits",
        "\n".join(f"- {escape(text)}" for text in bundle.limitations) or "None were stated.",
    ]
    return "\n\n".join(parts) + "\n"


def _facts(bundle: Bundle) -> list[tuple[str, str]]:
    model = bundle.model
    return [
        ("format", f"ONNX, opset {model.opset}, {escape(model.precision)}"),
        ("parameters", f"{model.params:,}"),
        ("bytes", format_bytes(model.bytes)),
        *(("input", code(_shape(one))) for one in bundle.inputs),
        *(("output", code(_shape(one))) for one in bundle.outputs),
        ("licence", escape(bundle.license)),
        ("original", code(bundle.lineage.original or "not known")),
    ]


def _shape(one: BundleTensor) -> str:
    return f"{one.name} {one.dtype} {'x'.join(map(str, one.shape)) or 'scalar'}"


def _figures(report: Report) -> str:
    head = "| | original | this model | |\n|---|--:|--:|--:|\n"
    lines = (
        f"| {escape(row.label)} | {escape(row.before)} | {escape(row.after)} | "
        f"{escape(row.change)} |"
        for row in rows(report)
    )
    return head + "\n".join(lines)


def _devices(bundle: Bundle) -> str:
    head = "| device | | p50 | p90 | peak memory |\n|---|---|--:|--:|--:|\n"
    return head + "\n".join("| " + " | ".join(_device(one)) + " |" for one in bundle.targets)


def _device(one: BundleTarget) -> tuple[str, ...]:
    name = code(f"{one.name}: {one.cpu}" if one.cpu else one.name)
    if one.latency_p50_ms is None or one.latency_p90_ms is None or one.peak_memory_bytes is None:
        return (name, one.status, "", "", "")
    peak = format_bytes(one.peak_memory_bytes)
    times = format_ms(one.latency_p50_ms), format_ms(one.latency_p90_ms)
    return (name, one.status, *times, peak)


def bundle_table(bundle: Bundle, facts: Mapping[str, Any]) -> Table:
    """A bundle on the terminal: what it is, and what else is known of it."""
    table = Table(show_header=False, box=None, padding=(0, 1))
    targets = [f"{clean(one.name)} ({one.status})" for one in bundle.targets]
    lines = {
        "bundle": f"{bundle.name} {bundle.version} (version {bundle.bundle_version})",
        "model": f"{bundle.model.precision}, {format_bytes(bundle.model.bytes)}, "
        f"{bundle.model.params:,} parameters",
        "targets": ", ".join(targets) or "none",
        "licence": bundle.license,
        **facts,
    }
    for key, value in lines.items():
        table.add_row(Text(clean(key), style="bold"), Text(clean(str(value))))
    return table
