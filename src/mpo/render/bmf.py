"""A bench for trackers: Bencher Metric Format, and customSmallerIsBetter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import PurePath

from mpo.records import Bench, BenchMetric
from mpo.render.names import clean, shorten

BIGGER_IS_BETTER = {"throughput", "accuracy"}
LONGEST = 200


def bench_name(bench: Bench) -> str:
    """What trackers call the candidate: the file's name."""
    return shorten(PurePath(clean(bench.subjects[0].path)).name, LONGEST) or "model"


def _figures(bench: Bench) -> Iterator[tuple[str, BenchMetric, float]]:
    """The candidate's figures: name (with its target when there are several), metric, value."""
    several = len(bench.places) > 1
    for metric in bench.metrics:
        if metric.subject == "candidate" and metric.value is not None:
            where = f" on {clean(metric.target)}" if several and metric.target else ""
            yield f"{metric.name}{where}", metric, metric.value


def bencher(bench: Bench) -> str:
    """Bencher Metric Format: {benchmark: {measure: {value, lower_value, upper_value}}}.

    A measure is named with its unit: latency.p50 (ms).
    """
    measures: dict[str, dict[str, float]] = {}
    for name, metric, value in _figures(bench):
        entry = {"value": value}
        if metric.ci95 is not None:
            entry["lower_value"] = min(metric.ci95[0], value)
            entry["upper_value"] = max(metric.ci95[1], value)
        measures[f"{name} ({metric.unit})"] = entry
    return _json({bench_name(bench): measures})


def smaller_is_better(bench: Bench) -> str:
    """github-action-benchmark's customSmallerIsBetter: a list of name, unit, value and range."""
    rows = []
    for name, metric, value in _figures(bench):
        if metric.name in BIGGER_IS_BETTER:
            continue
        row: dict[str, object] = {
            "name": f"{bench_name(bench)}: {name}",
            "unit": metric.unit,
            "value": value,
        }
        if metric.ci95 is not None:
            row["range"] = f"± {(metric.ci95[1] - metric.ci95[0]) / 2:.4g}"
        rows.append(row)
    return _json(rows)


def _json(value: object) -> str:
    return json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
