"""OpenVINO exercised for real: convert, run, parity with ONNX Runtime; skipped where it is not."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from mpo.errors import UsageError
from mpo.exporters.backends import OnnxRunner, check_runner
from mpo.exporters.child import run_script
from mpo.exporters.onnx import export_onnx
from mpo.exporters.openvino import WORKER, OpenVinoRunner, export_openvino
from mpo.pipeline.doctor.trials import TINY_ONNX
from mpo.registry import EXPORTERS, RUNNERS, load

HERE = importlib.util.find_spec("openvino") is not None
OPENVINO = pytest.mark.skipif(not HERE, reason="openvino is not installed: nothing is converted")


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(20, 16), nn.Linear(16, 3)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

    def forward(self, input_ids: Tensor, scale: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(input_ids)).mean(1) * scale)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "reader.onnx"
    ids, scale = torch.zeros(2, 7, dtype=torch.int64), torch.ones(2, 1)
    export_onnx(Reader().eval(), (ids, scale), {}, path, varying=[{1}])
    return path


def batches() -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [
        {
            "input_ids": random.integers(0, 20, (size, length)),
            "scale": random.standard_normal((size, 1)).astype(np.float32),
        }
        for size, length in ((2, 7), (5, 11))
    ]


@OPENVINO
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_converted_file_is_in_parity_at_two_batch_sizes(
    reader: Path, tmp_path: Path, precision: str
) -> None:
    before = set(sys.modules)
    export = load(EXPORTERS, "openvino")
    made = export(reader, tmp_path / "model.xml", {"precision": precision})
    assert made.ok, made.reason
    assert [Path(file.path).name for file in made.files] == ["model.xml", "model.bin"]
    for file in made.files:
        assert hashlib.sha256(Path(file.path).read_bytes()).hexdigest() == file.sha256
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    runner = load(RUNNERS, "openvino")(tmp_path / "model.xml")
    parity = check_runner(runner, OnnxRunner(reader), batches())
    assert parity.ok, parity.reason
    assert (parity.samples, parity.batches) == (7, (2, 5))
    assert (parity.max_rel < 1e-5) == (precision == "fp32")
    assert "openvino" not in sys.modules.keys() - before


@OPENVINO
def test_halves_take_half_the_bytes(reader: Path, tmp_path: Path) -> None:
    sizes = []
    for precision in ("fp32", "fp16"):
        made = export_openvino(reader, tmp_path / f"{precision}.xml", {"precision": precision})
        sizes.append(made.files[1].bytes)
    assert sizes[1] < 0.7 * sizes[0]


@OPENVINO
def test_a_file_whose_weights_were_changed_is_out_of_parity(reader: Path, tmp_path: Path) -> None:
    changed = onnx.load(reader)
    weight = next(row for row in changed.graph.initializer if row.name == "head.weight")
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
    onnx.save(changed, tmp_path / "changed.onnx")
    assert export_openvino(tmp_path / "changed.onnx", tmp_path / "model.xml", {}).ok
    parity = check_runner(OpenVinoRunner(tmp_path / "model.xml"), OnnxRunner(reader), batches())
    assert not parity.ok
    assert parity.reason


@OPENVINO
@pytest.mark.case(48)
def test_an_operator_that_openvino_lacks_is_a_reason_and_no_file(tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    made = helper.make_model(
        helper.make_graph([helper.make_node("FooBar", ["x"], ["y"])], "g", ends[:1], ends[1:]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    (tmp_path / "odd.onnx").write_bytes(made.SerializeToString())
    result = export_openvino(tmp_path / "odd.onnx", tmp_path / "odd.xml", {})
    assert not result.ok
    assert "FooBar" in result.reason
    assert [entry.name for entry in tmp_path.iterdir()] == ["odd.onnx"]


@OPENVINO
def test_neither_conversion_nor_inference_opens_a_connection(reader: Path, tmp_path: Path) -> None:
    script = tmp_path / "watched.py"
    script.write_text(
        "import os, runpy, sys\n"
        "def watch(event, arguments):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.sendto'):\n"
        "        os._exit(9)\n"
        "sys.addaudithook(watch)\n"
        f"runpy.run_path({str(WORKER)!r}, run_name='__main__')\n"
    )
    (tmp_path / "tiny.onnx").write_bytes(TINY_ONNX)
    output = tmp_path / "tiny.xml"
    request = {"job": "trial", "onnx": str(tmp_path / "tiny.onnx"), "output": str(output)}
    ended, told = run_script(script, {**request, "half": False}, timeout=60)
    assert ended.kind == "ended", ended
    assert told["outputs"] == [[2.0, 0.0], [0.0, 3.0]]


@OPENVINO
def test_inputs_that_do_not_fit_are_the_user_s_to_mend(reader: Path) -> None:
    feeds: dict[str, np.ndarray] = {
        "input_ids": np.zeros((2, 7), np.int64),
        "scale": np.zeros((2, 9), np.float32),
    }
    with pytest.raises(UsageError, match="OpenVINO does not run"):
        OpenVinoRunner(reader).run([feeds])


def test_options_are_checked(reader: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no option 'half'"):
        export_openvino(reader, tmp_path / "m.xml", {"half": True})
    with pytest.raises(UsageError, match="cannot be stored as 'int4'"):
        export_openvino(reader, tmp_path / "m.xml", {"precision": "int4"})
    with pytest.raises(UsageError, match="no ONNX file"):
        export_openvino(tmp_path / "none.onnx", tmp_path / "m.xml", {})


@pytest.mark.skipif(HERE, reason="openvino is installed here")
def test_without_the_package_the_result_says_how_to_get_it(reader: Path, tmp_path: Path) -> None:
    result = export_openvino(reader, tmp_path / "m.xml", {})
    assert (result.ok, result.reason) == (False, "openvino is not installed")
    assert "pip install" in result.hint
