"""Export of models that nothing was tuned to: what tracers refuse, named axes, tied and large
weights, outputs that are no tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from mpo.errors import MpoError, UsageError
from mpo.exporters.converted import run
from mpo.exporters.onnx import export_onnx
from mpo.exporters.parity import Call, check_parity
from mpo.exporters.runtime import OnnxModel
from mpo.exporters.sharing import share_weights

ROWS = torch.linspace(-1, 1, 20).reshape(5, 4)


class Shy(nn.Module):
    """Refuses torch.export, and nothing else."""

    def __init__(self, looks: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.line, self.looks = nn.Linear(4, 3), looks

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            raise RuntimeError("not while exporting")
        if self.looks and float(x.sum()) > 100:
            return self.line(-x)
        return self.line(x)


@pytest.mark.case(47)
def test_what_dynamo_refuses_torchscript_exports_and_the_record_says_so(tmp_path: Path) -> None:
    model, path = Shy().eval(), tmp_path / "model.onnx"
    export = export_onnx(model, (ROWS,), {}, path)
    assert export.tracer == "torchscript"
    assert export.dynamic_batch
    assert any("not while exporting" in text for text in export.warnings)
    calls: list[Call] = [((ROWS[:1],), {}), ((ROWS,), {})]
    assert check_parity(model, path, calls, lambda out: out).ok
    assert "line.weight" in {one.name for one in onnx.load(path).graph.initializer}


@pytest.mark.case(46)
def test_a_trace_that_holds_for_its_example_only_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MpoError, match="not while exporting") as caught:
        export_onnx(Shy(looks=True).eval(), (ROWS,), {}, tmp_path / "model.onnx")
    assert "this example only" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


class Pool(nn.Module):
    """Takes images of any size; its second output is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 2)

    def forward(self, image: Tensor) -> tuple[Tensor, object]:
        return self.head(self.conv(image).relu().mean((2, 3))), self.conv


def test_axes_have_the_names_that_were_asked_for_and_no_other_is_free(tmp_path: Path) -> None:
    model, path = Pool().eval(), tmp_path / "model.onnx"
    asked = [{2: "height", 3: "width"}]
    export = export_onnx(model, (torch.randn(1, 3, 16, 16),), {}, path, axes=asked)
    shape = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert [size.dim_param or size.dim_value for size in shape] == [1, 3, "height", "width"]
    assert export.warnings == ("The output output_1 is a Conv2d, no tensor; it is not in the ONNX "
                               "file.",)  # fmt: skip
    image = torch.randn(1, 3, 24, 40)
    (found,) = OnnxModel(path).run((image,), {})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), model(image)[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match="has 4 axes; axis 7"):
        export_onnx(model, (image,), {}, path, axes=[{7: "none"}])


class Tied(nn.Module):
    """A language model in small: the head is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.mix = nn.Embedding(400, 32), nn.Linear(32, 32)
        self.head = nn.Linear(32, 400, bias=False)
        self.head.weight = self.words.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(torch.relu(self.mix(self.words(input_ids))))


IDS = torch.arange(20).reshape(5, 4)


@pytest.mark.case(43)
@pytest.mark.case(52)
def test_tied_weights_are_written_once_also_when_the_file_is_a_large_one(tmp_path: Path) -> None:
    model, path = Tied().eval(), tmp_path / "model.onnx"
    export = export_onnx(model, (IDS,), {}, path)
    once = sum(p.numel() * 4 for p in model.parameters())
    assert once <= export.bytes < 1.2 * once
    assert check_parity(model, path, [((IDS,), {}), ((IDS[:2],), {})], lambda out: out).ok

    large = export_onnx(model, (IDS,), {}, tmp_path / "large.onnx", largest_bytes=1000)
    assert [file.path.name for file in large.files] == ["large.onnx", "large.onnx.data"]
    assert large.files[0].bytes < 10_000
    assert large.bytes < 1.3 * once
    assert not large.simplified
    assert any("not simplified" in text for text in large.warnings)
    calls: list[Call] = [((IDS,), {}), ((IDS[:2],), {})]
    assert check_parity(model, large.path, calls, lambda out: out).ok
    again = export_onnx(model, (IDS,), {}, tmp_path / "large.onnx", largest_bytes=1000)
    assert again.sha256 == large.sha256


def test_equal_and_turned_weights_are_shared() -> None:
    matrix = np.random.default_rng(0).standard_normal((32, 16)).astype(np.float32)
    weights = [
        numpy_helper.from_array(matrix, "a"),
        numpy_helper.from_array(matrix.copy(), "b"),
        numpy_helper.from_array(np.ascontiguousarray(matrix.T), "c"),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["p"]),
        helper.make_node("MatMul", ["p", "c"], ["q"]),
        helper.make_node("MatMul", ["q", "b"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 32]),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16])]  # fmt: skip
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    feeds = [{"x": np.ascontiguousarray(matrix[:, :1].T)}]
    before = next(run(model, feeds))["y"]
    assert share_weights(model) == 2 * matrix.nbytes
    assert [one.name for one in model.graph.initializer] == ["a"]
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(next(run(model, feeds))["y"], before, rtol=1e-5)
    assert share_weights(model) == 0
