"""The bundle's program as a device runs it: a file of its own, in a process of its own."""

from __future__ import annotations

import ast
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mpo.bundle import mpo_edge
from mpo.bundle.writer import Part, write_bundle
from mpo.errors import RefusedError
from mpo.records import EngineOptions, ShapeRange
from tests.bundle.small import SAMPLES, WEIGHT, manifest, model, npz, parts, write_small

PROGRAM = Path(mpo_edge.__file__)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the program keeps what it makes."""
    folder = tmp_path / "home"
    monkeypatch.setenv("MPO_EDGE_HOME", str(folder))
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The small bundle."""
    write_small(tmp_path / "small.mpo")
    return tmp_path / "small.mpo"


def called(*arguments: object, cwd: Path | None = None) -> tuple[int, dict[str, Any]]:
    """Exit code and answer of a process that has nothing of mpo in its path."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=120, cwd=cwd, env=environment,
    )  # fmt: skip
    assert done.stdout.count("\n") == 1, done.stdout + done.stderr
    return done.returncode, json.loads(done.stdout)


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    """The same in this process."""
    code = mpo_edge.main([str(argument) for argument in arguments])
    return code, json.loads(capsys.readouterr().out)


def test_the_program_needs_nothing_but_numpy_and_onnxruntime_and_python_3_8() -> None:
    tree = ast.parse(PROGRAM.read_text(), feature_version=(3, 8))
    names = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {
        str(node.module).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    }
    assert names - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}
    assert len(PROGRAM.read_text().splitlines()) < 1000


def test_help_is_text_and_needs_no_bundle(capsys: pytest.CaptureFixture[str]) -> None:
    assert mpo_edge.main(["run", "--help"]) == 0
    said = capsys.readouterr().out
    options = {option for own in mpo_edge.OPTIONS.values() for option in own}
    assert all(option in said for option in options)
    assert all(one.__name__.replace("_", "-") + " B" in said for one in mpo_edge.OPTIONS)


@pytest.mark.parametrize(
    "line",
    [
        "", "fly B", "info", "info A B", "info B --key K", "run B", "run B --input", "bench B -x",
        "bench B --seconds soon", "selftest B --no-build=no", "verify B --key", "-",
    ],
)  # fmt: skip
def test_a_command_line_that_is_none_ends_with_2(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = answer(capsys, *line.split())
    assert (code, told["exit_code"], told["hint"]) == (2, 2, "See: --help")
    assert json.dumps(line) in told["error"]


def test_options_come_in_any_order_with_a_value_behind_them_or_an_equals_sign() -> None:
    asked = mpo_edge.parsed(["bench", "--seconds=0.5", "B=1", "--processes", "2", "--no-build"])
    assert (asked.does, asked.bundle) == (mpo_edge.bench, "B=1")
    assert (asked.seconds, asked.processes, asked.no_build) == (0.5, 2, True)
    plain = mpo_edge.parsed(["bench", "B"])
    assert (plain.seconds, plain.processes, plain.no_build) == (1.0, 3, False)
    one = mpo_edge.parsed(["run", "B", "--input", "-x.npz", "--output=a=b.npz"])
    assert (one.input, one.output, one.no_build) == ("-x.npz", "a=b.npz", False)


def test_started_as_a_module_it_answers_as_the_file_does(small: Path, tmp_path: Path) -> None:
    shutil.copy(PROGRAM, tmp_path)
    assert called("-m", "mpo_edge", "selftest", small, cwd=tmp_path)[1]["ok"]
    code, told = called("-m", "mpo_edge", "bench", small, "--seconds=0.01", cwd=tmp_path)
    assert code == 0
    assert told["calls"] >= 30


def test_a_bundle_runs_without_anything_but_itself(small: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", SAMPLES)
    code, told = called("-I", small, "run", "--input", tmp_path / "x.npy", cwd=tmp_path)
    assert code == 0, told
    assert told["outputs"]["y"]["values"] == (SAMPLES @ WEIGHT).tolist()
    assert told["state"]["backend"] == "CPUExecutionProvider"
    assert told["state"]["engine"] == "none"
    assert told["state"]["fallbacks"] == []


def test_verify_works_where_neither_numpy_nor_onnxruntime_is(small: Path, tmp_path: Path) -> None:
    shutil.copy(PROGRAM, tmp_path / "mpo_edge.py")
    code, told = called("-I", "-S", tmp_path / "mpo_edge.py", "verify", small)
    assert (code, told["ok"], told["signature"]) == (0, True, "none")


def test_a_signature_that_is_required_and_not_there_is_a_refusal(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = answer(capsys, "verify", small, "--require-signature")
    assert code == 8
    assert "none" in told["error"]


def test_the_self_test_passes(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = answer(capsys, "selftest", small)
    assert (code, told["ok"]) == (0, True)
    (row,) = told["backends"]
    assert (row["passed"], row["samples"], row["max_abs"]) == (2, 2, 0.0)


@pytest.mark.parametrize("wrong", ["values", "NaN", "shape"])
def test_the_self_test_fails_when_the_outputs_are_others(
    wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = SAMPLES @ WEIGHT
    other = {"values": made + 0.1, "NaN": np.full_like(made, np.nan), "shape": made[:, :2]}[wrong]
    files = parts()
    outputs = npz(**{"0:y": made[:1], "1:y": other[1:]})
    files["selftest/outputs.npz"] = Part(outputs, "selftest")
    write_bundle(tmp_path / "bad.mpo", manifest(files), files)
    code, told = answer(capsys, "selftest", tmp_path / "bad.mpo")
    assert code == 1
    assert told["backends"][0]["passed"] == 1


def test_a_model_whose_first_sample_comes_out_wrong_is_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = parts()
    outputs = npz(**{f"{place}:y": np.ones((1, 3), np.float32) for place in range(2)})
    files["selftest/outputs.npz"] = Part(outputs, "selftest")
    write_bundle(tmp_path / "bad.mpo", manifest(files), files)
    np.save(tmp_path / "x.npy", SAMPLES)
    code, told = answer(capsys, "run", tmp_path / "bad.mpo", "--input", tmp_path / "x.npy")
    assert code == 6
    assert "first sample" in told["hint"]


def test_outputs_are_written_whole(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "x.npz", x=SAMPLES)
    where = tmp_path / "y.npz"
    code, _ = answer(capsys, "run", small, "--input", tmp_path / "x.npz", "--output", where)
    assert code == 0
    with np.load(where) as found:
        assert np.array_equal(found["y"], SAMPLES @ WEIGHT)


@pytest.mark.parametrize(
    ("name", "arrays"),
    [
        ("another type", {"x": SAMPLES.astype(np.float64)}),
        ("another rank", {"x": SAMPLES[0]}),
        ("another name", {"z": SAMPLES}),
        ("one too many", {"x": SAMPLES, "z": SAMPLES}),
        ("objects", {"x": np.array([{"a": 1}], dtype=object)}),
    ],
)
def test_inputs_are_refused_that_are(
    name: str,
    arrays: dict[str, Any],
    small: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with (tmp_path / "x.npz").open("wb") as file:
        np.savez(file, **arrays)
    code, told = answer(capsys, "run", small, "--input", tmp_path / "x.npz")
    assert code == 2, name
    assert told["error"]


def test_a_compressed_archive_of_arrays_is_not_blown_up(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((1 << 20, 2), np.float32))
    code, told = answer(capsys, "run", small, "--input", tmp_path / "x.npz")
    assert code == 2
    assert "compressed" in told["error"]


def test_a_text_in_the_place_of_arrays_is_refused(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.npz").write_text("no arrays")
    code, _ = answer(capsys, "run", small, "--input", tmp_path / "x.npz")
    assert code == 2
    assert answer(capsys, "run", small, "--input", tmp_path / "none.npz")[0] == 1


def test_the_model_is_laid_out_once_and_hashed_at_every_start(
    small: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer(capsys, "selftest", small)[0] == 0
    (laid,) = home.rglob("model.onnx")
    assert laid.read_bytes() == model()
    before = laid.stat().st_mtime_ns
    assert answer(capsys, "selftest", small)[0] == 0
    assert laid.stat().st_mtime_ns == before
    laid.write_bytes(model()[:-1] + b"\0")
    assert answer(capsys, "selftest", small)[0] == 0
    assert laid.read_bytes() == model()


def test_a_cache_that_others_can_write_to_is_refused(
    small: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer(capsys, "selftest", small)[0] == 0
    (home / "mpo-edge-cache").chmod(0o777)
    code, told = answer(capsys, "selftest", small)
    assert code == 8
    assert "alone" in told["error"]


def test_a_cache_that_is_a_link_is_refused(
    small: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (home / "mpo-edge-cache").symlink_to(tmp_path / "elsewhere")
    assert answer(capsys, "selftest", small)[0] == 8


def test_weights_beside_the_graph_are_laid_out_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_external(tmp_path / "beside.mpo", "model.onnx.data")
    code, told = answer(capsys, "selftest", tmp_path / "beside.mpo")
    assert (code, told["ok"]) == (0, True)


@pytest.mark.parametrize(
    "location", ["../model.onnx.data", "/etc/passwd", "other.data", "model.onnx", ""]
)
def test_a_model_that_reads_other_files_is_refused_before_the_runtime_sees_it(
    location: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_external(tmp_path / "beside.mpo", location)
    code, told = answer(capsys, "selftest", tmp_path / "beside.mpo")
    assert code == 8
    assert "weights" in told["error"]


@pytest.mark.parametrize("place", ["in a branch", "in a function", "sparse", "a constant"])
def test_other_files_are_found_wherever_they_are_named(place: str) -> None:
    tensor = numpy_helper.from_array(WEIGHT, "w")
    outside(tensor, "../secret")
    hidden = onnx.ModelProto()
    if place == "in a branch":
        graph = helper.make_graph([], "g", [], [], [tensor])
        hidden.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=graph))
    elif place == "in a function":
        node = helper.make_node("Constant", [], ["y"], value=tensor)
        hidden.functions.add().node.append(node)
    elif place == "sparse":
        hidden.graph.sparse_initializer.add().values.CopyFrom(tensor)
    else:
        hidden.graph.node.append(helper.make_node("Constant", [], ["y"], value=tensor))
    with pytest.raises(mpo_edge.EdgeError, match="secret"):
        mpo_edge.check_weights(hidden.SerializeToString(), {b"model.onnx.data"})


@pytest.mark.parametrize("across", range(9))
def test_another_file_is_found_where_two_pieces_of_the_model_meet(across: int) -> None:
    tensor = numpy_helper.from_array(WEIGHT, "w")
    outside(tensor, "../secret")
    named = helper.make_model(helper.make_graph([], "g", [], [], [tensor])).SerializeToString()
    padding = mpo_edge.CHUNK - across - named.index(b"location") - 4
    raw = onnx.ModelProto(doc_string="x" * padding).SerializeToString() + named
    assert raw.index(b"location") == mpo_edge.CHUNK - across
    with pytest.raises(mpo_edge.EdgeError, match="secret"):
        mpo_edge.check_weights(raw, {b"model.onnx.data"})


def test_bytes_that_are_no_protobuf_are_refused() -> None:
    for raw in (b"\xff" * 40, b"\x3a\xff\x01", b"\x0b", b"\x3a\x05ab"):
        with pytest.raises(mpo_edge.EdgeError, match="no ONNX"):
            mpo_edge.check_weights(raw, set())


def outside(tensor: TensorProto, location: str) -> None:
    """Say that a tensor's values lie in another file."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(WEIGHT.nbytes))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def write_external(path: Path, location: str) -> None:
    """The small bundle with its weights beside the graph."""
    made = onnx.load_model_from_string(model())
    outside(made.graph.initializer[0], location)
    files = parts()
    files["model/model.onnx"] = Part(made.SerializeToString(deterministic=True), "model")
    files["model/model.onnx.data"] = Part(WEIGHT.tobytes(), "weights")
    told = manifest(files)
    size = sum(told.files[f"model/model.onnx{end}"].size for end in ("", ".data"))
    facts = {"weights": ("model/model.onnx.data",), "bytes": size}
    told = told.model_copy(update={"model": told.model.model_copy(update=facts)})
    write_bundle(path, told, files)


def test_info_says_why_a_device_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = parts()
    told = manifest(files)
    write_bundle(tmp_path / "small.mpo", told, files)
    assert answer(capsys, "info", tmp_path / "small.mpo")[0] == 0
    newer = told.runtime.model_copy(
        update={"onnxruntime": "99.1", "providers": ("CUDAExecutionProvider",)}
    )
    write_bundle(tmp_path / "new.mpo", told.model_copy(update={"runtime": newer}), files)
    code, said = answer(capsys, "info", tmp_path / "new.mpo")
    assert code == 6
    assert "99.1" in said["reasons"][0]


def on_gpu(path: Path, fallback: str, **changes: Any) -> None:
    """The small bundle, meant for a GPU."""
    files = parts()
    told = manifest(files, **changes)
    runtime = told.runtime.model_copy(
        update={"providers": ("CUDAExecutionProvider",), "fallback": fallback}
    )
    write_bundle(path, told.model_copy(update={"runtime": runtime}), files)


def test_the_cpu_is_not_taken_in_silence_for_a_gpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    on_gpu(tmp_path / "refuse.mpo", "refuse")
    np.save(tmp_path / "x.npy", SAMPLES)
    code, told = answer(capsys, "run", tmp_path / "refuse.mpo", "--input", tmp_path / "x.npy")
    assert code == 6
    assert "CUDAExecutionProvider" in told["hint"]
    on_gpu(tmp_path / "allow.mpo", "allow")
    code, told = answer(capsys, "run", tmp_path / "allow.mpo", "--input", tmp_path / "x.npy")
    assert code == 0
    assert told["state"]["backend"] == "CPUExecutionProvider"
    assert "CUDAExecutionProvider" in told["state"]["fallbacks"][0]


RECIPE = EngineOptions(
    backend="tensorrt-rtx", shapes={"x": ShapeRange(min=(1, 2), opt=(1, 2), max=(8, 2))}
)


def test_an_engine_that_cannot_be_proved_here_is_not_kept(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a GPU: the build itself is real where TensorRT-RTX is installed."""
    if mpo_edge.gpu():
        pytest.skip("here is a GPU: the engine can be proved")
    on_gpu(tmp_path / "small.mpo", "allow", engine=RECIPE)
    code, told = answer(capsys, "build-engine", tmp_path / "small.mpo")
    assert code == 7
    assert "GPU" in told["error"] or "not installed" in told["error"]
    assert not list(home.rglob("*.engine"))
    code, told = answer(capsys, "selftest", tmp_path / "small.mpo")
    assert code == 0
    assert told["state"]["fallbacks"][0].startswith("engine: ")


def test_a_bundle_without_a_recipe_builds_no_engine(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = answer(capsys, "build-engine", small)
    assert code == 7
    assert "recipe" in told["error"]


def test_only_what_this_user_s_key_signed_is_taken_for_an_engine(home: Path) -> None:
    mark = mpo_edge.signed("key", b"engine")
    assert mark == mpo_edge.signed("key", b"engine")
    assert mark != mpo_edge.signed("key", b"other") != mpo_edge.signed("other", b"engine")
    (key,) = home.rglob("key")
    assert key.stat().st_mode & 0o077 == 0
    key.write_bytes(bytes(32))
    assert mark != mpo_edge.signed("key", b"engine")


def test_bench_measures_in_fresh_processes(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = answer(capsys, "bench", small, "--seconds", "0.05", "--processes", "1")
    assert code == 0, told
    assert 0 < told["latency_p50_ms"] <= told["latency_p90_ms"]
    assert told["calls"] >= 30
    assert told["peak_memory_bytes"] < 64 << 20
    assert told["schema"] == "mpo.edge-bench/1"


def test_the_empty_model_is_one() -> None:
    made = onnx.load_model_from_string(mpo_edge.EMPTY)
    onnx.checker.check_model(made, full_check=True)
    assert [node.op_type for node in made.graph.node] == ["Identity"]


ARRAYS: dict[str, Any] = {
    "x": SAMPLES,
    "columns": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
    "none": np.zeros((0, 3), np.float32),
    "one": np.array(True),
    "half": np.ones((1, 2, 3), np.float16),
    "数": np.arange(3, dtype=np.uint8),
}


def test_arrays_are_read_as_numpy_reads_them() -> None:
    for name, array in ARRAYS.items():
        file = io.BytesIO()
        np.save(file, array)
        alike(mpo_edge.read_arrays(file.getvalue(), name), {name: array})
    file = io.BytesIO()
    np.savez(file, **ARRAYS)
    alike(mpo_edge.read_arrays(file.getvalue()), ARRAYS)


def test_numpy_reads_the_arrays_that_are_written(tmp_path: Path) -> None:
    whole = b"".join(mpo_edge.packed(ARRAYS))
    with np.load(io.BytesIO(whole)) as found:
        alike({name: found[name] for name in found.files}, ARRAYS)
    alike(mpo_edge.read_arrays(whole), ARRAYS)
    assert zipfile.ZipFile(io.BytesIO(whole)).testzip() is None


def alike(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """The same names, types, shapes and values."""
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert np.array_equal(found[name], array)
        assert found[name].flags.aligned


def test_entries_that_share_their_bytes_are_not_read_again_and_again() -> None:
    whole = b"".join(mpo_edge.packed({"x": np.zeros(1 << 16)}))
    end = whole.rindex(b"PK\5\6")
    begin = whole.rindex(b"PK\1\2")
    entries = whole[begin:end] * 1000
    tail = mpo_edge.end_record(1000, len(entries), begin)
    with pytest.raises(mpo_edge.EdgeError, match="compressed or damaged"):
        mpo_edge.read_arrays(whole[:begin] + entries + tail)


@pytest.mark.parametrize("size", [10**6, 2**40])
def test_an_array_larger_than_its_file_is_refused(size: int) -> None:
    file = io.BytesIO()
    np.save(file, np.zeros(10))
    raw = file.getvalue().replace(b"(10,), }" + b" " * 20, b"(%d,), }".ljust(28) % size)
    with pytest.raises(mpo_edge.EdgeError, match="plain arrays"):
        mpo_edge.read_arrays(raw, "x")


KINDS = ["M8[s/0]", "f4,,", "(2f4,i4", "<U1", "|O", "<f3", "<f99"]


@pytest.mark.parametrize(
    "header",
    ["-" * 900 + "1", "(" * 900, "{}", "1"]
    + [f"{{'descr': '{kind}', 'fortran_order': False, 'shape': (1,), }}" for kind in KINDS],
)
def test_a_header_that_is_none_is_refused(header: str) -> None:
    raw = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode()
    with pytest.raises(mpo_edge.EdgeError, match="plain arrays"):
        mpo_edge.read_arrays(raw, "x")


def test_a_name_longer_than_any_is_refused_before_it_is_written_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = b"\xff" * 42000
    entry = mpo_edge.CENTRAL.pack(
        b"PK\1\2", 20, 20, 0, 0, 0, 0x21, 0, 0, 0, len(name), 0, 0, 0, 0, 0, 0
    )
    entry += name
    tail = mpo_edge.end_record(256, len(entry), 10**5)
    (tmp_path / "b.mpo").write_bytes(b"x" * 10**5 + entry + tail)
    assert answer(capsys, "verify", tmp_path / "b.mpo")[0] == 8


@pytest.mark.parametrize("field", [1, 3])
def test_a_place_without_a_name_is_refused(field: int) -> None:
    entry = b"\x0a\x08location" + bytes([field << 3 | 2, 1]) + b"x"
    tensor = b"\x6a" + bytes([len(entry)]) + entry
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    with pytest.raises(mpo_edge.EdgeError, match="reads weights"):
        mpo_edge.check_weights(b"\x3a" + bytes([len(graph)]) + graph, {b"w"})


def test_a_library_beside_the_program_is_not_taken_for_one_that_is_installed(
    small: Path, tmp_path: Path
) -> None:
    shutil.copy(PROGRAM, tmp_path / "mpo_edge.py")
    (tmp_path / "onnxruntime.py").write_text("raise SystemExit(3)")
    assert called("-I", tmp_path / "mpo_edge.py", "info", small)[1]["device"]["providers"]


def test_outputs_that_no_file_can_hold_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Object arrays"):
        mpo_edge.packed({"x": np.array([{}], dtype=object)})


def test_without_a_home_no_folder_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MPO_EDGE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(mpo_edge.EdgeError, match="no home"):
        mpo_edge.own_folder("cache")


def test_an_empty_model_is_refused(tmp_path: Path) -> None:
    files = {**parts(), "model/model.onnx": Part(b"", "model")}
    with pytest.raises(RefusedError, match="not the files that it names"):
        write_bundle(tmp_path / "empty.mpo", manifest(files), files)


def test_an_array_is_read_from_an_npy() -> None:
    file = io.BytesIO()
    np.save(file, SAMPLES)
    assert np.array_equal(mpo_edge.read_arrays(file.getvalue(), "x")["x"], SAMPLES)
