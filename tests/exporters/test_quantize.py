"""int8: a quarter of the weights, outputs near, and a layout that TensorRT takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from mpo.errors import UsageError
from mpo.exporters.converted import (
    Array,
    Feeds,
    distance,
    file_bytes,
    floats,
    run,
    write_graph,
)
from mpo.exporters.external import weight_bytes
from mpo.exporters.metadata import read_stamp, stamp
from mpo.exporters.quantize import FOR_CPU, Layout, quantize_dynamic, quantize_static
from mpo.exporters.ranges import METHODS, observe
from tests.exporters import pocket


def outputs(path: Path, feeds: Feeds) -> list[Array]:
    """All outputs, as deployed."""
    return [value for values in run(path, feeds, optimize=True) for value in floats(values)]


@pytest.mark.parametrize("net", ["convolutions", "transformer"])
def test_static_int8_takes_a_quarter_of_the_weights_and_stays_near(
    tmp_path: Path, net: str
) -> None:
    source = getattr(pocket, net)(tmp_path / "model.onnx")
    feeds = pocket.images() if net == "convolutions" else pocket.sentences()
    made = quantize_static(source, tmp_path / "int8.onnx", feeds)
    assert made.precision == "int8"
    before, after = (weight_bytes(onnx.load(path)) for path in (source, made.path))
    assert 0.25 < after / before < 0.35
    assert made.bytes == file_bytes(made.path) < 0.6 * file_bytes(source)
    error = distance(outputs(source, feeds), outputs(made.path, feeds))
    assert made.error == pytest.approx(error)
    assert 0 < error < 0.05
    assert made.warnings == ()


def test_scales_are_symmetric_per_channel_and_biases_stay_float32(tmp_path: Path) -> None:
    """TensorRT takes no zero point but 0 and no int32 through DequantizeLinear."""
    source = pocket.convolutions(tmp_path / "model.onnx")
    model = onnx.load(quantize_static(source, tmp_path / "int8.onnx", pocket.images()).path)
    weights = {weight.name: weight for weight in model.graph.initializer}
    pairs = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        zero = weights[node.input[2]]
        assert zero.data_type == TensorProto.INT8
        assert not numpy_helper.to_array(zero).any()
    assert TensorProto.INT32 not in {weight.data_type for weight in weights.values()}
    kernels = [n for n in pairs if n.input[0] in weights and len(weights[n.input[0]].dims) == 4]
    assert len(kernels) == 3
    for node in kernels:
        assert weights[node.input[1]].dims == weights[node.input[0]].dims[:1]
        assert np.abs(numpy_helper.to_array(weights[node.input[0]])).max() <= 64


@pytest.mark.parametrize("net", ["convolutions", "transformer"])
@pytest.mark.parametrize("layout", [Layout(), FOR_CPU], ids=["portable", "for_cpu"])
def test_the_runtime_computes_products_in_int8(tmp_path: Path, net: str, layout: Layout) -> None:
    """A Gemm left in float32 turns its weights back at every call: slower than no int8 at all."""
    source = getattr(pocket, net)(tmp_path / "model.onnx")
    feeds = pocket.images(1) if net == "convolutions" else pocket.sentences(1)
    made = quantize_static(source, tmp_path / "int8.onnx", feeds, layout=layout)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 4  # it warns that the file suits this machine only
    onnxruntime.InferenceSession(str(made.path), options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node]
    assert "Gemm" not in operators
    assert operators.count("QGemm") == sum(
        n.op_type == "Gemm" for n in onnx.load(source).graph.node
    )
    if layout is FOR_CPU:
        assert "Conv" not in operators


def test_the_layout_for_cpus_has_uint8_activations_and_stays_near(tmp_path: Path) -> None:
    source, feeds = pocket.convolutions(tmp_path / "model.onnx"), pocket.images()
    made = quantize_static(source, tmp_path / "int8.onnx", feeds, layout=FOR_CPU)
    kinds = {tensor.data_type for tensor in onnx.load(made.path).graph.initializer}
    assert {TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32} <= kinds
    assert distance(outputs(source, feeds), outputs(made.path, feeds)) < 0.05


def test_full_range_weights_use_all_eight_bits(tmp_path: Path) -> None:
    source = pocket.convolutions(tmp_path / "model.onnx")
    made = quantize_static(
        source, tmp_path / "int8.onnx", pocket.images(1), layout=Layout(full_range=True)
    )
    tensors = [t for t in onnx.load(made.path).graph.initializer if t.data_type == TensorProto.INT8]
    assert max(int(np.abs(numpy_helper.to_array(t).astype(int)).max()) for t in tensors) == 127


def test_the_calibration_with_the_least_error_is_taken(tmp_path: Path) -> None:
    source, feeds = pocket.convolutions(tmp_path / "model.onnx"), pocket.images()
    alone = {
        method: quantize_static(source, tmp_path / f"{method}.onnx", feeds, methods=[method])
        for method in METHODS
    }
    best = quantize_static(source, tmp_path / "best.onnx", feeds)
    errors = {method: made.error for method, made in alone.items() if made.error is not None}
    winner = min(errors, key=lambda method: errors[method])
    assert len(set(errors.values())) > 1
    assert best.error == min(errors.values())
    assert best.note.endswith(f"{winner} taken")
    assert best.sha256 == alone[winner].sha256


def test_a_single_outlier_stretches_the_extremes_and_not_the_percentile() -> None:
    model = pocket.chain(1.0)
    random = np.random.default_rng(0)
    feeds = [{"x": random.uniform(-1, 1, (2000, 16)).astype(np.float32)}]
    feeds[0]["x"][0, 0] = 50.0
    found = observe(model, feeds, ["x"])
    assert found["minmax"]["x"][1] == 50.0
    assert found["percentile"]["x"][1] < 2.0
    low, high = found["entropy"]["x"]
    assert -1.0 <= low < high <= 50.0


def test_kept_nodes_stay_float32(tmp_path: Path) -> None:
    source = pocket.convolutions(tmp_path / "model.onnx")
    made = quantize_static(source, tmp_path / "int8.onnx", pocket.images(1), keep=["Conv_1"])
    assert [(kept.node, kept.op) for kept in made.kept] == [("Conv_1", "Conv")]
    model = onnx.load(made.path)
    node = next(node for node in model.graph.node if node.name == "Conv_1")
    floats_left = [w.name for w in model.graph.initializer if w.data_type == TensorProto.FLOAT]
    assert node.input[1] in floats_left
    with pytest.raises(UsageError, match="no node 'Conv_9'"):
        quantize_static(source, tmp_path / "int8.onnx", pocket.images(1), keep=["Conv_9"])


def test_dynamic_int8_needs_no_data_and_shrinks_a_transformer(tmp_path: Path) -> None:
    source = pocket.transformer(tmp_path / "model.onnx")
    made = quantize_dynamic(source, tmp_path / "int8.onnx")
    assert made.precision == "int8-dynamic"
    before, after = (weight_bytes(onnx.load(path)) for path in (source, made.path))
    assert 0.25 < after / before < 0.4
    feeds = pocket.sentences()
    assert distance(outputs(source, feeds), outputs(made.path, feeds)) < 0.05


def test_dynamic_int8_says_when_it_did_hardly_anything(tmp_path: Path) -> None:
    source = pocket.convolutions(tmp_path / "model.onnx")
    made = quantize_dynamic(source, tmp_path / "int8.onnx")
    assert len(made.warnings) == 1
    assert "of the weights are in layers that int8-dynamic takes" in made.warnings[0]


def test_metadata_survives_and_nothing_is_left_beside_the_files(tmp_path: Path) -> None:
    source = pocket.convolutions(tmp_path / "model.onnx")
    stamp(source, {"mpo.labels": ["a", "b"]})
    quantize_static(source, tmp_path / "static.onnx", pocket.images(1))
    quantize_dynamic(source, tmp_path / "dynamic.onnx")
    assert read_stamp(tmp_path / "static.onnx") == {"mpo.labels": ["a", "b"]}
    assert read_stamp(tmp_path / "dynamic.onnx") == {"mpo.labels": ["a", "b"]}
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"model.onnx", "static.onnx", "dynamic.onnx"}


def test_the_same_model_and_data_give_the_same_bytes(tmp_path: Path) -> None:
    source, feeds = pocket.convolutions(tmp_path / "model.onnx"), pocket.images(1)
    both = [quantize_static(source, tmp_path / f"{n}.onnx", feeds).sha256 for n in range(2)]
    assert both[0] == both[1]


def test_a_model_without_layers_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    model = pocket.chain(1.0)
    model.graph.node[0].op_type = "Add"
    write_graph(model, source)
    feeds = [{"x": np.zeros((16, 16), np.float32)}]
    with pytest.raises(UsageError, match="no layer that int8 takes"):
        quantize_static(source, tmp_path / "int8.onnx", feeds)
    with pytest.raises(UsageError, match="no layer that int8-dynamic takes"):
        quantize_dynamic(source, tmp_path / "int8.onnx")


def test_an_old_opset_is_refused_with_the_number(tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    model = pocket.chain(1.0)
    model.opset_import[0].version = 11
    write_graph(model, source)
    with pytest.raises(UsageError, match="opset 11"):
        quantize_static(source, tmp_path / "int8.onnx", pocket.vectors())


def test_an_unknown_calibration_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    write_graph(pocket.chain(1.0), source)
    with pytest.raises(UsageError, match="guess"):
        quantize_static(
            source,
            tmp_path / "int8.onnx",
            pocket.vectors(),
            methods=["guess"],  # type: ignore[list-item]
        )
