"""Which layers int8 takes, and the graph made ready for the quantizer."""

from __future__ import annotations

from collections.abc import Collection

import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper

from mpo.errors import UsageError
from mpo.exporters.external import LARGEST_BYTES, weight_bytes
from mpo.exporters.runtimefaults import first_line


def inferred(model: ModelProto) -> ModelProto:
    """The model with the shapes of all its values, which the quantizer asks for."""
    if weight_bytes(model) > LARGEST_BYTES:
        return model  # no protobuf holds it; mpo's own exports bring their shapes along
    try:
        return onnx.shape_inference.infer_shapes(model)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise UsageError(f"The graph's shapes do not fit together: {first_line(error)}") from error


def layers_of(model: ModelProto, operators: Collection[str]) -> list[NodeProto]:
    """Nodes of these operators with a float32 weight of their own."""
    weights = {w.name for w in model.graph.initializer if w.data_type == TensorProto.FLOAT}
    return [
        node for node in model.graph.node if node.op_type in operators and weights & {*node.input}
    ]


def part_biases(model: ModelProto, layers: Collection[str]) -> None:
    """Gemm(A, B, C) as Gemm(A, B) + C: with a float32 bias inside, ONNX Runtime finds no int8
    kernel and turns all weights back into float32 at every call."""
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        nodes.append(node)
        plain = all(item.f == 1.0 for item in node.attribute if item.name == "beta")
        if node.name in layers and node.op_type == "Gemm" and len(node.input) == 3 and plain:
            bias, output = node.input.pop(), node.output[0]
            node.output[0] = f"{output}_product"
            nodes.append(
                helper.make_node("Add", [node.output[0], bias], [output], f"{node.name}_bias")
            )
    del model.graph.node[:]
    model.graph.node.extend(nodes)
