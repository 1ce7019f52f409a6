"""What a file says of itself, against counts by hand."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mpo.errors import MpoError, UsageError
from mpo.pipeline.run.graphs import (
    count_macs,
    count_nodes,
    count_params,
    data_files,
    read_model,
    wanted_inputs,
)

WIDTH = 96  # of the chains


def test_a_chain_of_products_is_counted_by_hand(tiny: ModuleType, tmp_path: Path) -> None:
    model = read_model(tiny.chain(tmp_path / "m.onnx", 3))
    assert count_params(model) == 3 * WIDTH * WIDTH
    assert count_nodes(model.graph) == 6
    assert count_macs(model, {"x": (5, WIDTH)}) == 3 * 5 * WIDTH * WIDTH
    assert count_macs(model, {}) is None  # the batch is unknown
    (one,) = wanted_inputs(model)
    assert (one.name, one.axes, one.dtype) == ("x", ("n", WIDTH), "float32")


def test_convolutions_and_gemm_are_counted_by_hand(tiny: ModuleType, tmp_path: Path) -> None:
    kernel = numpy_helper.from_array(np.ones((6, 2, 3, 3), np.float32), "k")
    back = numpy_helper.from_array(np.ones((6, 4, 2, 2), np.float32), "b")
    dense = numpy_helper.from_array(np.ones((10, 400), np.float32), "d")
    shape = numpy_helper.from_array(np.array([0, -1]), "s")
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], group=2, pads=[1, 1, 1, 1]),
        helper.make_node("ConvTranspose", ["c", "b"], ["u"], strides=[2, 2]),
        helper.make_node("Reshape", ["u", "s"], ["f"]),
        helper.make_node("Gemm", ["f", "d"], ["y"], transB=1),
    ]
    path = tiny.save(
        tmp_path / "m.onnx", nodes, {"x": ["n", 4, 5, 5]}, [kernel, back, dense, shape]
    )
    model = read_model(path)
    conv, turned, gemm = 6 * 5 * 5 * 2 * 9, 6 * 5 * 5 * 4 * 4, 10 * 400
    assert count_macs(model, {"x": (1, 4, 5, 5)}) == conv + turned + gemm
    assert count_macs(model, {"x": (3, 4, 5, 5)}) == 3 * (conv + turned + gemm)
    assert count_params(model) == 108 + 96 + 4000  # the target shape is no parameter


def test_work_inside_control_flow_is_not_guessed(tiny: ModuleType, tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")

    def body(name: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
        nodes = [helper.make_node("MatMul", ["x", "w"], ["o"])]
        return helper.make_graph(nodes, name, [], [out], [weight])

    condition = numpy_helper.from_array(np.array(True), "c")
    node = helper.make_node("If", ["c"], ["y"], then_branch=body("then"), else_branch=body("else"))
    model = read_model(tiny.save(tmp_path / "m.onnx", [node], {"x": [2, 4]}, [condition]))
    assert count_macs(model, {"x": (2, 4)}) is None
    assert count_nodes(model.graph) == 3
    assert count_params(model) == 32


def test_weights_in_another_file_count_as_bytes_of_the_model(
    tiny: ModuleType, tmp_path: Path
) -> None:
    path = tiny.chain(tmp_path / "m.onnx", 2)
    model = onnx.load(str(path))
    onnx.save_model(
        model, str(path), save_as_external_data=True, location="m.data", size_threshold=0
    )
    again = read_model(path)
    assert data_files(path, again) == ((tmp_path / "m.data").resolve(),)
    assert count_params(again) == 2 * WIDTH * WIDTH
    (tmp_path / "m.data").unlink()
    with pytest.raises(UsageError, match=r"m\.data"):
        data_files(path, again)


def test_a_data_file_elsewhere_is_refused(tiny: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x" * 100_000)
    folder = tmp_path / "model"
    folder.mkdir()
    path = tiny.chain(folder / "m.onnx", 1)
    model = onnx.load(str(path))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    with pytest.raises(UsageError, match="not beside it"):
        data_files(path, model)


@pytest.mark.parametrize("content", [b"", b"this is no model", b"\x00" * 64])
def test_what_is_no_model_is_a_failure_and_what_is_not_there_bad_usage(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(MpoError, match="no ONNX model") as found:
        read_model(path)
    assert found.value.exit_code == 1
    with pytest.raises(UsageError, match="no ONNX file"):
        read_model(tmp_path / "none.onnx")
