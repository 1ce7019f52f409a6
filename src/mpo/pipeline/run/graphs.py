"""What an ONNX file says of itself without being run: inputs, bytes, parameters, nodes, MACs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from mpo.errors import MpoError, UsageError

Shape = tuple[int, ...]
# What parameters are stored as: floats, and the integers of quantized ones. Shapes, axes and other
# constants are 64-bit integers or booleans.
_WEIGHTS = {
    TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16,
    TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4,
    TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2,
}  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """An input that the file asks for: a size, or the name of a free axis, for every axis; numpy's
    name of its type."""

    name: str
    axes: tuple[int | str, ...]
    dtype: str


def read_model(path: Path) -> ModelProto:
    """The graph without the weights that lie in other files.

    Raises:
        UsageError: there is no such file.
        MpoError: no ONNX model.
    """
    if not path.is_file():
        raise UsageError(f"There is no ONNX file {path}.", hint="Check the path.")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise _broken(path) from error
    if not model.graph.node:
        raise _broken(path)
    return model


def _broken(path: Path) -> MpoError:
    return MpoError(f"{path} is no ONNX model that can be read.", hint="Export it again.")


def wanted_inputs(model: ModelProto) -> tuple[Wanted, ...]:
    """What must be fed, in the file's order.

    Raises:
        UsageError: an input that is no tensor.
    """
    weights = {weight.name for weight in model.graph.initializer}
    found = []
    for value in model.graph.input:
        if value.name in weights:
            continue
        kind = value.type.tensor_type
        if not kind.elem_type:
            raise UsageError(f"Input {value.name!r} is no tensor; mpo bench feeds tensors only.")
        axes: list[int | str] = [
            axis.dim_value if axis.HasField("dim_value") else axis.dim_param or "?"
            for axis in kind.shape.dim
        ]
        dtype = str(helper.tensor_dtype_to_np_dtype(kind.elem_type))
        found.append(Wanted(value.name, tuple(axes), dtype))
    return tuple(found)


def data_files(path: Path, model: ModelProto) -> tuple[Path, ...]:
    """The files beside an ONNX file that hold weights of it.

    Raises:
        UsageError: one of them is not there, or lies elsewhere.
    """
    names = {
        entry.value
        for tensor in _initializers(model.graph)
        for entry in tensor.external_data
        if tensor.data_location == TensorProto.EXTERNAL and entry.key == "location"
    }
    files = []
    for name in sorted(names):
        file = (path.parent / name).resolve()
        if not file.is_relative_to(path.parent.resolve()) or not file.is_file():
            raise UsageError(
                f"{path} names the data file {name!r}, which is not beside it.",
                hint="Keep the model and its data files in one folder.",
            )
        files.append(file)
    return tuple(files)


def count_params(model: ModelProto) -> int:
    """Elements of all weights, those of nested graphs too."""
    return sum(
        math.prod(tensor.dims)
        for tensor in _initializers(model.graph)
        if tensor.data_type in _WEIGHTS
    )


def count_nodes(graph: GraphProto) -> int:
    """Nodes of the graph and of the graphs inside it."""
    return len(graph.node) + sum(count_nodes(inner) for inner in _bodies(graph.node))


def count_macs(model: ModelProto, inputs: Mapping[str, Shape]) -> int | None:
    """Multiply-accumulates of convolutions and matrix products when fed these shapes; None when a
    shape stays unknown, or when they are hidden in a control-flow body or a function."""
    if model.functions or any(True for _ in _bodies(model.graph.node)):
        return None
    fixed = ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        for axis, size in zip(
            value.type.tensor_type.shape.dim, inputs.get(value.name, ()), strict=False
        ):
            axis.dim_value = size
    # What the exporter noted may name axes that are fixed now.
    del fixed.graph.value_info[:]
    for output in fixed.graph.output:
        output.type.tensor_type.ClearField("shape")
    try:
        graph = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    except onnx.shape_inference.InferenceError:
        return None
    shapes = _shapes(graph)
    found = [_COUNTS[node.op_type](node, shapes) for node in graph.node if node.op_type in _COUNTS]
    return sum(one or 0 for one in found) if None not in found else None


def _shapes(graph: GraphProto) -> dict[str, Shape]:
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        axes = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(a.HasField("dim_value") for a in axes):
            shapes[value.name] = tuple(axis.dim_value for axis in axes)
    return shapes


def _convolution(node: NodeProto, shapes: Mapping[str, Shape]) -> int | None:
    """Every output element sums over the kernel [out, in / groups, ...]."""
    kernel, out = shapes.get(node.input[_KERNEL[node.op_type]]), shapes.get(node.output[0])
    return math.prod(out) * math.prod(kernel[1:]) if kernel and out else None


def _transposed(node: NodeProto, shapes: Mapping[str, Shape]) -> int | None:
    """Every input element is spread over the kernel [in, out / groups, ...]."""
    kernel, given = shapes.get(node.input[1]), shapes.get(node.input[0])
    return math.prod(given) * math.prod(kernel[1:]) if kernel and given else None


def _product(node: NodeProto, shapes: Mapping[str, Shape]) -> int | None:
    """Every output element sums over the first factor's last axis."""
    left, out = shapes.get(node.input[0]), shapes.get(node.output[0])
    return math.prod(out) * left[-1] if left and out is not None else None


def _gemm(node: NodeProto, shapes: Mapping[str, Shape]) -> int | None:
    left, out = shapes.get(node.input[0]), shapes.get(node.output[0])
    turned = any(one.name == "transA" and one.i for one in node.attribute)
    return math.prod(out) * left[0 if turned else -1] if left and out else None


_KERNEL = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
_COUNTS: dict[str, Callable[[NodeProto, Mapping[str, Shape]], int | None]] = {
    "Conv": _convolution,
    "ConvInteger": _convolution,
    "QLinearConv": _convolution,
    "ConvTranspose": _transposed,
    "MatMul": _product,
    "MatMulInteger": _product,
    "QLinearMatMul": _product,
    "Gemm": _gemm,
}


def _initializers(graph: GraphProto) -> Iterable[TensorProto]:
    yield from graph.initializer
    for inner in _bodies(graph.node):
        yield from _initializers(inner)


def _bodies(nodes: Sequence[NodeProto]) -> Iterable[GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield attribute.g
            yield from attribute.graphs
