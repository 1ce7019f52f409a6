"""Any runner of the registry on any target: what is benched, what is refused, and why."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

import mpo
from mpo.errors import MpoError, RefusedError, UsageError
from mpo.exporters.engines import describe, engine_module
from mpo.exporters.openvino import export_openvino, installed
from mpo.profiles.modeljobs import adapter_of, alone
from tests.bundle import small

if TYPE_CHECKING:
    from tests.profiles.sshd import Server

QUICK: dict[str, Any] = {
    "threads": 1, "seconds": 0.05, "processes": 3, "pairs": 8, "batch": 16,
}  # fmt: skip
openvino = pytest.mark.skipif(not installed(), reason="openvino is not installed")


@pytest.fixture
def pair(tiny: ModuleType, tmp_path: Path) -> tuple[Path, Path]:
    """Two models as OpenVINO's files: three times the work in the second."""
    found = []
    for name, layers in (("old", 2), ("new", 6)):
        onnx = tiny.chain(tmp_path / f"{name}.onnx", layers)
        assert export_openvino(onnx, tmp_path / f"{name}.xml", {}).ok
        found.append(tmp_path / f"{name}.xml")
    return found[0], found[1]


@openvino
def test_openvinos_files_are_measured_and_gated_in_their_own_runtime(
    pair: tuple[Path, Path],
) -> None:
    old, new = pair
    found = mpo.bench(new, old, "latency>3%,params>0,nodes>0,size>0", **QUICK)
    assert [one.verdict for one in found.comparisons[:4]] == ["fail"] * 4
    assert (found.comparisons[0].pairing, found.comparisons[0].pairs) == ("in-process", 8)
    assert found.places[0].session.runner == "openvino"
    candidate = found.subjects[0]
    assert (candidate.params, candidate.nodes, candidate.macs) == (6 * 96 * 96, 12, None)
    assert candidate.bytes == sum(new.with_suffix(end).stat().st_size for end in (".xml", ".bin"))
    assert found.runs[0].memory["candidate"][0].peak_bytes > 0


@openvino
def test_an_onnx_file_runs_where_the_user_says(tiny: ModuleType, tmp_path: Path) -> None:
    model = tiny.chain(tmp_path / "m.onnx", 2)
    found = mpo.bench(model, runner="openvino", **QUICK)
    assert found.places[0].session.runner == "openvino"
    assert found.subjects[0].macs == 2 * 16 * 96 * 96


@openvino
def test_a_broken_file_and_data_that_cannot_be_judged_are_told(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.xml"
    broken.write_text("<net")
    with pytest.raises(MpoError, match="no model that OpenVINO reads"):
        mpo.bench(broken, **QUICK)
    with pytest.raises(UsageError, match="judges ONNX files"):
        mpo.bench(pair[1], data="subject.py", **QUICK)


def test_an_engine_is_not_loaded_unless_its_hash_is_named(tmp_path: Path) -> None:
    engine = tmp_path / "model.engine"
    engine.write_bytes(b"native code")
    for trust in ((), "0" * 64):
        with pytest.raises(RefusedError, match="native code") as found:
            mpo.bench(engine, trust=trust, **QUICK)
        assert found.value.exit_code == 8


@pytest.mark.parametrize("runner", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.case(32)
def test_an_engine_without_a_gpu_is_an_error_with_its_reason_and_never_a_pass(
    tmp_path: Path, runner: Any
) -> None:
    if engine_module(runner) and describe(runner).get("driver"):
        pytest.skip("there is a GPU here")
    engine = tmp_path / "model.engine"
    engine.write_bytes(b"native code")
    digest = hashlib.sha256(b"native code").hexdigest()
    with pytest.raises(UsageError, match=r"no NVIDIA driver|is not installed"):
        mpo.bench(engine, runner=runner, trust=digest, **QUICK)


def test_an_unknown_runner_and_a_runner_that_cannot_be_measured_are_usage_errors(
    tiny: ModuleType, tmp_path: Path
) -> None:
    model = tiny.chain(tmp_path / "m.onnx", 2)
    with pytest.raises(UsageError, match="no runner 'opnvino'") as found:
        mpo.bench(model, runner="opnvino", **QUICK)
    assert "Did you mean openvino" in (found.value.hint or "")
    with pytest.raises(UsageError, match="no script for the measuring process"):
        adapter_of("onnx")


def test_engine_memory_of_what_is_no_engine_is_a_failure_never_a_pass(
    tiny: ModuleType, tmp_path: Path
) -> None:
    model = tiny.chain(tmp_path / "m.onnx", 2)
    with pytest.raises(MpoError, match=r"does not tell its engine\.memory") as found:
        mpo.bench(model, model, "engine.memory>0", **QUICK)
    assert found.value.exit_code == 1


def test_only_onnx_runtime_on_one_thread_is_timed_by_the_callers_processor_time() -> None:
    session = {"threads": 1, "device": "cpu", "runner": "onnx"}
    assert alone(session)
    for other in ({"runner": "openvino"}, {"threads": 2}, {"device": "cuda:0"}):
        assert not alone({**session, **other})


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", pytest.param(".xml", marks=openvino)])
def test_a_model_is_gated_on_a_device_over_ssh(
    server: Server, tiny: ModuleType, tmp_path: Path, monkeypatch: Any, suffix: str
) -> None:
    monkeypatch.setenv("MPO_SSH_CONFIG", str(server.config))
    monkeypatch.setenv("MPO_REMOTE_PYTHON", sys.executable)
    models = []
    for name, layers in (("old", 2), ("new", 6)):
        onnx = tiny.chain(tmp_path / f"{name}.onnx", layers)
        if suffix == ".xml":
            assert export_openvino(onnx, tmp_path / f"{name}.xml", {}).ok
        models.append(onnx.with_suffix(suffix))
    found = mpo.bench(models[1], models[0], "latency>3%,size>0", target=server.name, **QUICK)
    assert [one.verdict for one in found.comparisons[:2]] == ["fail", "fail"]
    assert found.comparisons[0].target == server.name
    assert not list(server.temporary.iterdir())


def test_a_bundle_is_gated_by_the_model_in_it_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    bundle, plain = tmp_path / "old.mpo", tmp_path / "new.onnx"
    small.write_small(bundle)
    plain.write_bytes(small.model())
    found = mpo.bench(plain, bundle, "size>0,params>0", **QUICK)
    assert (found.baseline, found.exit_code) == ("model", 0)
    assert [one.path for one in found.subjects] == [str(plain), str(bundle)]
    assert found.subjects[0].sha256 == found.subjects[1].sha256
    raw = bytearray(bundle.read_bytes())
    raw[len(raw) // 2] ^= 1
    bundle.write_bytes(bytes(raw))
    with pytest.raises(RefusedError):
        mpo.bench(bundle, **QUICK)
