"""Tiny ONNX models that devices are measured with."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import NodeProto, TensorProto, ValueInfoProto, helper

OPSET, IR_VERSION = 17, 8  # old enough for the runtimes of devices


def model_of(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    weights: Sequence[TensorProto] = (),
) -> bytes:
    """An ONNX file of these nodes."""
    graph = helper.make_graph(nodes, "probe", inputs, outputs, weights)
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
    return bytes(model.SerializeToString())


def unary_model(operator: str, size: int | str) -> bytes:
    """An ONNX file of y = operator(x), x a float32 vector."""
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [size]) for name in "xy"]
    return model_of([helper.make_node(operator, ["x"], ["y"])], infos[:1], infos[1:])


def empty_model() -> bytes:
    """An ONNX file that hands its input, one number, on."""
    return unary_model("Identity", 1)
