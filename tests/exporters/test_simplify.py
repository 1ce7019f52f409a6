"""Simplification keeps what the graph computes, or is dropped."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from mpo.exporters.simplify import canonical, signature, simplify


def graph(*, wasteful: bool) -> ModelProto:
    """y = x + 1, with a chain of needless nodes when wasteful."""
    inputs = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])
    outputs = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])
    half = helper.make_tensor("half", TensorProto.FLOAT, [1], [0.5])
    nodes = [helper.make_node("Add", ["half", "half"], ["one"])] if wasteful else []
    weights = [half] if wasteful else [helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])]
    nodes.append(helper.make_node("Add", ["x", "one"], ["y"], name="/home/someone/model.py"))
    nodes[-1].doc_string = "/home/someone/model.py"
    made = helper.make_graph(nodes, "g", [inputs], [outputs], weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


FEEDS: list[dict[str, NDArray[np.generic]]] = [
    {"x": np.ones((size, 2), np.float32)} for size in (1, 3)
]


def test_constants_are_folded_and_the_batch_axis_survives() -> None:
    before = canonical(graph(wasteful=True))
    after, reason = simplify(before, FEEDS)
    assert reason == ""
    assert len(after.graph.node) == 1
    assert signature(after) == signature(before)


def test_a_graph_with_nothing_to_save_is_kept() -> None:
    before = canonical(graph(wasteful=False))
    after, reason = simplify(before, FEEDS)
    assert after is before
    assert reason == "no node could be saved"


def test_a_simplifier_that_changes_the_result_is_not_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = graph(wasteful=False)
    wrong.graph.initializer[0].CopyFrom(helper.make_tensor("one", TensorProto.FLOAT, [1], [1.01]))
    monkeypatch.setattr("onnxsim.simplify", lambda model: (wrong, True))
    before = canonical(graph(wasteful=True))
    after, reason = simplify(before, FEEDS)
    assert after is before
    assert "changed an output" in reason


def test_a_simplifier_that_fails_loses_no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: ModelProto) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr("onnxsim.simplify", broken)
    before = canonical(graph(wasteful=True))
    after, reason = simplify(before, FEEDS)
    assert after is before
    assert "out of luck" in reason


def test_the_canonical_graph_holds_no_trace_of_its_maker() -> None:
    clean = canonical(graph(wasteful=True))
    assert [node.name for node in clean.graph.node] == ["Add_0", "Add_1"]
    assert b"someone" not in clean.SerializeToString()


def test_an_invalid_graph_is_refused() -> None:
    broken = graph(wasteful=False)
    broken.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises((onnx.checker.ValidationError, onnx.shape_inference.InferenceError)):
        canonical(broken)
