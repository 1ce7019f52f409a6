"""Clean ONNX graphs: simplified where that pays, and the same bytes on every machine."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto

from mpo.exporters.external import weight_bytes
from mpo.exporters.sharing import share_weights

GROWTH, ROOM = 0.01, 4096  # share and bytes that folded constants may add to the weights
TOLERANCE = 1e-4  # of the output's largest magnitude; folding only reorders float32 sums


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back what exporters print, log and warn; their failures still come as exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    sink = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sink):
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(sink):
                yield
    finally:
        logging.disable(before)


def simplify(
    model: ModelProto, feeds: Sequence[dict[str, NDArray[np.generic]]]
) -> tuple[ModelProto, str]:
    """The graph after onnxsim, or the graph as it was when that fails, differs or does not pay.

    Args:
        model: a checked graph.
        feeds: inputs by name; the simplified graph must give the same outputs on every one of them,
            so two batch sizes prove that a dynamic batch axis survived.

    Returns:
        The graph to keep, and why it was not simplified ("" when it was).
    """
    try:
        with quiet():
            import onnxsim

            smaller, _ = onnxsim.simplify(model)
            share_weights(smaller)
            if len(smaller.graph.node) >= len(model.graph.node):
                return model, "no node could be saved"
            more = weight_bytes(smaller) - weight_bytes(model)
            if more > GROWTH * weight_bytes(model) + ROOM:
                return model, f"onnxsim would add {more / 1e6:.2f} MB of folded constants"
            reason = _difference(model, smaller, feeds)
    except Exception as error:  # noqa: BLE001 - a foreign optimizer's failure loses no export
        first = (str(error).strip().splitlines() or ["no message"])[0][:200]
        return model, f"onnxsim failed with {type(error).__name__}: {first}"
    return (model, reason) if reason else (smaller, "")


def _difference(
    model: ModelProto, other: ModelProto, feeds: Sequence[dict[str, NDArray[np.generic]]]
) -> str:
    """How the second graph departs from the first; "" when it does not."""
    if signature(model) != signature(other):
        return "onnxsim changed the inputs or outputs"
    first, second = _session(model), _session(other)
    for feed in feeds:
        for want, got in zip(first.run(None, feed), second.run(None, feed), strict=True):
            if want.shape != got.shape:
                return f"onnxsim changed an output's shape from {want.shape} to {got.shape}"
            if np.issubdtype(want.dtype, np.floating):
                scale = float(np.abs(want).max(initial=0.0)) or 1.0
                worst = float(np.abs(want - got).max(initial=0.0))
                if not worst <= TOLERANCE * scale:
                    return f"onnxsim changed an output by {worst:.3g}"
            elif not np.array_equal(want, got):
                return "onnxsim changed an integer output"
    return ""


def signature(model: ModelProto) -> list[tuple[str, str, int, tuple[str, ...]]]:
    """Inputs and outputs: side, name, element type, and each axis as its size or symbol."""
    rows = []
    for side, values in (("input", model.graph.input), ("output", model.graph.output)):
        for value in values:
            kind = value.type.tensor_type
            axes = tuple(d.dim_param or str(d.dim_value) for d in kind.shape.dim)
            rows.append((side, value.name, kind.elem_type, axes))
    return rows


def _session(model: ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def canonical(model: ModelProto, folder: Path | None = None) -> ModelProto:
    """A copy without traces of the machine that made it: equal graphs give equal bytes.

    Exporters write stack traces with the paths of source files, and node names with a counter of
    the process, into metadata and documentation strings: all of it goes, nodes are numbered by
    their kind, and shapes of intermediate values are inferred anew.

    Args:
        folder: where weights that the graph names, and does not hold, lie.

    Raises:
        onnx.checker.ValidationError, onnx.shape_inference.InferenceError: the graph is not valid.
    """
    clean = ModelProto()
    clean.CopyFrom(model)
    _strip(clean)
    for function in clean.functions:
        _strip(function)
        for node in function.node:
            _strip(node)
    _clean_graph(clean.graph, Counter())
    del clean.graph.value_info[:]
    clean = onnx.shape_inference.infer_shapes(clean, check_type=True, strict_mode=True)
    if folder is None or not any(one.external_data for one in clean.graph.initializer):
        onnx.checker.check_model(clean, full_check=True)
        return clean
    path = folder / "checked.onnx"  # the checker looks for the weights beside the file
    path.write_bytes(clean.SerializeToString())
    onnx.checker.check_model(str(path), full_check=True)
    return clean


def _strip(item: object) -> None:
    for field in ("metadata_props", "doc_string"):
        if hasattr(item, field):
            item.ClearField(field)  # type: ignore[attr-defined]


def _clean_graph(graph: GraphProto, counts: Counter[str]) -> None:
    _strip(graph)
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        _strip(value)
    for node in graph.node:
        _strip(node)
        node.name = f"{node.op_type}_{counts[node.op_type]}"
        counts[node.op_type] += 1
        for attribute in node.attribute:
            _strip(attribute)
            if attribute.type == AttributeProto.GRAPH:
                _clean_graph(attribute.g, counts)
            elif attribute.type == AttributeProto.TENSOR:
                _strip(attribute.t)
            for inner in attribute.graphs:
                _clean_graph(inner, counts)
