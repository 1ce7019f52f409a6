"""The costs stage: a table of what each block costs on every target of a run."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import get_args

from mpo.optimizer.blocks.isolate import Isolated, isolate
from mpo.optimizer.data.batches import limit
from mpo.pipeline.plan.parts import Parts, Source, take_apart
from mpo.pipeline.run.budgets import COUNTED, key_of
from mpo.pipeline.run.context import Context
from mpo.pipeline.run.fingerprints import fingerprint_package
from mpo.pipeline.run.measuring import Measured
from mpo.pipeline.run.places import Place
from mpo.pipeline.run.precision import CALIBRATED
from mpo.pipeline.run.saved import read, save
from mpo.profiles.calibration import refit
from mpo.profiles.table import measure_table
from mpo.profiles.turns import AnchorFile
from mpo.records import Analysis, CostTable, Metric, PlanCandidate, Precision
from mpo.records.costs import FULL

TABLES = "costs"  # the stage; of another precision than fp32 "costs-int8"
ALL: tuple[Metric, ...] = get_args(Metric)


def cost_tables(
    context: Context,
    analysis: Analysis,
    original: Measured,
    metrics: Collection[Metric],
    precision: Precision = "fp32",
) -> tuple[CostTable, ...]:
    """A table for every target, kept while blocks, original, sessions and devices are the same.

    Args:
        original: in this precision.
        metrics: what the tables must know. Parameters and multiply-accumulates need no measurement;
            for any other, all are measured, so that another budget finds them.
    """
    source = _source(context, analysis, precision)
    wanted = sorted(COUNTED if set(metrics) <= COUNTED else ALL)
    alone = isolate(source.model, source.names, source.run)

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="mpo-costs-") as scratch:
            parts = take_apart(source, alone, Path(scratch), wanted, context.progress)
            for number, place in enumerate(context.places):
                table = _measured(context, place, parts, wanted, original, number)
                save(table, folder / f"costs-{number}.json")

    key = _key(context, source, alone, wanted, original)
    return read_tables(context.folder.stage(stage_of(precision), key, make))


def stage_of(precision: Precision) -> str:
    """The stage that holds the tables of a precision."""
    return TABLES if precision == "fp32" else f"{TABLES}-{precision}"


def read_tables(folder: Path) -> tuple[CostTable, ...]:
    """The tables of a finished stage, the first target's first."""
    count = len(list(folder.glob("costs-*.json")))
    return tuple(read(CostTable, folder / f"costs-{number}.json") for number in range(count))


def _source(context: Context, analysis: Analysis, precision: Precision) -> Source:
    free = tuple(block for block in analysis.blocks if block.removable)
    recipe = context.recipe
    return Source(
        context.original,
        free,
        context.batch,
        recipe.batch,
        context.without,
        recipe.opset,
        context.varying,
        context.external_weights,
        precision,
        (
            ()
            if precision == "fp32"
            else tuple(limit(context.calibration(), CALIBRATED.get(precision, 0)))
        ),
    )


def _key(
    context: Context,
    source: Source,
    alone: Mapping[str, Isolated],
    metrics: Sequence[Metric],
    original: Measured,
) -> dict[str, object]:
    """What the tables depend on; anchors follow from the original and the blocks' names."""
    return {
        "mpo": fingerprint_package(),
        "metrics": metrics,
        "effort": context.recipe.effort,
        "units": {name: alone[name].key for name in source.names},
        "original": [original.sha256, original.costs()],
        "batch": source.size,
        "opset": source.opset,
        "precision": source.precision,
        "places": [
            [place.name, place.session.model_dump(), place.fingerprint] for place in context.places
        ],
    }


def _measured(
    context: Context,
    place: Place,
    parts: Parts,
    metrics: Sequence[Metric],
    original: Measured,
    number: int,
) -> CostTable:
    first = original.figures if number == 0 else original.others[number - 1]
    known: dict[Metric, float] = {
        "memory_bytes": first.peak_memory_bytes,
        "latency_p50_ms": first.latency_ms.p50,
        "latency_p90_ms": first.latency_ms.p90,
    }
    full = parts.anchors[0]
    figures = {**full.figures, **{m: v for m, v in known.items() if m in metrics}}
    whole = AnchorFile(FULL, (), figures, full.path, full.inputs)
    return measure_table(
        place.target,
        parts.units,
        (whole, *parts.anchors[1:]),
        place.session,
        metrics,
        batch=place.batch,
        fingerprint=place.fingerprint,
        effort=context.measuring.table,
        seed=context.recipe.seed,
        progress=lambda done, total: context.progress(f"costs on {place.name}", done, total),
    )


def refitted(
    tables: Mapping[str, CostTable], tried: Sequence[PlanCandidate]
) -> dict[str, CostTable]:
    """The tables by target with built and measured candidates as further anchors.

    Args:
        tables: by the target's label in keys of figures; "" is the first target.
        tried: candidates whose costs were measured, under keys of figures.
    """
    found = {}
    for label, table in tables.items():
        keys = {metric: key_of(metric, label) for metric in table.fits}
        rows = [
            (one.removed, {m: one.costs[key] for m, key in keys.items() if key in one.costs})
            for one in tried
        ]
        found[label] = refit(table, rows)
    return found
