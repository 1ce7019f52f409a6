"""Every figure of a bench's models, as the record tells it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mpo.gate import bootstrap_interval, percentile
from mpo.pipeline.bench.comparing import LATENCY_FIELDS, MEMORY_FIELDS, figures
from mpo.records import BenchMetric, BenchRuns, BenchSubject, Quality, Which
from mpo.rules import MEASURES

SAMPLED_MS = 10.0  # profiles/worker.py looks so often where the system tells no peak
P99_SAMPLES = 662  # MEASURING.md 1.1: fewer say nothing about one call in a hundred
INTERVAL_PROCESSES = 3
EXACT = {
    "size": "bytes", "params": "params", "nodes": "nodes", "macs": "macs",
    "engine.memory": "engine_memory_bytes",
}  # fmt: skip
UNITS = {"ms": "ms", "bytes": "B", "count": "count", "share": "share"}


@dataclass(frozen=True)
class Found:
    """All that was measured.

    Attributes:
        baseline: measured beside, or as it was stored.
        runs: raw figures of each target.
        stored: those of a stored baseline by target; empty when none is used.
        quality: of each model, when there is data.
        batch: examples of one inference.
        looks: after how many pairs a verdict is sought.
    """

    candidate: BenchSubject
    baseline: BenchSubject | None
    runs: tuple[BenchRuns, ...]
    stored: Mapping[str, BenchRuns]
    quality: Mapping[Which, Quality]
    batch: int
    looks: tuple[int, ...]


def figure(subject: BenchSubject, metric: str) -> float | None:
    """An exact figure of a model by its metric's name."""
    return getattr(subject, EXACT[metric])  # type: ignore[no-any-return]


def is_share(quality: Quality) -> bool:
    """Whether the metric is a share, so that points fit."""
    return 0.0 <= quality.ci95[0] <= quality.ci95[1] <= 1.0


def metrics_of(found: Found) -> tuple[BenchMetric, ...]:
    """Every figure of every model."""
    subjects = [one for one in (found.candidate, found.baseline) if one is not None]
    rows: list[BenchMetric] = []
    for runs in found.runs:
        rows += _measured("candidate", runs, found.batch)
        rows += _measured("baseline", runs, found.batch) if runs.alone.get("baseline") else []
    for subject in subjects:
        engine = subject.engine_memory_bytes is not None
        rows += [_exact(subject, one) for one in EXACT if engine or one != "engine.memory"]
    for which, quality in found.quality.items():
        rows.append(
            BenchMetric(
                name="accuracy",
                unit="share" if is_share(quality) else "",
                subject=which,
                value=quality.value,
                ci95=quality.ci95,
                n_samples=quality.samples,
                method=quality.metric,
                deterministic=True,
            )
        )
    return tuple(rows)


def _exact(subject: BenchSubject, metric: str) -> BenchMetric:
    value = figure(subject, metric)
    return BenchMetric(
        name=metric,
        unit=UNITS[MEASURES[metric].dimension],
        subject=subject.id,
        value=value,
        reason=""
        if value is not None
        else "the file does not tell: a format without a graph, an unknown shape, or control flow",
        deterministic=True,
    )


def _measured(which: Which, runs: BenchRuns, batch: int) -> Iterator[BenchMetric]:
    calls = sum(one.samples for one in runs.alone[which])
    for name in (*LATENCY_FIELDS, *MEMORY_FIELDS):
        values, memory = figures(name, which, runs), name in MEMORY_FIELDS
        once = memory or name in ("latency.load", "latency.first")
        yield BenchMetric(
            name="latency.p10" if name == "latency" else name,
            unit="B" if memory else "ms",
            subject=which,
            target=runs.target,
            value=statistics.median(values),
            ci95=_interval(values),
            n_processes=len(values),
            n_samples=len(values) if once else calls,
            **(_how(which, runs) if memory else {"method": "alone"}),
        )
    yield from _device(which, runs, calls)
    kept = runs.samples_ms.get(which, ())
    enough = len(kept) >= P99_SAMPLES
    yield BenchMetric(
        name="latency.p99",
        unit="ms",
        subject=which,
        target=runs.target,
        value=percentile(kept, 0.99) if enough else None,
        reason="" if enough else f"{len(kept)} calls are too few; {P99_SAMPLES} are needed",
        n_processes=len(runs.alone[which]),
        n_samples=len(kept),
        method="alone",
    )
    yield BenchMetric(
        name="throughput",
        unit="1/s",
        subject=which,
        target=runs.target,
        value=1000 * batch / statistics.median(one.p50_ms for one in runs.alone[which]),
        n_processes=len(runs.alone[which]),
        n_samples=calls,
        method="batch / p50",
    )


def _device(which: Which, runs: BenchRuns, calls: int) -> Iterator[BenchMetric]:
    """The GPU's own time, where something tells it."""
    inside = [one.device_p50_ms for one in runs.alone[which]]
    if device := [value for value in inside if value is not None]:
        yield BenchMetric(
            name="latency.device",
            unit="ms",
            subject=which,
            target=runs.target,
            value=statistics.median(device),
            ci95=_interval(device),
            n_processes=len(device),
            n_samples=calls,
            method="device events, copies excluded; the other latencies are wall time with them",
        )


def _how(which: Which, runs: BenchRuns) -> dict[str, Any]:
    """How memory was taken: what a reader must know to compare it with another figure."""
    sampled = any(one.method == "rss-sampled" for one in runs.memory[which])
    method = "rss-sampled" if sampled else "vmhwm"
    return {
        "method": f"{method} of a lean process, above the empty runtime",
        "scope": "process",
        "baseline_subtracted": True,
        "resolution_ms": SAMPLED_MS if sampled else None,
    }


def _interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % of the median, by bootstrap over processes."""
    if len(values) < INTERVAL_PROCESSES:
        return None
    return bootstrap_interval(
        len(values), lambda rows: statistics.median(values[place] for place in rows)
    )
