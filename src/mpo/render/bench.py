"""A bench on a terminal and as Markdown: figures with their units, then each rule's verdict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mpo.records import Bench, BenchComparison, BenchMetric, BenchRuns
from mpo.render.markdown import code, escape
from mpo.render.names import clean, shorten
from mpo.render.text import signed
from mpo.units import format_bytes, format_count, format_ms

NAMES = {
    "latency.p50": "Latency p50",
    "latency.p90": "Latency p90",
    "latency.load": "Load",
    "latency.first": "First call",
    "memory": "Peak memory",
    "size": "File size",
    "params": "Parameters",
    "macs": "MACs",
    "accuracy": "Quality",
}
# The comparison that a row shows: of latency the one from both models in turn.
BESIDE = {"latency.p50": "latency"}
TONES = {"pass": "green", "fail": "bold red", "inconclusive": "bold yellow", "not-gated": "dim"}
WORDS = {
    "pass": "Pass",
    "fail": "Regression",
    "inconclusive": "Inconclusive",
    "not-gated": "Measured",
}
MARKS = {"pass": "✅", "fail": "❌", "inconclusive": "⚠️", "not-gated": "📏"}


@dataclass(frozen=True, slots=True)
class Line:
    """One figure of both models as text."""

    label: str
    baseline: str
    candidate: str
    change: str


def value_text(value: float, unit: str) -> str:
    """A figure with its unit."""
    if unit == "ms":
        return format_ms(value)
    if unit == "B":
        return format_bytes(value)
    if unit == "count":
        return format_count(value)
    return f"{value:.4g}" if unit in ("", "share") else f"{value:.4g} {unit}"


def figure_text(metric: BenchMetric) -> str:
    """ "1.23 ms ± 0.04": half the interval's width after the sign."""
    if metric.value is None:
        return "-"
    shown = value_text(metric.value, metric.unit)
    if metric.ci95 is None or metric.ci95[0] == metric.ci95[1]:
        return shown
    if not metric.value:
        return shown
    half = 50 * (metric.ci95[1] - metric.ci95[0]) / abs(metric.value)
    return f"{shown} ± {half:.{0 if half >= 10 else 1}f} %"


def change_text(one: BenchComparison) -> str:
    """ "+5.1 % [+4.7, +5.6]"; without bounds, or exact, the figure alone."""
    if one.estimate is None:
        return "-"
    change = one.unit in ("%", "pp")

    def shown(value: float | None) -> str:
        if value is None:
            return "-"
        return signed(value, 1) if change else value_text(value, one.unit)

    text = f"{shown(one.estimate)} {one.unit}" if change else shown(one.estimate)
    if one.pairing == "exact" or (one.low is None and one.high is None):
        return text
    if one.low is None:  # rules that share alpha have no lower bound from few pairs
        return f"{text} [≤ {shown(one.high)}]"
    return f"{text} [{shown(one.low)}, {shown(one.high)}]"


def reason_text(one: BenchComparison) -> str:
    """How a verdict came about: pairs, what noise hides, why it is open."""
    parts = []
    if one.pairs:
        parts.append(f"{one.pairs} {_PAIRS[one.pairing]}")
    if one.mde is not None:
        unit = one.unit if one.unit in ("%", "pp") else ""
        shown = f"{one.mde:+.1f} {unit}" if unit else value_text(one.mde, one.unit)
        parts.append(f"{shown} would be confirmed 9 times in 10")
    if one.reason:
        parts.append(clean(one.reason).rstrip("."))
    return "; ".join(parts)


_PAIRS = {
    "in-process": "pairs in turn",
    "process": "pairs of processes",
    "stored": "processes each",
    "absolute": "processes",
    "exact": "",
}


def targets_of(bench: Bench) -> tuple[str, ...]:
    """The targets, in order; names are as they were asked for."""
    return tuple(place.target for place in bench.places)


def lines(bench: Bench, target: str) -> tuple[Line, ...]:
    """The figures of one target, exact ones and quality with those of the first."""
    first = target == bench.places[0].target
    found = {
        (one.subject, one.name): one
        for one in bench.metrics
        if one.target == target or (first and not one.target)
    }
    rows = []
    for name, label in NAMES.items():
        if ("candidate", name) not in found:
            continue
        old = found.get(("baseline", name))
        beside = next(_comparisons(bench, BESIDE.get(name, name), target), None)
        rows.append(
            Line(
                label,
                figure_text(old) if old else "",
                figure_text(found["candidate", name]),
                change_text(beside) if beside else "",
            )
        )
    runs = next((one for one in bench.runs if one.target == target), None)
    return (*rows, *(gpu_lines(runs) if runs else ()))


def gpu_lines(runs: BenchRuns) -> Iterator[Line]:
    """The GPU's state while the models took turns, and how many pairs were throttled."""
    told = [one for one in runs.pairs_telemetry if one is not None]
    if not told:
        return
    clocks = [one.sm_clock_mhz for one in told if one.sm_clock_mhz is not None]
    if clocks:
        low, high = min(low for low, _ in clocks), max(high for _, high in clocks)
        yield Line("SM clock", "", f"{low:.0f} to {high:.0f} MHz", "")
    hottest = max((one.temperature_c or 0.0 for one in told), default=0.0)
    if hottest:
        yield Line("GPU at most", "", f"{hottest:.0f} °C", "")
    throttled = sum(one.throttled for one in told)
    yield Line("Throttled pairs", "", f"{throttled} of {len(told)}", "")


def _comparisons(bench: Bench, metric: str, target: str) -> Iterator[BenchComparison]:
    """Comparisons with the baseline that fit a row."""
    for one in bench.comparisons:
        if one.metric == metric and one.target in ("", target) and one.unit in ("%", "pp"):
            yield one


def rules_of(bench: Bench) -> tuple[BenchComparison, ...]:
    """What was gated."""
    return tuple(one for one in bench.comparisons if one.rule)


def headline(bench: Bench) -> str:
    """The verdict in one sentence."""
    gated = rules_of(bench)
    words = (("fail", "failed"), ("inconclusive", "inconclusive"), ("pass", "passed"))
    counts = {word: sum(one.verdict == verdict for one in gated) for verdict, word in words}
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    return f"{len(gated)} {'rule' if len(gated) == 1 else 'rules'}: {told}" if gated else "no rules"


def title(bench: Bench) -> str:
    """What was measured where."""
    names = [shorten(one.path, 60) for one in bench.subjects]
    place = bench.places[0]
    threads = place.session.threads
    where = ", ".join(clean(name) for name in targets_of(bench))
    return (
        f"{' against '.join(names)} · {where} · batch {place.batch} · "
        f"{threads} {'thread' if threads == 1 else 'threads'}"
    )


def terminal(bench: Bench) -> RenderableType:
    """Return what to print with rich; names are put into `Text` and never obeyed as markup."""
    parts: list[RenderableType] = [Text(title(bench), style="dim")]
    if bench.verdict != "not-gated":
        word = Text(WORDS[bench.verdict], style=TONES[bench.verdict])
        parts.append(Text.assemble(word, f": {headline(bench)}"))
    for target in targets_of(bench):
        if len(bench.places) > 1:
            parts.append(Text(f"On {clean(target)}", style="bold"))
        parts.append(_table(bench, target))
    gated = rules_of(bench)
    if gated:
        parts += [Text(), _verdicts(gated, several=len(bench.places) > 1)]
    for warning in bench.warnings:
        words = f" {clean(warning.detail)} {clean(warning.remedy)}"
        parts.append(Text.assemble(("Warning", "yellow"), words))
    return Group(*parts)


def _table(bench: Bench, target: str) -> RenderableType:
    both = bench.subject("baseline") is not None
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    for name in (("Baseline",) if both else ()) + ("Candidate",) + (("Change",) if both else ()):
        table.add_column(name, justify="right")
    for line in lines(bench, target):
        cells = [line.label, line.baseline, line.candidate, line.change]
        table.add_row(*map(Text, cells if both else [line.label, line.candidate]))
    return Padding(table, (0, 0, 0, 2))


def _verdicts(gated: Iterable[BenchComparison], *, several: bool) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(3):
        grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for one in gated:
        rule = clean(f"{one.rule} on {one.target}" if several and one.target else one.rule)
        word = Text(one.verdict.upper(), style=TONES[one.verdict])
        grid.add_row(word, Text(rule), Text(change_text(one)), Text(reason_text(one), style="dim"))
    return grid


def markdown(bench: Bench) -> str:
    """The bench as GitHub-flavoured Markdown; every text from outside is escaped."""
    names = " against ".join(code(shorten(one.path, 120), cell=False) for one in bench.subjects)
    parts = [f"# {MARKS[bench.verdict]} {WORDS[bench.verdict]}: {names}", escape(headline(bench))]
    gated = rules_of(bench)
    if gated:
        body = [
            (MARKS[one.verdict], code(_ruled(one)), change_text(one), escape(reason_text(one)))
            for one in gated
        ]
        parts.append(_markdown_table(("", "Rule", "Measured", "How"), body))
    for place in bench.places:
        head = ("Figure", "Baseline", "Candidate", "Change")
        rows = lines(bench, place.target)
        body = [(one.label, one.baseline, one.candidate, one.change) for one in rows]
        device = place.device
        runtime = device.runtimes.get("onnxruntime", "unknown")
        threads = place.session.threads
        parts += [
            f"## On {escape(place.target)}",
            _markdown_table(head, body),
            escape(
                f"{device.cpu.model}, {device.cpu.cores or '?'} cores, onnxruntime {runtime}, "
                f"batch {place.batch}, threads {threads}, fingerprint {place.fingerprint[:12]}"
            ),
        ]
    if bench.warnings:
        told = "\n".join(f"- {escape(f'{one.detail} {one.remedy}')}" for one in bench.warnings)
        parts.append(f"## Warnings\n\n{told}")
    if not bench.quality:
        parts.append(
            "Quality was not measured: a speed says nothing without it (`--data SUBJECT`)."
        )
    return "\n\n".join(parts) + "\n"


def _ruled(one: BenchComparison) -> str:
    return f"{one.rule} on {one.target}" if one.target else one.rule


def _markdown_table(head: tuple[str, ...], body: Iterable[tuple[str, ...]]) -> str:
    rows = [head, tuple("---" for _ in head), *body]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
