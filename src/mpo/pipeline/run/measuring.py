"""One model as it will be deployed: exported, checked against torch, measured, judged."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mpo.errors import MpoError
from mpo.exporters.onnx import OnnxExport
from mpo.exporters.parity import EXACT, ROUNDED, check_parity
from mpo.optimizer.blocks.costs import count_macs, count_params
from mpo.optimizer.data.batches import primary
from mpo.optimizer.data.quality import evaluate, predictor
from mpo.pipeline.run.budgets import Costs, by_key, by_target, measured_keys, metric_of
from mpo.pipeline.run.context import Context
from mpo.pipeline.run.inputs import deployed, feeds, parity_calls
from mpo.pipeline.run.precision import Floor
from mpo.pipeline.run.shipping import file_predictor, ship
from mpo.profiles.measure import Solo, measure_beside
from mpo.records import (
    Conversion,
    Latency,
    ModelFigures,
    OnTarget,
    Parity,
    Precision,
    Quality,
    Record,
)

ORIGINAL = "original.onnx"  # in the run's folder
FIGURES = "figures.json"
STEPS = ("export and measure", "parity", "validation", "test", "done")
KEPT = 3000  # latency samples in a record
SEEN = ("peak_memory_bytes", "load_memory_bytes", "latency_ms", "peak_memory_range")
UNSETTLED = "Latency did not settle within the warm-up: the machine is busy; read p90 with care."


class Measured(Record):
    """What a stage keeps of one model; `others` are its figures on further targets, `originals`
    the original's on all of them, as it was measured in turn with this model. In another precision
    than fp32, which `conversion` then tells of, quality is that of the file itself."""

    figures: ModelFigures
    others: tuple[OnTarget, ...]
    originals: tuple[OnTarget, ...] = ()
    parity: Parity
    validation: Quality
    opset: int
    sha256: str
    warnings: tuple[str, ...]
    conversion: Conversion | None = None

    def costs(self) -> Costs:
        """Every figure that a budget may bound, by its key."""
        return by_key(self.figures, self.others)

    def seen_beside(self, other: Measured) -> Measured:
        """This original with its latency and memory as they were measured in turn with `other`."""
        if not other.originals:
            return self
        first, *rest = other.originals
        seen = {name: getattr(first, name) for name in SEEN}
        figures = self.figures.model_copy(update=seen)
        return self.model_copy(update={"figures": figures, "others": tuple(rest)})


@dataclass(frozen=True)
class Deployed:
    """The exported file and its solo figures on every target; `originals` are the original's,
    from processes that took turns with the file's; none when there was no original to run."""

    export: OnnxExport
    solos: tuple[Solo, ...]
    originals: tuple[Solo, ...] = ()
    conversion: Conversion | None = None


def deploy(
    context: Context,
    model: nn.Module,
    path: Path,
    original: Path | None = None,
    *,
    timed: bool = True,
    metadata: Mapping[str, Any] | None = None,
    precision: Precision = "fp32",
    floor: Floor | None = None,
) -> Deployed:
    """Export the model to `path` in a precision and measure it on every target, one after the
    other.

    Args:
        original: a file whose processes take turns with the model's, since a machine that is
            busier now than it was then would make a relative budget meaningless.
        timed: whether latency is measured too, and not memory and size only.
        floor: quality that int8 must reach, with some layers in float32 if need be.
        metadata: facts to keep inside the file.
    """
    made = ship(context, model, path, precision, floor=floor, metadata=metadata)
    files = [path] if original is None else [path, original]
    models = [(file, feeds(file, deployed(context))) for file in files]
    seconds = context.measuring.solo if timed else 0.0
    found = [
        measure_beside(place.target, models, place.session, seconds=seconds)
        for place in context.places
    ]
    originals = tuple(solos[1] for solos in found) if original else ()
    return Deployed(made.export, tuple(solos[0] for solos in found), originals, made.conversion)


def measure_model(
    context: Context,
    model: nn.Module,
    path: Path,
    what: str,
    beside: Path | None = None,
    metadata: Mapping[str, Any] | None = None,
    *,
    precision: Precision = "fp32",
    floor: Floor | None = None,
) -> Measured:
    """Export, latency, memory, parity, and quality on validation and test.

    Args:
        beside: the original's file, to be measured in turn with this model's.
        metadata: facts to keep inside the file.
        precision: of the file. In another one than fp32 the file is judged, not the torch model.
        floor: as `deploy` takes it.
    """

    def now(step: int) -> None:
        context.progress(f"{what}: {STEPS[step]}", step, len(STEPS) - 1)

    now(0)
    file = deploy(context, model, path, beside, precision=precision, floor=floor, metadata=metadata)
    now(1)
    calls, allowed = parity_calls(context), ROUNDED.get(precision, EXACT)
    parity = check_parity(model, path, calls, primary, allowed)
    if not parity.ok:
        raise out_of_parity(what, parity)
    now(2)
    splits, original = context.splits(), predictor(context.original)
    predict = predictor(model) if precision == "fp32" else file_predictor(context, path)
    validation = evaluate(predict, context.subject, splits.validation, original)
    now(3)
    quality = evaluate(predict, context.subject, splits.test, original)
    now(4)
    return Measured(
        figures=_figures(context, model, file, quality),
        others=on_targets(context, file.solos)[1:],
        originals=on_targets(context, file.originals),
        parity=parity,
        validation=validation,
        opset=file.export.opset,
        sha256=file.export.sha256,
        warnings=(*file.export.warnings, *unsettled(context, file)),
        conversion=file.conversion,
    )


def _figures(context: Context, model: nn.Module, file: Deployed, quality: Quality) -> ModelFigures:
    first = on_targets(context, file.solos)[0]
    return ModelFigures(
        params=count_params(model),
        macs=count_macs(model, context.batch),
        size_bytes=file.export.bytes,
        peak_memory_bytes=first.peak_memory_bytes,
        load_memory_bytes=first.load_memory_bytes,
        latency_ms=first.latency_ms,
        quality=quality,
        peak_memory_range=first.peak_memory_range,
    )


def on_target(target: str, solo: Solo) -> OnTarget:
    """Solo figures for the record."""
    return OnTarget(
        target=target,
        peak_memory_bytes=solo.peak_memory_bytes,
        load_memory_bytes=solo.load_memory_bytes,
        latency_ms=Latency(
            p50=solo.p50_ms,
            p90=solo.p90_ms,
            n=len(solo.samples_ms),
            samples_ms=thinned(solo.samples_ms),
            p50_range=solo.p50_range,
            p90_range=solo.p90_range,
        ),
        peak_memory_range=solo.peak_range,
    )


def on_targets(context: Context, solos: Sequence[Solo]) -> tuple[OnTarget, ...]:
    """Solo figures on every target for the record."""
    return tuple(on_target(name, solo) for name, solo in zip(context.targets, solos, strict=False))


def unsettled(context: Context, file: Deployed) -> tuple[str, ...]:
    """A warning for every target whose latency did not settle."""
    several = len(context.places) > 1
    return tuple(
        f"{place.name}: {UNSETTLED}" if several else UNSETTLED
        for place, solo in zip(context.places, file.solos, strict=True)
        if not solo.steady
    )


def thinned(samples: Sequence[float]) -> tuple[float, ...]:
    """At most KEPT samples, evenly spread over time, so that a report stays small."""
    return tuple(samples[:: max(1, math.ceil(len(samples) / KEPT))])


def out_of_parity(what: str, parity: Parity) -> MpoError:
    """The error for a file that does not compute what its model computes."""
    return MpoError(
        f"The {what} model's ONNX file differs from the torch model on {parity.samples} samples: "
        f"{parity.reason or f'largest relative difference {parity.max_rel:.2g}'}",
        hint="Nothing is handed out that is not in parity. Data-dependent control flow, inputs "
        "padded to different lengths, and random operations are the usual causes.",
    )


def quick_figures(
    context: Context,
    model: nn.Module,
    path: Path,
    original: Measured,
    wanted: Collection[str],
    precision: Precision = "fp32",
) -> Costs:
    """Only the figures by key that budgets ask for; nothing is exported when counts do.

    Latency for a relative budget is given as if the machine ran as it did when the original was
    measured: by what the original takes now, in turn with this model.
    """
    found: Costs = {"params": count_params(model), "macs": count_macs(model, context.batch)}
    if measured_keys(list(wanted)):
        timed = any(metric_of(key).startswith("latency") for key in wanted)
        then = context.folder.path / ORIGINAL if timed else None
        file = deploy(context, model, path, then, timed=timed, precision=precision)
        first, *others = on_targets(context, file.solos)
        found |= {"size_bytes": file.export.bytes, **by_target(first, others)}
        if timed:
            first, *others = on_targets(context, file.originals)
            now, before = by_target(first, others), original.costs()
            for key in relative_latency(context, wanted):
                found[key] *= before[key] / now[key]
    return {key: found[key] for key in wanted}


def relative_latency(context: Context, keys: Collection[str]) -> list[str]:
    """The keys of latency that are bounded relative to the original only."""
    absolute = {budget.metric for budget in context.recipe.budgets() if budget.factor is None}
    return [k for k in keys if k.endswith("_ms") and metric_of(k) not in absolute]
