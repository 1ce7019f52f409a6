"""A model's file as it is deployed: exported, in its precision, and judged by what it answers."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from mpo.errors import UsageError
from mpo.exporters.onnx import OnnxExport, export_onnx
from mpo.exporters.ranges import METHODS, Method
from mpo.exporters.runtime import OnnxModel
from mpo.optimizer.analysis.harm import HarmMeter
from mpo.optimizer.data.batches import Batch, limit
from mpo.optimizer.data.quality import Predict, drop, evaluate, predictor
from mpo.pipeline.run.analysis import HARM_EXAMPLES
from mpo.pipeline.run.context import Context
from mpo.pipeline.run.inputs import example
from mpo.pipeline.run.precision import Floor, convert
from mpo.profiles.device import physical_cores
from mpo.recipe import WantedPrecision
from mpo.records import Conversion, Precision, Quality


@dataclass(frozen=True)
class Shipped:
    """The file that was written, and how it came to its precision; None for fp32."""

    export: OnnxExport
    conversion: Conversion | None = None


def ship(
    context: Context,
    model: nn.Module,
    path: Path,
    precision: Precision = "fp32",
    *,
    methods: Sequence[Method] = METHODS,
    floor: Floor | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Shipped:
    """Export the model to `path` in a precision, weights beside it where the run has them there.

    Raises:
        UsageError: int8 with random inputs only, or whatever `convert` refuses.
        MpoError: the model cannot be exported or converted.
    """
    (args, kwargs), beside = example(context), context.external_weights
    opset, varying = context.recipe.opset, context.varying

    def export(file: Path, **more: Any) -> OnnxExport:
        return export_onnx(model, args, kwargs, file, opset=opset, varying=varying, **more)

    if precision == "fp32":
        return Shipped(export(path, external_data=beside, metadata=metadata))
    require_data(context, precision)
    plain = context.last_export.of(model, export)
    done = convert(
        plain.path, path, precision, context.calibration(),
        methods=methods, floor=floor, external_data=beside, metadata=metadata,
    )  # fmt: skip
    told = (*plain.warnings, *done.warnings)
    made = replace(plain, path=path, bytes=done.bytes, sha256=done.sha256, files=(), warnings=told)
    return Shipped(made, done)


def require_data(context: Context, precision: WantedPrecision | Precision) -> None:
    """Refuse to take int8's ranges from noise.

    Raises:
        UsageError: as said.
    """
    if precision == "int8" and context.recipe.input:
        raise UsageError(
            "int8 takes its ranges from real samples, and the subject has only random inputs.",
            hint="Give it data(), or use --precision int8-dynamic or fp16, which need none.",
        )


def file_predictor(context: Context, path: Path) -> Predict:
    """A file as a function of a batch; its outputs come as the model's own do."""
    call = OnnxModel(path, physical_cores()).as_model(context.outputs)

    def predict(batch: Batch) -> Any:
        return call(*batch.args, **batch.kwargs)

    return predict


def file_harm(context: Context, path: Path) -> float:
    """Harm of a file against the original model on calibration data: removal and precision
    together."""
    batches = limit(context.calibration(), HARM_EXAMPLES)
    meter = HarmMeter(context.original, batches, context.kind)
    return meter.judge(file_predictor(context, path)).kl


def file_quality(context: Context, path: Path) -> Quality:
    """A file's quality on validation, without an interval."""
    original, validation = predictor(context.original), context.splits().validation
    predict = file_predictor(context, path)
    return evaluate(predict, context.subject, validation, original, interval=False)


@contextlib.contextmanager
def shipped_predictor(
    context: Context, model: nn.Module, precision: Precision
) -> Iterator[Predict]:
    """A model as it answers when it is shipped in this precision: the module itself in fp32, with
    which its file is in parity, else its file, which is gone afterwards."""
    if precision == "fp32":
        yield predictor(model)
        return
    with tempfile.TemporaryDirectory(prefix="mpo-judge-") as folder:
        path = Path(folder) / "model.onnx"
        ship(context, model, path, precision)
        yield file_predictor(context, path)


def shipped_quality(context: Context, model: nn.Module, precision: Precision) -> Quality:
    """What a model keeps of its quality on validation when it is shipped in this precision."""
    with tempfile.TemporaryDirectory(prefix="mpo-judge-") as folder:
        path = Path(folder) / "model.onnx"
        ship(context, model, path, precision)
        return file_quality(context, path)


def floor_of(context: Context, original: Quality) -> Floor:
    """The run's quality floor for files: the drop, negative, must not be under the allowed one."""
    return Floor(
        judge=lambda path: -drop(original, file_quality(context, path)),
        least=-context.recipe.allowed_drop(),
    )
