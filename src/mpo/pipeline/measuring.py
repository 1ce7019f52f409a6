"""One model as it will be deployed: exported, checked against torch, measured, judged."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import nn

from mpo.errors import MpoError
from mpo.exporters.onnx import OnnxExport, export_onnx
from mpo.exporters.parity import check_parity
from mpo.exporters.runtime import OnnxModel
from mpo.optimizer.batches import primary
from mpo.optimizer.costs import count_macs, count_params
from mpo.optimizer.quality import evaluate, predictor
from mpo.pipeline.budgets import MEASURED
from mpo.pipeline.context import Context
from mpo.pipeline.inputs import Call, deployed, example, parity_calls
from mpo.profiles.measure import Solo, measure_solo
from mpo.records import Latency, Metric, ModelFigures, Parity, Quality, Record

SECONDS = 1.5  # of sampling a process
KEPT = 3000  # latency samples in a record
UNSETTLED = "Latency did not settle within the warm-up: the machine is busy; read p90 with care."


class Measured(Record):
    """What a stage keeps of one model."""

    figures: ModelFigures
    parity: Parity
    validation: Quality
    opset: int
    sha256: str
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Deployed:
    """The exported file and its solo figures."""

    export: OnnxExport
    solo: Solo


def feeds(path: Path, call: Call) -> dict[str, NDArray[Any]]:
    """A call's tensors as arrays by the file's input names."""
    return dict(OnnxModel(path).feeds(*call))


def deploy(context: Context, model: nn.Module, path: Path, seconds: float = SECONDS) -> Deployed:
    """Export the model to `path` and measure it alone, at the recipe's batch and threads.

    `seconds` of sampling a process; 0 measures memory and size only.
    """
    export = export_onnx(
        model, *example(context), path, opset=context.recipe.opset, varying=context.varying
    )
    inputs = feeds(path, deployed(context))
    solo = measure_solo(context.target, path, inputs, threads=context.threads, seconds=seconds)
    return Deployed(export, solo)


def measure_model(context: Context, model: nn.Module, path: Path, what: str) -> Measured:
    """Export, latency, memory, parity, and quality on validation and test."""
    steps = ("export and measure", "parity", "validation", "test", "done")

    def now(step: int) -> None:
        context.progress(f"{what}: {steps[step]}", step, len(steps) - 1)

    now(0)
    file = deploy(context, model, path)
    now(1)
    parity = check_parity(model, path, parity_calls(context), primary)
    if not parity.ok:
        raise out_of_parity(what, parity)
    now(2)
    splits = context.splits()
    original, predict = predictor(context.original), predictor(model)
    validation = evaluate(predict, context.subject, splits.validation, original)
    now(3)
    quality = evaluate(predict, context.subject, splits.test, original)
    now(4)
    return Measured(
        figures=_figures(context, model, file, quality),
        parity=parity,
        validation=validation,
        opset=file.export.opset,
        sha256=file.export.sha256,
        warnings=(*file.export.warnings, *(() if file.solo.steady else (UNSETTLED,))),
    )


def _figures(context: Context, model: nn.Module, file: Deployed, quality: Quality) -> ModelFigures:
    solo = file.solo
    return ModelFigures(
        params=count_params(model),
        macs=count_macs(model, context.batch),
        size_bytes=file.export.bytes,
        peak_memory_bytes=solo.peak_memory_bytes,
        load_memory_bytes=solo.load_memory_bytes,
        latency_ms=Latency(
            p50=solo.p50_ms,
            p90=solo.p90_ms,
            n=len(solo.samples_ms),
            samples_ms=thinned(solo.samples_ms),
        ),
        quality=quality,
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
    context: Context, model: nn.Module, path: Path, wanted: Collection[Metric]
) -> dict[Metric, float]:
    """Only the figures that budgets ask for; nothing is exported when counts are enough."""
    found: dict[Metric, float] = {
        "params": count_params(model),
        "macs": count_macs(model, context.batch),
    }
    if MEASURED & set(wanted):
        timed = any(metric.endswith("_ms") for metric in wanted)
        file = deploy(context, model, path, SECONDS if timed else 0.0)
        found |= {
            "size_bytes": file.export.bytes,
            "memory_bytes": file.solo.peak_memory_bytes,
            "latency_p50_ms": file.solo.p50_ms,
            "latency_p90_ms": file.solo.p90_ms,
        }
    return {metric: found[metric] for metric in wanted}
