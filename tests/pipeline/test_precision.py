"""A file in another precision: what is kept, what is refused, and a floor that holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn

from mpo.errors import UsageError
from mpo.exporters.converted import distance, file_bytes, floats, run
from mpo.exporters.metadata import read_stamp, stamp
from mpo.exporters.onnx import export_onnx
from mpo.files import sha256
from mpo.optimizer.data.batches import Batch
from mpo.pipeline.run.precision import Floor, convert, convertible, feeds_of, refusal
from mpo.records import Precision, Runtime
from tests.exporters import pocket


class Reader(nn.Module):
    """An LSTM over words; nothing here was tuned to it."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 16)
        self.memory = nn.LSTM(16, 32, batch_first=True)
        self.head = nn.Linear(32, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.memory(self.words(ids))[0][:, -1])


def images(count: int = 4) -> list[Batch]:
    return [Batch((torch.from_numpy(f["input"].copy()),), {}) for f in pocket.images(count)]


def sentences(count: int = 4) -> list[Batch]:
    feeds = pocket.sentences(count)
    return [Batch((), {k: torch.from_numpy(v.copy()) for k, v in f.items()}) for f in feeds]


def words(count: int = 4) -> list[Batch]:
    make = torch.Generator().manual_seed(1)
    return [Batch((torch.randint(0, 50, (8, 6), generator=make),), {}) for _ in range(count)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    pocket.convolutions(folder / "convolutions.onnx")
    pocket.transformer(folder / "transformer.onnx")
    torch.manual_seed(0)
    export_onnx(Reader().eval(), words(1)[0].args, {}, folder / "reader.onnx")
    return folder


DATA = {"convolutions": images, "transformer": sentences, "reader": words}


def error(source: Path, made: Path, batches: list[Batch]) -> float:
    feeds = feeds_of(source, batches)
    values = [
        [v for row in run(p, feeds, optimize=True) for v in floats(row)] for p in (source, made)
    ]
    return distance(values[0], values[1])


@pytest.mark.parametrize("precision", ["fp16", "int8", "int8-dynamic"])
@pytest.mark.parametrize("name", DATA)
def test_every_network_is_smaller_and_near_in_every_precision_that_takes_its_layers(
    files: Path, tmp_path: Path, name: str, precision: Precision
) -> None:
    source, target, batches = files / f"{name}.onnx", tmp_path / "made.onnx", DATA[name]()
    made = convert(source, target, precision, batches)
    assert made.precision == precision
    assert made.bytes == file_bytes(target)
    assert made.sha256 == sha256(target)
    assert made.samples == {"fp16": 32, "int8": sum(b.size for b in batches)}.get(precision, 0)
    bad = not made.bytes < 0.8 * file_bytes(source)
    little = name == "convolutions" and precision == "int8-dynamic"  # convolutions stay float32
    little |= name == "reader" and precision == "int8"  # so does an LSTM
    assert bad == little
    assert any("hardly smaller" in text for text in made.warnings) == little
    assert 0 < error(source, target, batches) < (0.005 if precision == "fp16" else 0.06)


def test_fp32_is_the_same_network(files: Path, tmp_path: Path) -> None:
    source, target = files / "reader.onnx", tmp_path / "made.onnx"
    made = convert(source, target, "fp32")
    assert (made.precision, made.kept, made.error) == ("fp32", (), None)
    assert error(source, target, words()) == 0


def test_metadata_stay_and_weights_beside_are_vouched_for_once(files: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "own.onnx", tmp_path / "made.onnx"
    source.write_bytes((files / "transformer.onnx").read_bytes())
    stamp(source, {"mpo.labels": ["a", "b"], "mpo.data.sha256": "stale"})
    made = convert(source, target, "int8", sentences(), external_data=True)
    facts = read_stamp(target)
    assert facts["mpo.labels"] == ["a", "b"]
    assert facts["mpo.data.sha256"] == sha256(tmp_path / "made.onnx.data")
    assert made.bytes == file_bytes(target)
    assert error(source, target, sentences()) < 0.06


def test_a_batch_size_that_is_fixed_in_the_file_cuts_the_batches(tmp_path: Path) -> None:
    source = tmp_path / "fixed.onnx"
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    export_onnx(model, (torch.randn(3, 8),), {}, source, dynamic_batch=False)
    batches = [Batch((torch.randn(8, 8),), {}), Batch((torch.randn(2, 8),), {})]
    assert [feed["input"].shape for feed in feeds_of(source, batches)] == [(3, 8)] * 3
    assert convert(source, tmp_path / "made.onnx", "int8", batches).error is not None


def test_for_tensorrt_int8_has_no_zero_points(files: Path, tmp_path: Path) -> None:
    """They are all 0, as its parser asks; for the CPU they are not."""

    def zeros(runtime: Runtime) -> set[bool]:
        convert(
            files / "transformer.onnx", tmp_path / "m.onnx", "int8", sentences(), runtime=runtime
        )
        graph = onnx.load(tmp_path / "m.onnx").graph
        weights = {w.name: numpy_helper.to_array(w) for w in graph.initializer}
        quantizers = [node for node in graph.node if node.op_type == "QuantizeLinear"]
        return {bool(np.any(weights[node.input[2]])) for node in quantizers}

    assert zeros("tensorrt-rtx") == {False}
    assert True in zeros("onnxruntime")


def test_int8_that_breaks_the_floor_keeps_the_layer_that_it_harms(tmp_path: Path) -> None:
    """One product has an outlier before it; the judge is the error against float32."""
    source, target = tmp_path / "chain.onnx", tmp_path / "made.onnx"
    source.write_bytes(pocket.chain(1.0, 1.0, 1.0, 1.0, outliers=2).SerializeToString())
    random = torch.Generator().manual_seed(0)
    batches = [Batch((torch.randn(32, 16, generator=random),), {}) for _ in range(4)]
    judged = Floor(lambda path: -error(source, path, batches), -0.05)
    plain = convert(source, target, "int8", batches)
    assert plain.error is not None
    assert plain.error > 0.05
    made = convert(source, target, "int8", batches, floor=judged)
    assert made.mixed
    assert made.quality is not None
    assert made.quality >= -0.05
    assert "MatMul_2" in {kept.node for kept in made.kept}
    assert len(made.kept) < 4
    assert all("harm of int8" in kept.reason for kept in made.kept)


def test_a_floor_that_no_int8_reaches_leaves_plain_int8_and_says_so(
    files: Path, tmp_path: Path
) -> None:
    floor = Floor(lambda path: 0.0, 1.0)
    made = convert(files / "convolutions.onnx", tmp_path / "m.onnx", "int8", images(), floor=floor)
    assert not made.mixed
    assert any("below the quality floor" in text for text in made.warnings)


def test_int8_without_any_data_is_refused_with_a_precision_that_needs_none(
    files: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="there are none") as caught:
        convert(files / "reader.onnx", tmp_path / "made.onnx", "int8")
    assert "int8-dynamic" in caught.value.hint
    assert not (tmp_path / "made.onnx").exists()
    assert convert(files / "reader.onnx", tmp_path / "made.onnx", "int8-dynamic").samples == 0


def test_nan_weights_are_refused_with_the_weight_that_holds_them(
    files: Path, tmp_path: Path
) -> None:
    model: ModelProto = onnx.load(files / "convolutions.onnx")
    weight = next(w for w in model.graph.initializer if len(w.dims) == 4)
    values = numpy_helper.to_array(weight).copy()
    values[0, 0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    broken = tmp_path / "broken.onnx"
    onnx.save(model, broken)
    for precision in ("fp16", "int8", "int8-dynamic"):
        with pytest.raises(UsageError, match=rf"9 of the \d+ numbers.*{weight.name}.*NaN"):
            convert(broken, tmp_path / "made.onnx", precision, images())
    assert not (tmp_path / "made.onnx").exists()


def test_a_model_with_nothing_to_quantize_is_refused_and_known_beforehand(tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    source = tmp_path / "relu.onnx"
    onnx.save(model, source)
    batches = [Batch((torch.randn(4, 4),), {})]
    for precision in ("int8", "int8-dynamic"):
        assert not convertible(source, precision)
        with pytest.raises(UsageError, match="no layer that"):
            convert(source, tmp_path / "made.onnx", precision, batches)


def test_a_precision_that_the_runtime_cannot_run_is_refused_before_anything_is_read(
    files: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="tensorrt-rtx reads no model that is quantized"):
        convert(tmp_path / "none.onnx", tmp_path / "m.onnx", "int8-dynamic", runtime="tensorrt-rtx")
    with pytest.raises(UsageError, match="bf16 does not run here"):
        convert(files / "convolutions.onnx", tmp_path / "m.onnx", "bf16", images())
    source = files / "transformer.onnx"  # ONNX has no bf16 convolution before opset 22
    made = convert(source, tmp_path / "m.onnx", "bf16", sentences(), runtime="tensorrt")
    assert made.bytes < 0.8 * file_bytes(source)
    assert refusal("int8", "tensorrt") == ""


def test_what_is_no_precision_is_refused(files: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'int4' is no precision"):
        convert(files / "reader.onnx", tmp_path / "made.onnx", "int4")  # type: ignore[arg-type]


def test_the_same_file_and_data_give_the_same_bytes(files: Path, tmp_path: Path) -> None:
    for precision in ("fp16", "int8", "int8-dynamic"):
        made = [
            convert(files / "transformer.onnx", tmp_path / f"{n}.onnx", precision, sentences())
            for n in range(2)
        ]
        assert made[0].sha256 == made[1].sha256
