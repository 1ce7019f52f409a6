"""ONNX files as an attacker would write them: one sound model, and what can be bent in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

Bend = Callable[[ModelProto], object]
SIZE = 8


def sound() -> ModelProto:
    """y = relu(x + w) with w stored in the file."""
    weights = numpy_helper.from_array(np.ones(SIZE, np.float32), "w")
    nodes = [helper.make_node("Add", ["x", "w"], ["s"]), helper.make_node("Relu", ["s"], ["y"])]
    return model_of(graph_of(nodes, [weights]))


def graph_of(nodes: list[NodeProto], weights: list[TensorProto] | None = None) -> GraphProto:
    """A graph from x to y, both of SIZE floats."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIZE]) for name in "xy")
    return helper.make_graph(nodes, "g", [x], [y], weights or [])


def model_of(graph: GraphProto) -> ModelProto:
    """A model that today's onnxruntime takes."""
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9)


def outside(location: str, **more: str) -> ModelProto:
    """The sound model with its weights in another file."""
    model = sound()
    bend_outside(model.graph.initializer[0], location, **more)
    return model


def bend_outside(tensor: TensorProto, location: str, **more: str) -> None:
    """Let a tensor lie in another file."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {
        "location": location,
        "offset": "0",
        "length": str(4 * SIZE),
        **more,
    }.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def nested(depth: int) -> ModelProto:
    """If in If in If."""
    inner = graph_of([helper.make_node("Relu", ["x"], ["y"])])
    del inner.input[:]
    for _ in range(depth):
        choice = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
        choice.attribute.pop()  # one branch is enough to nest; two would double the bytes each time
        inner = helper.make_graph([choice], "g", [], [inner.output[0]])
    condition = numpy_helper.from_array(np.array(True), "c")
    graph = graph_of([], [condition])
    graph.node.extend(inner.node)
    return model_of(graph)


def calling(calls: dict[str, list[str]]) -> ModelProto:
    """Functions that call one another, by name."""
    model = model_of(graph_of([helper.make_node(next(iter(calls)), ["x"], ["y"], domain="own")]))
    model.opset_import.add(domain="own", version=1)
    for name, inner in calls.items():
        nodes = [helper.make_node("Relu", ["a"], ["t0"])]
        for place, one in enumerate(inner):
            nodes.append(helper.make_node(one, [f"t{place}"], [f"t{place + 1}"], domain="own"))
        nodes.append(helper.make_node("Relu", [f"t{len(inner)}"], ["b"]))
        imports = [helper.make_opsetid("own", 1), helper.make_opsetid("", 17)]
        model.functions.append(helper.make_function("own", name, ["a"], ["b"], nodes, imports))
    return model


def doubling(levels: int) -> ModelProto:
    """A few hundred bytes that unfold to 2 ** levels nodes."""
    calls = {f"f{level}": [f"f{level + 1}"] * 2 for level in range(levels)}
    return calling({**calls, f"f{levels}": []})


def swelling(count: int, side: int) -> ModelProto:
    """`count` constants that the runtime folds to 4 * side ** 2 bytes each at load."""
    weights = [numpy_helper.from_array(np.ones((side, 1), np.float32), "ones")]
    nodes = []
    for place in range(count):
        row = np.full((1, side), place, np.float32)  # all different, or they fold to one
        weights.append(numpy_helper.from_array(row, f"row{place}"))
        nodes.append(helper.make_node("Mul", ["ones", f"row{place}"], [f"big{place}"]))
        nodes.append(helper.make_node("Mul", [f"big{place}", "x0"], [f"product{place}"]))
        nodes.append(helper.make_node("ReduceMax", [f"product{place}"], [f"m{place}"], keepdims=0))
    nodes.insert(0, helper.make_node("ReduceMax", ["x"], ["x0"], keepdims=1))
    nodes.append(helper.make_node("Sum", ["x", *(f"m{place}" for place in range(count))], ["y"]))
    return model_of(graph_of(nodes, weights))


def save(model: ModelProto, path: Path) -> Path:
    """Write the bytes; onnx's own writer would mend some of it."""
    path.write_bytes(model.SerializeToString())
    return path
