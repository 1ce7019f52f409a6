"""A float32 ONNX file in int8: static (QDQ, calibrated on real inputs) or dynamic."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto
from onnxruntime import quantization
from onnxruntime.quantization import QuantType, calibrate, qdq_quantizer

from mpo.errors import MpoError, UsageError
from mpo.exporters.converted import (
    Array,
    Converted,
    Feeds,
    Kept,
    distance,
    floats,
    read_graph,
    require_nodes,
    run,
    write_graph,
)
from mpo.exporters.external import LARGEST_BYTES, weight_bytes
from mpo.exporters.layers import inferred, layers_of, part_biases
from mpo.exporters.ranges import METHODS, Method, Ranges, observe
from mpo.exporters.runtimefaults import first_line
from mpo.exporters.simplify import quiet

STATIC = ("Conv", "ConvTranspose", "Gemm", "Gather", "MatMul")
DYNAMIC = ("Attention", "Gather", "Gemm", "LSTM", "MatMul")
LOWEST_OPSET = 13  # of per-channel QuantizeLinear
QUANTIZER_ERRORS = (AssertionError, KeyError, RuntimeError, TypeError, ValueError)
LITTLE = 0.5  # of the weights' bytes: below it, int8 has not done what was hoped


@dataclass(frozen=True)
class Layout:
    """How int8 is written.

    Attributes:
        per_channel: a scale per output channel of each weight.
        symmetric: int8 activations with zero points at 0 and float32 biases, the only layout that
            TensorRT reads; ONNX Runtime reads it too. False: uint8 activations with zero points
            and int32 biases, for CPUs: MiniLM ran in 0.56 of float32's time so, and in 1.4 of it
            with symmetric ones (x86 with AVX2, ONNX Runtime 1.31).
        full_range: weights in -127..127 where -64..64 are safe: x86 processors without VNNI add
            two products up in 16 bits and clip them, which moved the outputs of a ResNet-26 by
            13 % where 7 bits moved them by 2 %.
    """

    per_channel: bool = True
    symmetric: bool = True
    full_range: bool = False


PORTABLE, FOR_CPU = Layout(), Layout(symmetric=False)


@dataclass(frozen=True)
class Calibration:
    """A float32 graph with the ranges of the values that quantized layers read and write.

    Attributes:
        model: shapes inferred.
        layers: names of the nodes that int8 takes, in order.
        ranges: by calibration method.
        layout: of the files made from it.
    """

    model: ModelProto
    layers: tuple[str, ...]
    ranges: Mapping[Method, Ranges]
    layout: Layout

    def quantized(self, method: Method, layers: Collection[str]) -> ModelProto:
        """The graph with these layers (names among `layers`) in int8; others stay float32.

        Raises:
            MpoError: the quantizer failed.
        """
        layout = self.layout
        copy = ModelProto()
        copy.CopyFrom(self.model)
        if not layers:
            return copy
        ranges = calibrate.TensorsData(
            calibrate.CalibrationMethod.MinMax,
            {
                name: (np.float32(low), np.float32(high))
                for name, (low, high) in self.ranges[method].items()
            },
        )
        options = {
            "ActivationSymmetric": layout.symmetric,
            "WeightSymmetric": True,
            "QuantizeBias": not layout.symmetric,
            # A product's sum stays as it is: nothing is gained by rounding it once more. A Conv's
            # must be rounded, or ONNX Runtime has no int8 kernel for it.
            "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],
        }
        if layout.symmetric:
            part_biases(copy, layers)
        activations = QuantType.QInt8 if layout.symmetric else QuantType.QUInt8
        try:
            with quiet():
                quantizer = qdq_quantizer.QDQQuantizer(
                    copy, layout.per_channel, not layout.full_range, QuantType.QInt8, activations,
                    ranges, sorted(layers), [], list(STATIC), options,
                )  # fmt: skip
                quantizer.quantize_model()
        except QUANTIZER_ERRORS as error:
            raise _failed(error) from error
        made: ModelProto = quantizer.model.model
        return made


def calibrated(
    source: Path, feeds: Feeds, methods: Sequence[Method] = METHODS, layout: Layout = PORTABLE
) -> Calibration:
    """Run the graph on the feeds, once, and take the ranges by each method.

    Raises:
        UsageError: a file that cannot be read, no feeds or wrong ones, an opset below 13, or no
            layer that int8 takes.
    """
    model = inferred(read_graph(source))
    opset = max((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), default=0)
    if opset < LOWEST_OPSET:
        raise UsageError(
            f"{source} has opset {opset}; int8 with a scale per channel needs {LOWEST_OPSET}.",
            hint="Export the model anew with mpo export.",
        )
    layers = layers_of(model, STATIC)
    if not layers:
        raise UsageError(
            f"{source} has no layer that int8 takes ({', '.join(STATIC)} with weights)."
        )
    weights = {weight.name for weight in model.graph.initializer}
    names = {name for node in layers for name in (*node.input, *node.output) if name}
    ranges = observe(model, feeds, sorted(names - weights), methods)
    return Calibration(model, tuple(node.name for node in layers), ranges, layout)


def quantize_static(
    source: Path,
    target: Path,
    feeds: Feeds,
    *,
    layout: Layout = PORTABLE,
    keep: Collection[str] = (),
    methods: Sequence[Method] = METHODS,
) -> Converted:
    """Write the model in int8 with QuantizeLinear and DequantizeLinear around its layers.

    Layers with weights (convolutions, products, embeddings) are taken; weights are symmetric. Of
    the calibration methods the one with the least output error on the feeds is kept.

    Args:
        feeds: real inputs by name, a hundred examples or more.
        layout: `PORTABLE`, which TensorRT reads as well, or `FOR_CPU`, which is faster there.
        keep: names of nodes to leave in float32.
        methods: to choose from.

    Raises:
        UsageError: a file or feeds that do not fit, an unknown node or method, nothing to
            quantize, a target that cannot be written.
        MpoError: the quantizer failed.
    """
    calibration = calibrated(source, feeds, methods, layout)
    require_nodes(calibration.model, keep)
    layers = [name for name in calibration.layers if name not in keep]
    wanted = outputs_of(calibration.model, feeds)
    tried: dict[Method, float] = {}
    made: dict[Method, ModelProto] = {}
    for method in methods:
        model = calibration.quantized(method, layers)
        tried[method] = distance(wanted, outputs_of(model, feeds))
        best = min(tried, key=lambda name: tried[name])
        made = {best: made.get(best, model)}  # the others' graphs are large and let go
    note = "calibration " + ", ".join(f"{name} {error:.2g}" for name, error in tried.items())
    reasons = dict.fromkeys(keep, "asked for")
    return finished(
        made[best], calibration.model, target, "int8", reasons, tried[best], f"{note}: {best} taken"
    )


def quantize_dynamic(source: Path, target: Path, *, keep: Collection[str] = ()) -> Converted:
    """Write the model with int8 weights in its products, embeddings and LSTMs; activations are
    rounded as they come, so no calibration is needed. Convolutions stay float32: ONNX Runtime's
    dynamic ones are slow.

    Args:
        keep: names of nodes to leave in float32.

    Raises:
        UsageError: a file that cannot be read, an unknown node, nothing to quantize, a target
            that cannot be written.
        MpoError: the quantizer failed.
    """
    original = read_graph(source)
    require_nodes(original, keep)
    if not layers_of(original, DYNAMIC):
        raise UsageError(
            f"{source} has no layer that int8-dynamic takes ({', '.join(DYNAMIC)} with weights).",
            hint="Use int8, which takes convolutions too.",
        )
    reasons = dict.fromkeys(keep, "asked for")
    return finished(_dynamic(original, keep), original, target, "int8-dynamic", reasons, None, "")


def _dynamic(original: ModelProto, keep: Collection[str]) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(original)
    with tempfile.TemporaryDirectory(prefix="mpo-") as folder:
        path = Path(folder) / "model.onnx"
        try:
            with quiet():
                quantization.quantize_dynamic(
                    copy,
                    path,
                    op_types_to_quantize=list(DYNAMIC),
                    per_channel=True,
                    reduce_range=True,
                    weight_type=QuantType.QInt8,
                    nodes_to_exclude=sorted(keep),
                    use_external_data_format=weight_bytes(original) > LARGEST_BYTES,
                )
        except QUANTIZER_ERRORS as error:
            raise _failed(error) from error
        return read_graph(path)


def outputs_of(model: ModelProto | Path, feeds: Feeds) -> list[Array]:
    """Floating-point outputs on all feeds, by the kernels that a deployment would use."""
    return [value for values in run(model, feeds, optimize=True) for value in floats(values)]


def finished(
    model: ModelProto,
    original: ModelProto,
    target: Path,
    precision: str,
    reasons: Mapping[str, str],
    error: float | None,
    note: str,
) -> Converted:
    """Write a quantized graph with the original's metadata, and say what came of it."""
    del model.metadata_props[:]
    model.metadata_props.extend(original.metadata_props)
    model.producer_name, model.producer_version = original.producer_name, original.producer_version
    size, digest = write_graph(model, target)
    kept = [
        Kept(n.name, n.op_type, reasons[n.name]) for n in original.graph.node if n.name in reasons
    ]
    narrow = sum(
        int(np.prod(weight.dims))
        for weight in model.graph.initializer
        if weight.data_type in (TensorProto.INT8, TensorProto.UINT8)
    )
    share = 4 * narrow / max(weight_bytes(original), 1)
    warnings = []
    if share < LITTLE:
        warnings.append(
            f"Only {share:.1%} of the weights are in layers that {precision} takes, so the file is "
            "hardly smaller."
        )
    return Converted(target, precision, size, digest, tuple(kept), error, note, tuple(warnings))


def _failed(error: BaseException) -> MpoError:
    return MpoError(
        f"ONNX Runtime's quantizer failed: {type(error).__name__}: {first_line(error)}",
        hint="Export with --precision fp16 instead.",
    )
