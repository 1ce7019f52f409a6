"""Engines built for real on a machine without a GPU; every way a build can end is an outcome."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from mpo.errors import RefusedError, UsageError
from mpo.exporters import trtexec
from mpo.exporters.backends import load_arrays, save_arrays
from mpo.exporters.child import run_child, run_script
from mpo.exporters.enginecache import EngineCache, content_hash
from mpo.exporters.engines import build_engine, describe, engine_module, run_engine
from mpo.exporters.onnx import export_onnx
from mpo.exporters.shapes import free_inputs, shape_ranges
from mpo.records import EngineOptions, EngineResult
from mpo.registry import EXPORTERS, load

RTX = pytest.mark.skipif(
    not engine_module("tensorrt-rtx"), reason="tensorrt-rtx is not installed: no engine is built"
)
BATCH = {"batch": (1, 4, 8)}


def driver() -> bool:
    """Whether an NVIDIA driver with a device is here."""
    try:
        return bool(ctypes.CDLL("libcuda.so.1").cuInit(0) == 0)
    except OSError:
        return False


class Convnet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(20, 16), nn.Linear(16, 2)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(input_ids)).mean(1))


@pytest.fixture(scope="module")
def convnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "convnet.onnx"
    export_onnx(Convnet().eval(), (torch.zeros(2, 1, 6, 6),), {}, path)
    return path


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "reader.onnx"
    ids = torch.zeros(2, 7, dtype=torch.int64)
    export_onnx(Reader().eval(), (ids,), {}, path, varying=[{1}])
    return path


@pytest.fixture(scope="module")
def digits(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network of examples/digits."""
    place = root / "examples" / "digits" / "subject.py"
    spec = importlib.util.spec_from_file_location("mpo_test_digits_subject", place)
    assert spec is not None
    assert spec.loader is not None
    subject = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = subject
    spec.loader.exec_module(subject)
    path = tmp_path_factory.mktemp("onnx") / "digits.onnx"
    export_onnx(subject.model().eval(), (torch.zeros(2, 1, 8, 8),), {}, path)
    return path


def graph(path: Path, operator: str, kind: int = TensorProto.FLOAT) -> Path:
    """A file with one node, named "odd_1"."""
    ends = [helper.make_tensor_value_info(name, kind, [2]) for name in ("x", "y")]
    node = helper.make_node(operator, ["x"], ["y"], name="odd_1")
    made = helper.make_model(
        helper.make_graph([node], "g", ends[:1], ends[1:]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    path.write_bytes(made.SerializeToString())
    return path


def built(path: Path, target: Path, axes: Mapping[str, Any] = BATCH, **more: Any) -> EngineResult:
    return build_engine(path, target, EngineOptions(shapes=shape_ranges(path, axes), **more))


def whole(result: EngineResult, target: Path) -> None:
    """The file is what the result says, it says that it was not run, and nothing else is left."""
    assert result.built, result.reason
    assert result.outcome == "built"
    raw = target.read_bytes()
    assert (result.bytes, result.sha256) == (len(raw), hashlib.sha256(raw).hexdigest())
    assert not result.ran
    assert result.ran_reason
    assert [entry.name for entry in target.parent.iterdir()] == [target.name]


@RTX
def test_an_engine_of_a_convnet_is_built(convnet: Path, tmp_path: Path) -> None:
    result = built(convnet, tmp_path / "model.engine")
    whole(result, tmp_path / "model.engine")
    assert result.onnx_sha256 == hashlib.sha256(convnet.read_bytes()).hexdigest()
    assert (result.module, result.errors) == ("tensorrt_rtx", ())
    assert result.version[0].isdigit()
    assert result.layers
    assert result.network_layers
    assert sum(result.precisions.values()) > 0
    assert result.device_memory_bytes
    assert result.weights_bytes


@RTX
@pytest.mark.skipif(driver(), reason="a GPU is here, so the engine could be run")
@pytest.mark.case(32)
def test_without_a_gpu_the_result_says_built_but_not_run(convnet: Path, tmp_path: Path) -> None:
    assert built(convnet, tmp_path / "model.engine").ran_reason == "no GPU here"


@RTX
def test_an_engine_of_a_transformer_takes_ranges_of_batch_and_length(
    reader: Path, tmp_path: Path
) -> None:
    assert free_inputs(reader) == {"input": ("batch", "input_1")}
    axes = {"batch": (1, 2, 4), "input:1": (1, 7, 16)}
    assert shape_ranges(reader, axes)["input"].max == (4, 16)
    whole(built(reader, tmp_path / "model.engine", axes), tmp_path / "model.engine")


@RTX
def test_an_engine_of_the_digits_example_is_built(digits: Path, tmp_path: Path) -> None:
    result = built(digits, tmp_path / "model.engine")
    whole(result, tmp_path / "model.engine")
    assert result.bytes > 3_000_000
    assert result.layers
    assert result.layers > 50


@RTX
def test_the_same_file_gives_the_same_engine(convnet: Path, tmp_path: Path) -> None:
    first, second = (built(convnet, tmp_path / f"{n}.engine") for n in "ab")
    assert first.sha256 == second.sha256


@RTX
def test_an_engine_for_chosen_gpus_only(convnet: Path, tmp_path: Path) -> None:
    result = built(convnet, tmp_path / "m.engine", compute_capabilities=("8.9", "12.0"))
    assert result.built, result.reason


@RTX
def test_an_unknown_gpu_is_refused_with_the_known_ones(convnet: Path, tmp_path: Path) -> None:
    result = built(convnet, tmp_path / "m.engine", compute_capabilities=("1.3",))
    assert result.outcome == "rejected"
    assert "no target 1.3" in result.reason
    assert "8.9" in result.reason


@RTX
@pytest.mark.case(48)
def test_a_node_that_the_parser_refuses_is_named(tmp_path: Path) -> None:
    target = tmp_path / "out" / "m.engine"
    target.parent.mkdir()
    result = build_engine(graph(tmp_path / "odd.onnx", "FooBar"), target)
    assert result.outcome == "rejected"
    assert (result.errors[0].node, result.errors[0].operator) == ("odd_1", "FooBar")
    assert "node 0 odd_1 (FooBar)" in result.reason
    assert not list(target.parent.iterdir())


@RTX
@pytest.mark.case(48)
def test_every_fault_of_the_parser_is_kept(tmp_path: Path) -> None:
    path = graph(tmp_path / "text.onnx", "StringNormalizer", TensorProto.STRING)
    result = build_engine(path, tmp_path / "m.engine")
    assert len(result.errors) == 2
    assert "StringNormalizer" in result.reason
    assert "(and 1 more)" in result.reason


@RTX
def test_a_file_that_is_no_model_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "junk.onnx").write_bytes(b"nonsense" * 50)
    result = build_engine(tmp_path / "junk.onnx", tmp_path / "m.engine")
    assert result.outcome == "rejected"
    assert "MODEL_DESERIALIZE_FAILED" in result.reason


@RTX
@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({}, "free axes, (-1, 1, 6, 6), and no range"),
        ({"inputs": [(1, 1, 6, 6)] * 3}, "no input inputs; the inputs are input"),
        ({"input": [(1, 6, 6)] * 3}, "has 4 axes; its range has 3"),
        ({"input": [(1, 1, 6, 6), (2, 1, 6, 6), (1, 1, 6, 6)]}, "Axis 0 of input input has the"),
        ({"input": [(1, 3, 6, 6)] * 3}, "Axis 1 of input input is fixed at 1"),
    ],
)
def test_a_range_that_does_not_fit_is_told_in_the_user_s_terms(
    convnet: Path, tmp_path: Path, shapes: dict[str, Any], said: str
) -> None:
    rows = {name: {"min": row[0], "opt": row[1], "max": row[2]} for name, row in shapes.items()}
    result = build_engine(
        convnet, tmp_path / "m.engine", EngineOptions.model_validate({"shapes": rows})
    )
    assert result.outcome == "rejected"
    assert said in result.reason


@RTX
def test_a_precision_flag_that_the_module_lacks_is_refused(convnet: Path, tmp_path: Path) -> None:
    result = built(convnet, tmp_path / "m.engine", precision="fp16")
    assert result.outcome == "rejected"
    assert "takes every type from the ONNX file" in result.reason


@RTX
@pytest.mark.case(28)
def test_a_workspace_that_is_too_small_fails_with_the_library_s_reason(
    convnet: Path, tmp_path: Path
) -> None:
    result = built(convnet, tmp_path / "m.engine", workspace_bytes=1024)
    assert result.outcome == "failed"
    assert "workspace" in result.reason


@RTX
def test_an_option_that_is_ignored_is_a_warning(convnet: Path, tmp_path: Path) -> None:
    result = built(convnet, tmp_path / "m.engine", hardware="ampere+")
    assert result.built
    assert any("setHardwareCompatibilityLevel" in line for line in result.warnings)


@RTX
@pytest.mark.case(31)
def test_a_build_over_its_time_is_killed(convnet: Path, tmp_path: Path) -> None:
    result = built(convnet, tmp_path / "m.engine", timeout_s=0.01)
    assert result.outcome == "timed-out"
    assert "0.01 s" in result.reason
    assert not list(tmp_path.iterdir())


@RTX
@pytest.mark.case(28)
def test_a_build_over_its_memory_is_killed(digits: Path, tmp_path: Path) -> None:
    result = built(digits, tmp_path / "m.engine", memory_bytes=20_000_000)
    assert result.outcome == "out-of-memory"
    assert "20 MB are allowed" in result.reason
    assert not list(tmp_path.iterdir())


@RTX
def test_the_cache_gives_the_engine_back_and_a_changed_entry_is_built_anew(
    convnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    options = EngineOptions(shapes=shape_ranges(convnet, BATCH))
    cache, target = tmp_path / "cache", tmp_path / "m.engine"
    first = build_engine(convnet, target, options, cache=cache)
    again = build_engine(convnet, tmp_path / "again.engine", options, cache=cache)
    assert (first.cached, again.cached) == (False, True)
    assert (tmp_path / "again.engine").read_bytes() == target.read_bytes()
    assert again.path.endswith("again.engine")
    (entry,) = cache.glob("engine-*")
    raw = bytearray(entry.read_bytes())
    raw[-1] ^= 1
    entry.write_bytes(raw)
    third = build_engine(convnet, target, options, cache=cache)
    assert (third.cached, third.sha256) == (False, first.sha256)
    other = options.model_copy(update={"optimization_level": 1})
    assert not build_engine(convnet, target, other, cache=cache).cached


@RTX
def test_the_exporter_s_options_are_checked(convnet: Path, tmp_path: Path) -> None:
    export = load(EXPORTERS, "tensorrt-rtx")
    with pytest.raises(UsageError, match="no option 'worksapce'"):
        export(convnet, tmp_path / "m.engine", {"worksapce": 1})
    with pytest.raises(UsageError, match="option optimization_level"):
        export(convnet, tmp_path / "m.engine", {"optimization_level": 9})
    made = export(convnet, tmp_path / "m.engine", {"shapes": shape_ranges(convnet, BATCH)})
    assert made.ok
    assert made.files[0].sha256 == made.engine.sha256


@RTX
def test_the_module_is_described_by_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(sys.modules)
    told = describe("tensorrt-rtx")
    assert told["version"][0].isdigit()
    assert "tensorrt_rtx" not in sys.modules.keys() - before


def test_a_missing_file_is_the_user_s_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no ONNX file"):
        build_engine(tmp_path / "none.onnx", tmp_path / "m.engine")


@RTX
def test_a_folder_that_is_not_there_is_told_before_the_build(convnet: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Cannot write"):
        built(convnet, tmp_path / "none" / "m.engine")


@pytest.mark.skipif(bool(engine_module("tensorrt")), reason="tensorrt is installed here")
def test_a_library_that_is_not_there_is_an_outcome_with_its_install_line(
    convnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = build_engine(convnet, tmp_path / "m.engine", EngineOptions(backend="tensorrt"))
    assert result.outcome == "missing"
    assert "pip install" in result.hint


# What stands for the vendor's tool: it checks its arguments as far as it knows them and writes the
# file, or fails in trtexec's way. The real one comes with NVIDIA's archives only.
TOOL = """#!/bin/sh
case "$*" in
*--help*) echo "--onnx= --saveEngine= --skipInference --minShapes= --optShapes= --maxShapes="
          echo "--memPoolSize= --stronglyTyped --fp16"; exit 0 ;;
esac
echo "[I] [TRT] [TensorRT v101501]"
for word in "$@"; do case "$word" in --saveEngine=*) out="${word#--saveEngine=}" ;; esac; done
case "$*" in
*--fp16*) echo "[E] Error[4]: no platform has fast fp16"; exit 1 ;;
esac
echo "[I] [TRT] Total Activation Memory: 4096 bytes"
printf '%s' "$*" > "$out"
"""


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "bin" / "trtexec"
    path.parent.mkdir()
    path.write_text(TOOL)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    return path


@pytest.mark.skipif(bool(engine_module("tensorrt")), reason="tensorrt is installed here")
def test_the_tool_in_path_builds_when_only_it_is_there(
    convnet: Path, tmp_path: Path, tool: Path
) -> None:
    target = tmp_path / "out" / "m.engine"
    target.parent.mkdir()
    options = EngineOptions(
        backend="tensorrt", shapes=shape_ranges(convnet, BATCH), workspace_bytes=2**28
    )
    result = build_engine(convnet, target, options)
    whole(result, target)
    assert (result.module, result.device_memory_bytes) == ("trtexec", 4096)
    said = target.read_text()
    assert "--minShapes=input:1x1x6x6" in said
    assert "--maxShapes=input:8x1x6x6" in said
    assert "--memPoolSize=workspace:256M" in said
    assert "--stronglyTyped" in said
    failed = build_engine(convnet, target, options.model_copy(update={"precision": "fp16"}))
    assert (failed.outcome, failed.reason) == ("failed", "Error[4]: no platform has fast fp16")
    refused = build_engine(convnet, target, options.model_copy(update={"refit": True}))
    assert refused.outcome == "rejected"
    assert "does not know --refit" in refused.reason


def test_a_flag_is_not_taken_for_a_longer_one() -> None:
    assert trtexec.unknown_flags(["trtexec", "--fp16=1"], "--fp16Layers") == ["--fp16"]


SCRIPTS = {
    "crashed": ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", "ended by SIGSEGV"),
    "failed": ("raise SystemExit(3)\n", "ended with code 3"),
    "timed-out": ("import time\ntime.sleep(60)\n", "did not end within 0.7 s"),
    "out-of-memory": (
        "import time\nkept = bytearray(400_000_000)\nkept[::4096] = b'x' * len(kept[::4096])\n"
        "time.sleep(60)\n",
        "200 MB are allowed",
    ),
}


@pytest.mark.parametrize("kind", SCRIPTS)
@pytest.mark.case(27)
@pytest.mark.case(30)
@pytest.mark.case(31)
def test_every_end_of_a_child_is_an_outcome(kind: str, tmp_path: Path) -> None:
    code, said = SCRIPTS[kind]
    (tmp_path / "script.py").write_text(code)
    limit = 0.7 if kind == "timed-out" else 30
    ended, answer = run_script(tmp_path / "script.py", {}, timeout=limit, memory_bytes=200_000_000)
    assert ended.kind == kind
    assert said in ended.reason
    assert answer == {}
    assert ended.seconds < 20


def test_a_child_that_ends_well_without_an_answer_has_failed(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("print('[1, 2]')\n")
    ended, answer = run_script(tmp_path / "script.py", {}, timeout=30)
    assert (ended.kind, answer) == ("failed", {})
    assert "gave no answer" in ended.reason


def test_a_command_that_cannot_start_is_an_outcome(tmp_path: Path) -> None:
    assert run_child((str(tmp_path / "none"),), timeout=5).kind == "failed"


def test_a_child_does_not_see_secrets_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary")
    assert "canary" not in run_child(("/usr/bin/env",), timeout=10).output


def test_a_cache_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(RefusedError, match="can be written by others"):
        EngineCache(folder, tmp_path / "own" / "key")


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "own" / "key"
    EngineCache(tmp_path / "cache", key)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.chmod(0o644)
    with pytest.raises(RefusedError, match="not yours alone"):
        EngineCache(tmp_path / "cache", key)


def test_an_entry_signed_elsewhere_or_moved_is_not_believed(tmp_path: Path) -> None:
    ours = EngineCache(tmp_path / "cache", tmp_path / "ours" / "key")
    theirs = EngineCache(tmp_path / "cache", tmp_path / "theirs" / "key")
    theirs.put("engine-a", b"code")
    assert ours.get("engine-a") is None
    assert not (tmp_path / "cache" / "engine-a").exists()
    ours.put("engine-b", b"code")
    (tmp_path / "cache" / "engine-b").rename(tmp_path / "cache" / "engine-c")
    assert ours.get("engine-c") is None
    assert ours.get("engine-never") is None


def test_the_hash_of_a_file_covers_its_external_data(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((40, 40), np.float32), "w")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [40, 40]) for n in ("x", "y")]
    node = helper.make_node("Add", ["x", "w"], ["y"])
    made = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:], [weight]))
    path = tmp_path / "m.onnx"
    onnx.save(made, path, save_as_external_data=True, location="m.data", size_threshold=0)
    before = content_hash(path)
    (tmp_path / "m.data").write_bytes(b"\0" * 6400)
    assert content_hash(path) != before


@pytest.mark.case(46)
def test_a_free_axis_without_a_range_is_named(convnet: Path) -> None:
    with pytest.raises(UsageError, match="Axis 0 of input input, 'batch', is free"):
        shape_ranges(convnet, {})
    with pytest.raises(UsageError, match="cannot range over 4, 2, 8"):
        shape_ranges(convnet, {"batch": (4, 2, 8)})
    with pytest.raises(UsageError, match="no ONNX file"):
        free_inputs(convnet.parent)


def test_an_engine_whose_hash_is_not_told_is_never_loaded(tmp_path: Path) -> None:
    engine, inputs = tmp_path / "foreign.engine", tmp_path / "in.npz"
    engine.write_bytes(b"vtrt" + b"\0" * 100)
    save_arrays(inputs, {"input": np.zeros(1)})
    for told in ("", "0" * 64):
        with pytest.raises(RefusedError, match="it is not loaded"):
            run_engine(engine, told, inputs, tmp_path / "out.npz")


@RTX
@pytest.mark.skipif(driver(), reason="a GPU is here")
@pytest.mark.case(32)
def test_running_without_a_gpu_says_so(tmp_path: Path) -> None:
    engine, inputs = tmp_path / "m.engine", tmp_path / "in.npz"
    engine.write_bytes(b"vtrt")
    save_arrays(inputs, {"input": np.zeros(1)})
    digest = hashlib.sha256(b"vtrt").hexdigest()
    with pytest.raises(UsageError, match="no NVIDIA driver"):
        run_engine(engine, digest, inputs, tmp_path / "out.npz")


@pytest.mark.gpu
@RTX
@pytest.mark.skipif(not driver(), reason="needs an NVIDIA driver and device; none is here")
def test_an_engine_on_the_gpu_computes_what_onnxruntime_does(convnet: Path, tmp_path: Path) -> None:
    from mpo.exporters.backends import OnnxRunner

    engine, inputs, outputs = (tmp_path / n for n in ("m.engine", "in.npz", "out.npz"))
    result = built(convnet, engine)
    assert result.built, result.reason
    feeds = {"input": np.linspace(-1, 1, 72, dtype=np.float32).reshape(2, 1, 6, 6)}
    save_arrays(inputs, feeds)
    run = run_engine(engine, result.sha256, inputs, outputs, calls=20)
    assert len(run.samples_ms) == 20
    assert min(run.samples_ms) > 0
    (wanted,) = OnnxRunner(convnet).run([feeds])
    np.testing.assert_allclose(load_arrays(outputs)["output"], wanted["output"], atol=2e-3)
