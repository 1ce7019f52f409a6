"""Weights that are there twice, written once: equal ones, and one that is another turned over."""

from __future__ import annotations

import hashlib

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, external_data_helper, numpy_helper

LEAST = 1024  # bytes; sharing less is not worth a node


def share_weights(model: ModelProto) -> int:
    """Keep one of all initializers that hold the same; the transpose of another one becomes a
    Transpose node, which a runtime folds when it loads the file. Changes the graph in place.

    Exporters fold the turned copy of a tied embedding into a second matrix as large as the first.

    Returns:
        The bytes that were saved.
    """
    graph = model.graph
    taken = {node.name for node in graph.node}
    ends = {value.name for value in (*graph.input, *graph.output)}
    known: dict[str, str] = {}
    renamed: dict[str, str] = {}
    turned: list[NodeProto] = []
    gone: set[str] = set()
    saved = 0
    for tensor in graph.initializer:
        outside = external_data_helper.uses_external_data(tensor) or tensor.name in ends
        if outside or _size(tensor) < LEAST:
            continue
        array = numpy_helper.to_array(tensor)
        own = _digest(array, tensor.data_type)
        other = known.get(own)
        if other is not None:
            renamed[tensor.name] = other
        elif array.ndim == 2 and (
            other := known.get(_digest(np.ascontiguousarray(array.T), tensor.data_type))
        ):
            node = NodeProto(op_type="Transpose", input=[other], output=[tensor.name])
            node.name = free_name(f"Transpose_of_{other}", taken)
            node.attribute.add(name="perm", type=7, ints=(1, 0))
            turned.append(node)
        else:
            known[own] = tensor.name
            continue
        gone.add(tensor.name)
        saved += _size(tensor)
    if not gone:
        return 0
    _rebuild(graph, gone, renamed, turned)
    return saved


def _rebuild(
    graph: GraphProto, gone: set[str], renamed: dict[str, str], turned: list[NodeProto]
) -> None:
    """The graph without the initializers that are gone, and with the nodes that turn others."""
    kept = [tensor for tensor in graph.initializer if tensor.name not in gone]
    nodes = [*turned, *graph.node]
    copies = [NodeProto() for _ in nodes]
    for copy, node in zip(copies, nodes, strict=True):
        copy.CopyFrom(node)
        rename_inputs(copy, renamed)
    weights = [TensorProto() for _ in kept]
    for weight, tensor in zip(weights, kept, strict=True):
        weight.CopyFrom(tensor)
    del graph.node[:], graph.initializer[:]
    graph.node.extend(copies)
    graph.initializer.extend(weights)


def _size(tensor: TensorProto) -> int:
    return len(tensor.raw_data) or tensor.ByteSize()


def _digest(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], kind: int) -> str:
    text = f"{kind}{array.shape}".encode()
    return hashlib.sha256(text + np.ascontiguousarray(array).tobytes()).hexdigest()


def free_name(name: str, taken: set[str]) -> str:
    """The name, numbered when it is taken; it is taken then."""
    free, count = name, 1
    while free in taken:
        count += 1
        free = f"{name}_{count}"
    taken.add(free)
    return free


def rename_inputs(node: NodeProto, renamed: dict[str, str]) -> None:
    """Let a node read values by their new names, inside its graphs of control flow too, which see
    the weights around them."""
    for place, name in enumerate(node.input):
        node.input[place] = renamed.get(name, name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                rename_inputs(inner, renamed)
