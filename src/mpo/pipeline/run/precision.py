"""A float32 ONNX file in another precision, for the runtime that will run it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, numpy_helper

from mpo.errors import InfeasibleError, MpoError, UsageError
from mpo.exporters.converted import (
    CPU,
    Converted,
    Feeds,
    read_graph,
)
from mpo.exporters.external import (
    DIGEST,
    LARGEST_BYTES,
    weight_bytes,
    write_external,
    write_inline,
)
from mpo.exporters.halves import to_bf16, to_half
from mpo.exporters.layers import layers_of
from mpo.exporters.metadata import add_facts
from mpo.exporters.quantize import (
    DYNAMIC,
    FOR_CPU,
    PORTABLE,
    STATIC,
    Layout,
    quantize_dynamic,
    quantize_static,
)
from mpo.exporters.ranges import METHODS, Method
from mpo.exporters.runtimefaults import first_line
from mpo.exporters.sensitivity import Judge, sensitivity
from mpo.optimizer.data.batches import Batch, limit, rows, take
from mpo.pipeline.run.inputs import call_of, feeds_of_all
from mpo.records import Conversion, KeptNode, Precision, Runtime

CALIBRATED: dict[Precision, int] = {"fp16": 32, "bf16": 32, "int8": 128}  # examples that are read
LAYOUTS: dict[Runtime, Layout] = {"onnxruntime": FOR_CPU, "openvino": FOR_CPU}  # else PORTABLE
STATIC_ONLY = (
    "{runtime} reads no model that is quantized while it runs (DynamicQuantizeLinear, "
    "MatMulInteger)."
)


@dataclass(frozen=True)
class Floor:
    """The quality that a file must reach.

    Attributes:
        judge: quality of an ONNX file, higher is better; on validation data, never on test.
        least: what it must say at least.
    """

    judge: Judge
    least: float


def refusal(precision: Precision, runtime: Runtime) -> str:
    """Why a runtime cannot run any file of this precision; "" when it can, or must be asked."""
    if precision == "int8-dynamic" and runtime.startswith("tensorrt"):
        return STATIC_ONLY.format(runtime=runtime)
    return ""


def convert(
    source: Path,
    target: Path,
    precision: Precision,
    batches: Iterable[Batch] = (),
    *,
    runtime: Runtime = "onnxruntime",
    keep: Collection[str] = (),
    methods: Sequence[Method] = METHODS,
    floor: Floor | None = None,
    external_data: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> Conversion:
    """Write the model in a precision, for a runtime; inputs and outputs stay float32.

    int8 is plain first; when that breaks the floor, the layers that it harms most stay in float32,
    as few as reach the floor. Where none do, the file is plain int8 all the same and a warning
    says so: whoever asked decides.

    Args:
        source: a float32 file; may be `target` itself.
        batches: real inputs of the subject, calibration data; 128 examples are read for int8, 32
            for fp16 and bf16, none for int8-dynamic.
        runtime: decides on int8's layout, and on what is refused.
        keep: names of nodes to leave in float32.
        methods: of calibration, of which the one with the least output error is taken.
        floor: for int8; without it int8 is plain.
        external_data: weights lie in a second file, beside `target`.
        metadata: facts to keep inside the file (see `metadata.facts`), beside those of `source`.

    Raises:
        UsageError: a file that cannot be read or has NaN among its weights, no calibration data,
            nothing to convert, a precision that the runtime cannot run, an unknown node.
        MpoError: the converter failed, or the outputs are not finite.
    """
    require_known(precision, runtime)
    require_numbers(source)
    chosen = limit(batches, CALIBRATED.get(precision, 0))
    if precision in CALIBRATED and not chosen:
        raise UsageError(
            f"{precision} is calibrated on real inputs, and there are none.",
            hint="Give the subject data(), or use int8-dynamic, which needs none.",
        )
    job = _Job(source, precision, runtime, feeds_of(source, chosen), keep, methods, floor)
    with tempfile.TemporaryDirectory(prefix="mpo-precision-") as folder:
        made = job.made(Path(folder) / "model.onnx")
        if made.error is not None and not math.isfinite(made.error):
            raise MpoError(
                f"The {precision} file's outputs are not finite on the calibration data.",
                hint="Keep this model in fp32, or name the nodes that must stay in float32.",
            )
        size, digest = _placed(made.path, target, metadata or {}, external_data=external_data)
    return job.record(made, size, digest, sum(batch.size for batch in chosen))


@dataclass
class _Job:
    """One conversion under way; `quality`, `mixed` and `warnings` are known when it is done."""

    source: Path
    precision: Precision
    runtime: Runtime
    feeds: Feeds
    keep: Collection[str]
    methods: Sequence[Method]
    floor: Floor | None
    quality: float | None = None
    mixed: bool = False
    warnings: tuple[str, ...] = ()

    def made(self, path: Path) -> Converted:
        """The file at `path`, its weights inside or in PATH.data."""
        source, feeds, keep = self.source, self.feeds, self.keep
        if self.precision == "fp16":
            return to_half(source, path, feeds, keep=keep)
        if self.precision == "bf16":
            own = self.runtime == "onnxruntime"  # what another one runs cannot be tried here
            return to_bf16(source, path, feeds, keep=keep, providers=(CPU,) if own else ())
        if self.precision == "int8-dynamic":
            return quantize_dynamic(source, path, keep=keep)
        if self.precision == "int8":
            return self._int8(path)
        return Converted(source, "fp32", 0, "")

    def record(self, made: Converted, size: int, digest: str, samples: int) -> Conversion:
        """What was done, with the size and hash of the file where it came to lie."""
        return Conversion(
            precision=self.precision,
            runtime=self.runtime,
            bytes=size,
            sha256=digest,
            kept=tuple(KeptNode(node=k.node, op=k.op, reason=k.reason) for k in made.kept),
            mixed=self.mixed,
            samples=samples,
            error=made.error,
            quality=self.quality,
            note=made.note,
            warnings=(*made.warnings, *self.warnings),
        )

    def _int8(self, path: Path) -> Converted:
        layout = LAYOUTS.get(self.runtime, PORTABLE)
        if self.floor is not None and not self.keep:
            try:
                found = sensitivity(
                    self.source, path, self.feeds, self.floor.judge, self.floor.least,
                    methods=self.methods, layout=layout,
                )  # fmt: skip
            except InfeasibleError as error:
                self.warnings = (f"Plain int8, below the quality floor. {error.message}",)
            else:
                self.quality, self.mixed = found.quality, bool(found.kept)
                return found.converted
        return quantize_static(
            self.source, path, self.feeds, layout=layout, keep=self.keep, methods=self.methods
        )


def require_known(precision: Precision, runtime: Runtime) -> None:
    """Refuse what is no precision, and what no file of a runtime can have.

    Raises:
        UsageError: as said.
    """
    known = get_args(Precision)
    if precision not in known:
        raise UsageError(f"{precision!r} is no precision.", hint=f"There are {', '.join(known)}.")
    reason = refusal(precision, runtime)
    if reason:
        raise UsageError(reason, hint="Use int8, which is calibrated beforehand, or fp16.")


def require_numbers(source: Path) -> None:
    """Refuse a file with NaN among its weights: no range, and no comparison, means anything.

    Raises:
        UsageError: as said, or a file that cannot be read.
    """
    for weight in read_graph(source).graph.initializer:
        if weight.data_type != TensorProto.FLOAT:
            continue
        bad = int(np.isnan(numpy_helper.to_array(weight)).sum())
        if bad:
            raise UsageError(
                f"{bad} of the {math.prod(weight.dims)} numbers in the weight {weight.name!r} are "
                "NaN.",
                hint="Train the model again from a checkpoint without NaN.",
            )


def convertible(source: Path, precision: Precision) -> bool:
    """Whether a file has anything that this precision takes; without it, it stays as it is."""
    if precision == "fp32":
        return False
    graph = read_graph(source)
    if precision in ("fp16", "bf16"):
        return any(weight.data_type == TensorProto.FLOAT for weight in graph.graph.initializer)
    return bool(layers_of(graph, STATIC if precision == "int8" else DYNAMIC))


def feeds_of(source: Path, batches: Sequence[Batch]) -> Feeds:
    """The batches as arrays by the file's input names, cut to its batch size where that is fixed.

    Raises:
        UsageError: batches that the file does not take.
    """
    if not batches:
        return []
    fitted = [part for batch in batches for part in _fitted(batch, _fixed_batch(source))]
    return feeds_of_all(source, map(call_of, fitted))


def _fixed_batch(source: Path) -> int:
    """The file's batch size; 0 when its first axis is free."""
    try:
        graph = onnx.load(str(source), load_external_data=False).graph
    except (OSError, DecodeError) as error:
        raise UsageError(f"Cannot read {source} as an ONNX model: {first_line(error)}") from error
    shapes = [value.type.tensor_type.shape.dim for value in graph.input]
    return min((int(dims[0].dim_value) for dims in shapes if len(dims)), default=0)


def _fitted(batch: Batch, size: int) -> Iterator[Batch]:
    if size in (0, batch.size):
        yield batch
    elif batch.size < size:
        yield take(batch, size)
    else:
        for start in range(0, batch.size - size + 1, size):
            yield rows(batch, torch.arange(start, start + size))


def _placed(
    made: Path, target: Path, metadata: Mapping[str, Any], *, external_data: bool
) -> tuple[int, str]:
    """The file, written anew with these facts and with its weights where they shall lie: bytes of
    all files, sha256."""
    model: ModelProto = onnx.load(str(made))
    stale = [prop for prop in model.metadata_props if prop.key == DIGEST]
    for prop in stale:
        model.metadata_props.remove(prop)
    add_facts(model, metadata)
    apart = external_data or weight_bytes(model) > LARGEST_BYTES
    files = write_external(model, target) if apart else write_inline(model, target)
    return sum(file.bytes for file in files), files[0].sha256
