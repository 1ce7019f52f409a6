"""TensorRT and TensorRT-RTX engines behind one door: build, describe, run.

Nothing of a vendor is imported in this process: a build, and a run, each have a child of their own,
with limits. An engine is native code: only one whose hash is told is ever run.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from mpo.errors import MpoError, RefusedError, UsageError
from mpo.exporters import trtexec
from mpo.exporters.child import run_script
from mpo.exporters.enginebuild import (
    LIMITS,
    MODULES,
    WORKER,
    build_with_module,
    build_with_tool,
    told_of,
)
from mpo.exporters.enginecache import EngineCache, content_hash
from mpo.files import sha256, writable, write_atomic
from mpo.records import EngineBackend, EngineOptions, EngineResult, EngineRun
from mpo.runfolder import fingerprint

RUNNER = Path(__file__).with_name("trtrunner.py")
INSTALL: dict[EngineBackend, str] = {
    "tensorrt": "pip install 'mpo-optimizer[tensorrt]' (pip must reach NVIDIA's index)",
    "tensorrt-rtx": "pip install 'mpo-optimizer[tensorrt-rtx]'",
}
DESCRIBE_S = 60.0


def engine_module(backend: EngineBackend) -> str:
    """The backend's Python module when it is installed, else ""; nothing is imported."""
    name = MODULES[backend]
    return name if importlib.util.find_spec(name) is not None else ""


def describe(backend: EngineBackend) -> dict[str, Any]:
    """What the backend's module says in a child: "version", "driver" (0 without a GPU), "gpu" and
    "capability"; "error" alone when it is not there or cannot be imported.
    """
    module = engine_module(backend)
    if not module:
        return {"error": f"{MODULES[backend]} is not installed"}
    ended, told = run_script(WORKER, {"module": module}, timeout=DESCRIBE_S)
    return told or {"error": f"{module} {told_of(ended)}"}


def build_engine(
    onnx: Path,
    target: Path,
    options: EngineOptions | None = None,
    *,
    cache: Path | None = None,
) -> EngineResult:
    """Build an engine from an ONNX file. The file `target` appears whole or not at all.

    A build that comes to nothing is no error but a result that says why: EngineResult.outcome.

    Args:
        onnx: the file; external data lies beside it.
        target: the engine to write.
        options: of the build; TensorRT-RTX with the file's own types by default.
        cache: a folder of this user's own for engines and timings; entries are signed, and one that
            was changed is built again.

    Raises:
        UsageError: there is no such file, or the target cannot be written.
        RefusedError: the cache folder is open to others.
    """
    options = options or EngineOptions()
    backend = options.backend
    if not onnx.is_file():
        raise UsageError(f"There is no ONNX file {onnx}.")
    known: dict[str, Any] = {"backend": backend, "onnx_sha256": sha256(onnx)}
    if engine_module(backend):
        if cache is None:
            return build_with_module(onnx, target, options, known)[0]
        return _cached(EngineCache(cache), onnx, target, options, known)
    tool = trtexec.find_tool(backend)
    if tool:
        return build_with_tool(tool, onnx, target, options, known)
    reason = f"{MODULES[backend]} is not installed, and {trtexec.TOOLS[backend]} is not in PATH"
    return EngineResult(**known, outcome="missing", reason=reason, hint=INSTALL[backend])


def run_engine(
    engine: Path,
    digest: str,
    inputs: Path,
    outputs: Path,
    *,
    backend: EngineBackend = "tensorrt-rtx",
    calls: int = 50,
    timeout: float = 300.0,
) -> EngineRun:
    """Run an engine on this machine's GPU, in a child.

    Args:
        engine: its file. It is native code, so it must be the one that you built:
        digest: the sha256 that the build's result told.
        inputs: an .npz with the arrays by input name (backends.save_arrays).
        outputs: the .npz to write the outputs of one call to (backends.load_arrays).
        calls: timed inferences, after ten more to warm up.
        timeout: seconds; then the process is killed.

    Raises:
        RefusedError: the file is another one than was told.
        UsageError: no such file, no module, or no GPU here.
        MpoError: the process failed.
    """
    for path in (engine, inputs):
        if not path.is_file():
            raise UsageError(f"There is no file {path}.")
    if sha256(engine) != digest:
        raise RefusedError(
            f"{engine} is not the engine whose sha256 is {digest[:16]}…; it is not loaded.",
            hint="An engine is native code: run only what was built here.",
        )
    machine = _able(engine, backend)
    request = {"module": MODULES[backend], "engine": str(engine.resolve()), "calls": calls}
    request |= {"inputs": str(inputs.resolve()), "outputs": str(outputs.resolve())}
    ended, told = run_script(RUNNER, request, timeout=timeout)
    if not told or "error" in told:
        raise MpoError(f"Running {engine} failed: {told.get('error') or told_of(ended)}.")
    return EngineRun(**told, gpu=machine["gpu"], outputs=str(outputs))


def describe_engine(engine: Path, backend: EngineBackend) -> dict[str, Any]:
    """Inputs and scratch memory of an engine, which is loaded for it: the caller trusts the file.

    Raises:
        UsageError: no such file, no module, or no GPU here.
        MpoError: the process failed.
    """
    if not engine.is_file():
        raise UsageError(f"There is no file {engine}.")
    _able(engine, backend)
    request = {"module": MODULES[backend], "engine": str(engine.resolve()), "describe": True}
    ended, told = run_script(RUNNER, request, timeout=DESCRIBE_S)
    if not told or "error" in told:
        raise MpoError(f"Reading {engine} failed: {told.get('error') or told_of(ended)}.")
    return told


def _able(engine: Path, backend: EngineBackend) -> dict[str, Any]:
    """What the backend says of this machine, once it can run an engine."""
    machine = describe(backend)
    if "error" in machine:
        raise UsageError(f"{machine['error']}.", hint=f"Install it: {INSTALL[backend]}")
    if not machine["driver"]:
        raise UsageError(
            f"{engine} cannot run: no NVIDIA driver with a GPU was found.",
            hint="Run it on a machine that has one.",
        )
    return machine


def _cached(
    cache: EngineCache, onnx: Path, target: Path, options: EngineOptions, known: dict[str, Any]
) -> EngineResult:
    """The engine of an earlier build of the same file with the same options on the same machine;
    else a build that the cache learns from."""
    machine = describe(options.backend)
    place = [machine.get(name) for name in ("version", "driver", "gpu", "capability")]
    asked = options.model_dump(mode="json", exclude=set(LIMITS))
    key = "engine-" + fingerprint([content_hash(onnx), place, asked])
    header, _, engine = (cache.get(key) or b"").partition(b"\n")
    if engine:
        with writable(target):
            write_atomic(target, engine)
        result = EngineResult.model_validate_json(header)
        return result.model_copy(update={"path": str(target), "cached": True})
    timings = "timings-" + fingerprint([options.backend, place])
    result, kept = build_with_module(onnx, target, options, known, cache.get(timings) or b"")
    if kept:
        cache.put(timings, kept)
    if result.built:
        cache.put(key, result.model_dump_json().encode() + b"\n" + target.read_bytes())
    return result
