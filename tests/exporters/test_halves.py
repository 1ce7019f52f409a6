"""fp16 and bf16: half the size, the same decisions, and what would overflow stays float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from mpo.errors import UsageError
from mpo.exporters.converted import (
    Array,
    Feeds,
    difference,
    file_bytes,
    floats,
    run,
    write_graph,
)
from mpo.exporters.halves import KINDS, to_bf16, to_half
from mpo.exporters.halving import halve, kinds_of
from mpo.exporters.runtimefaults import RUNTIME_ERRORS
from tests.exporters import pocket


def array32(values: object) -> Array:
    """Values as float32."""
    return np.asarray(values, np.float32)


def worst(source: Path, other: Path, feeds: Feeds) -> float:
    """Largest difference of the outputs over their scale, on the runtime as deployed."""
    pairs = zip(run(source, feeds), run(other, feeds, optimize=True), strict=True)
    return max(
        difference(a, b) for x, y in pairs for a, b in zip(floats(x), floats(y), strict=True)
    )


def types(model: ModelProto) -> dict[str, int]:
    """Element type of every initializer."""
    return {weight.name: weight.data_type for weight in model.graph.initializer}


@pytest.mark.parametrize("net", ["convolutions", "transformer"])
def test_fp16_takes_half_the_bytes_and_gives_the_same_outputs(tmp_path: Path, net: str) -> None:
    source = getattr(pocket, net)(tmp_path / "model.onnx")
    feeds = pocket.images() if net == "convolutions" else pocket.sentences()
    made = to_half(source, tmp_path / "half.onnx", feeds)
    assert made.precision == "fp16"
    assert made.bytes == file_bytes(made.path)
    assert 0.45 < made.bytes / file_bytes(source) < 0.65
    assert made.error is not None
    assert made.error < 5e-3
    assert worst(source, made.path, feeds) < 5e-3
    assert made.warnings == ()


def test_a_graph_that_crashes_the_runtime_is_mended(tmp_path: Path) -> None:
    """A Transpose of batch axes in fp16 right before a MatMul: ONNX Runtime 1.31 dies on it."""
    axes_of: dict[str, list[str | int | None]] = {"x": ["b", 4, 8], "y": [4, "b", 8]}
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, axes)
        for name, axes in axes_of.items()
    ]
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], name="Transpose_0", perm=[1, 0, 2]),
        helper.make_node("MatMul", ["t", "w"], ["y"], name="MatMul_0"),
    ]
    weights = [numpy_helper.from_array(np.eye(8, dtype=np.float32), "w")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    source = tmp_path / "model.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    write_graph(model, source)
    feeds = [{"x": np.random.default_rng(0).standard_normal((3, 4, 8)).astype(np.float32)}]
    made = to_half(source, tmp_path / "half.onnx", feeds)
    assert made.warnings == ()
    assert worst(source, made.path, feeds) < 2e-3  # in this process: it would end here


def test_inputs_and_outputs_stay_float32_and_weights_do_not(tmp_path: Path) -> None:
    source = pocket.convolutions(tmp_path / "model.onnx")
    made = to_half(source, tmp_path / "half.onnx", pocket.images())
    model = onnx.load(made.path)
    ends = (*model.graph.input, *model.graph.output)
    assert {end.type.tensor_type.elem_type for end in ends} == {TensorProto.FLOAT}
    kinds = types(model)
    assert TensorProto.FLOAT not in kinds.values()
    assert kinds.keys() == types(onnx.load(source)).keys()


@pytest.mark.case(50)
def test_an_overflowing_layer_is_found_and_kept(tmp_path: Path) -> None:
    """1e5 in the middle, brought back by the next layer: no output tells, fp16 would give inf."""
    source = tmp_path / "model.onnx"
    write_graph(pocket.chain(1.0, 1e5, 1e-5, 1.0), source)
    feeds = pocket.vectors()
    made = to_half(source, tmp_path / "half.onnx", feeds)
    reasons = {kept.node: kept.reason for kept in made.kept}
    assert "MatMul_1" in reasons
    assert "product1 reaches" in reasons["MatMul_1"]
    assert "65504" in reasons["MatMul_1"]
    assert {"MatMul_0", "MatMul_3"}.isdisjoint(reasons)
    assert worst(source, made.path, feeds) < 5e-3
    values = next(run(made.path, feeds[:1], ["product1", "relu0"]))
    assert values["product1"].dtype == np.float32
    assert np.isfinite(values["product1"]).all()
    assert values["relu0"].dtype == np.float16


@pytest.mark.case(50)
def test_without_the_keep_list_the_same_layer_overflows(tmp_path: Path) -> None:
    """The check above would mean nothing if plain conversion did well."""
    model, feeds = pocket.chain(1.0, 1e5, 1e-5, 1.0), pocket.vectors()
    plain = halve(model, KINDS["fp16"], kinds_of(model), {}, emulate=True)
    assert not np.isfinite(next(run(plain, feeds))["y"]).all()


def test_a_constant_that_half_rounds_to_nothing_is_kept(tmp_path: Path) -> None:
    """x / (x * 0 + 1e-9): the divisor would be zero."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 2]) for name in "xy"]
    nodes = [
        helper.make_node("Mul", ["x", "zero"], ["nothing"], name="Mul_0"),
        helper.make_node("Add", ["nothing", "eps"], ["little"], name="Add_0"),
        helper.make_node("Mul", ["x", "eps"], ["small"], name="Mul_1"),
        helper.make_node("Div", ["small", "little"], ["y"], name="Div_0"),
    ]
    weights = [
        numpy_helper.from_array(array32([0.0]), "zero"),
        numpy_helper.from_array(array32([1e-9]), "eps"),
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    source = tmp_path / "model.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    write_graph(model, source)
    feeds = [{"x": array32([[1.0, 2.0]])}]
    made = to_half(source, tmp_path / "half.onnx", feeds)
    kept = {item.node: item.reason for item in made.kept}
    assert "eps is lost in half" in kept["Add_0"]
    assert {"Mul_1", "Div_0"} <= kept.keys()
    np.testing.assert_allclose(next(run(made.path, feeds))["y"], [[1.0, 2.0]], rtol=1e-3)


def test_a_mask_of_minus_infinity_needs_no_float32(tmp_path: Path) -> None:
    """-3.4e38 in an attention mask is out of half's range and only means "never"."""
    source = pocket.transformer(tmp_path / "model.onnx")
    biggest = max(
        float(np.abs(numpy_helper.to_array(weight)).max(initial=0))
        for weight in onnx.load(source).graph.initializer
        if weight.data_type == TensorProto.FLOAT
    )
    assert biggest > 1e38
    made = to_half(source, tmp_path / "half.onnx", pocket.sentences())
    assert "Softmax" not in {kept.op for kept in made.kept}


def test_nodes_are_kept_on_request_and_unknown_ones_refused(tmp_path: Path) -> None:
    source = pocket.convolutions(tmp_path / "model.onnx")
    made = to_half(source, tmp_path / "half.onnx", pocket.images(), keep=["Gemm_0"])
    assert [(kept.node, kept.reason) for kept in made.kept] == [("Gemm_0", "asked for")]
    assert TensorProto.FLOAT in types(onnx.load(made.path)).values()
    with pytest.raises(UsageError, match="no node 'Gemm_7'"):
        to_half(source, tmp_path / "half.onnx", pocket.images(), keep=["Gemm_7"])


def test_a_branch_inside_an_if_sees_float32(tmp_path: Path) -> None:
    """Bodies of If and Loop are left alone, values from outside are handed in wide."""
    scalar = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
    bodies = [
        helper.make_graph(
            [helper.make_node(op, ["h", "w"], ["b"], name=f"{op}_in")], op, [], [scalar]
        )
        for op in ("Add", "Mul")
    ]
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["h"], name="Mul_0"),
        helper.make_node("ReduceSum", ["h"], ["sum"], name="Sum_0", keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"], name="Greater_0"),
        helper.make_node(
            "If", ["positive"], ["c"], name="If_0", then_branch=bodies[0], else_branch=bodies[1]
        ),
        helper.make_node("Neg", ["c"], ["y"], name="Neg_0"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 2]) for name in "xy"]
    weights = [
        numpy_helper.from_array(array32([2.0, 3.0]), "w"),
        numpy_helper.from_array(array32(0.0), "zero"),
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    source = tmp_path / "model.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    write_graph(model, source)
    feeds = [{"x": array32([[1, 2]])}, {"x": array32([[-1, -2]])}]
    made = to_half(source, tmp_path / "half.onnx", feeds)
    found = [values["y"].tolist() for values in run(made.path, feeds)]
    assert found == [[[-4.0, -9.0]], [[4.0, 18.0]]]


def test_operators_that_know_no_half_stay_float32(tmp_path: Path) -> None:
    """Range counts in float32, double and integers only; Resize takes its scales in float32."""
    nodes = [
        helper.make_node("Range", ["zero", "four", "one"], ["steps"], name="Range_0"),
        helper.make_node("Mul", ["x", "steps"], ["scaled"], name="Mul_0"),
        helper.make_node("Resize", ["scaled", "", "scales"], ["y"], name="Resize_0"),
    ]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 4]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 8]),
    ]
    weights = [
        *(
            numpy_helper.from_array(array32(value), name)
            for name, value in (("zero", 0), ("four", 4), ("one", 1))
        ),
        numpy_helper.from_array(array32([1.0, 2.0]), "scales"),
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    source = tmp_path / "model.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    write_graph(model, source)
    feeds = [{"x": array32([[1, 2, 3, 4]])}]
    made = to_half(source, tmp_path / "half.onnx", feeds)
    assert types(onnx.load(made.path))["scales"] == TensorProto.FLOAT
    values = next(run(made.path, feeds, ["scaled", "y"]))
    assert values["scaled"].dtype == np.float16
    np.testing.assert_array_equal(values["y"], [[0, 0, 2, 2, 6, 6, 12, 12]])


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    source = pocket.convolutions(tmp_path / "model.onnx")
    both = [to_half(source, tmp_path / f"{n}.onnx", pocket.images()).sha256 for n in range(2)]
    assert both[0] == both[1]


def test_bf16_is_made_where_it_runs_and_refused_with_the_reason_elsewhere(tmp_path: Path) -> None:
    source, target = pocket.convolutions(tmp_path / "model.onnx"), tmp_path / "b.onnx"
    if runs_bf16():
        made = to_bf16(source, target, pocket.images())
        assert 0.45 < made.bytes / file_bytes(source) < 0.65
        assert made.error is not None
        assert made.error < 0.08
        return
    with pytest.raises(UsageError, match="bf16 does not run here") as caught:
        to_bf16(source, target, pocket.images())
    assert "CPUExecutionProvider" in caught.value.message
    assert "fp16" in caught.value.hint
    assert not target.exists()


def runs_bf16() -> bool:
    """Whether this runtime has a bf16 product for this processor; asked without mpo."""
    ends = [helper.make_tensor_value_info(name, TensorProto.BFLOAT16, [2, 2]) for name in "xy"]
    nodes = [helper.make_node("MatMul", ["x", "x"], ["y"])]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except RUNTIME_ERRORS:
        return False
    return True


def test_bf16_rounds_to_eight_bits_and_holds_what_fp16_cannot() -> None:
    """The conversion itself, computed in float32 with every value rounded."""
    model, feeds = pocket.chain(1.0, 1e5, 1e-5, 1.0), pocket.vectors()
    wanted = next(run(model, feeds))["y"]
    rounded = halve(model, KINDS["bf16"], kinds_of(model), {}, emulate=True)
    error = difference(wanted, next(run(rounded, feeds))["y"])
    assert 1e-4 < error < 0.05


@pytest.mark.parametrize("feeds", [[], [{"wrong": np.zeros((1, 16), np.float32)}]])
def test_feeds_that_do_not_fit_are_refused(tmp_path: Path, feeds: Feeds) -> None:
    source = tmp_path / "model.onnx"
    write_graph(pocket.chain(1.0), source)
    with pytest.raises(UsageError):
        to_half(source, tmp_path / "half.onnx", feeds)
    assert not (tmp_path / "half.onnx").exists()


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(b"\xff" * 100)
    with pytest.raises(UsageError, match="Cannot read"):
        to_half(source, tmp_path / "half.onnx", pocket.vectors())


def test_a_value_that_rounding_ruins_is_found_and_kept(tmp_path: Path) -> None:
    """(x + 1000) - 1000 overflows nowhere, but half counts in steps of 0.5 at 1000."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 8]) for name in "xy"]
    nodes = [
        helper.make_node("Mul", ["x", "one"], ["own"], name="Mul_0"),
        helper.make_node("Add", ["own", "far"], ["away"], name="Add_0"),
        helper.make_node("Sub", ["away", "far"], ["back"], name="Sub_0"),
        helper.make_node("Mul", ["back", "one"], ["y"], name="Mul_1"),
    ]
    weights = [
        numpy_helper.from_array(array32([value]), name)
        for name, value in (("one", 1.0), ("far", 1000.0))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    source = tmp_path / "model.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    write_graph(model, source)
    feeds = pocket.vectors(width=8)
    made = to_half(source, tmp_path / "half.onnx", feeds)
    kept = {item.node: item.reason for item in made.kept}
    assert "off by" in kept["Sub_0"]
    assert kept["Add_0"] == "rounded to half it spoils Sub_0"
    assert {"Mul_0", "Mul_1"}.isdisjoint(kept)
    assert made.error is not None
    assert made.error < 0.01
    assert worst(source, made.path, feeds) < 0.01
