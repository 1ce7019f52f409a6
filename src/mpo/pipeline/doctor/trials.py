"""A tiny model really put through every backend, each in a process of its own."""

from __future__ import annotations

import base64
import importlib.util
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mpo.exporters.child import Ended, run_script
from mpo.records import EngineBackend, Trial

WORKER = Path(__file__).parents[2] / "exporters" / "trialworker.py"
TIMEOUT_S = 60.0
SIDE_BY_SIDE = 2
REMOTE = "AzureExecutionProvider"  # asks a service on the network: never tried
# y = relu(x + [1, -1]), x of shape (batch, 2), opset 18: a file of 117 bytes, so that this needs no
# package to make one. A test holds it against the onnx package.
TINY_ONNX = base64.b64decode(
    "CAg6awoOCgF4CgFjEgFzIgNBZGQKDAoBcxIBeSIEUmVsdRIEdGlueSoRCAIQAUIBY0oIAACAPwAAgL9aGAoBeBITChEIARIN"
    "CgcSBWJhdGNoCgIIAmIYCgF5EhMKEQgBEg0KBxIFYmF0Y2gKAggCQgQKABAS"
)
State = Literal["works", "builds", "fails", "missing"]


def run_trials(folder: Path) -> tuple[Trial, ...]:
    """Try every backend; a crash of one is a row that says so.

    Args:
        folder: for the tiny files; emptied by its owner.
    """
    model = folder / "tiny.onnx"
    model.write_bytes(TINY_ONNX)
    jobs: dict[str, Callable[[], list[Trial]]] = {
        "torch": partial(_simple, "torch", model),
        "onnx": partial(_simple, "onnx", model),
        "onnxruntime": partial(_onnxruntime, model),
        "openvino": partial(_openvino, model),
        "tensorrt-rtx": partial(_engine, "tensorrt-rtx", model),
        "tensorrt": partial(_engine, "tensorrt", model),
    }
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        rows = [pool.submit(_guarded, name, job) for name, job in jobs.items()]
        return tuple(trial for row in rows for trial in row.result())


def _guarded(backend: str, job: Callable[[], list[Trial]]) -> list[Trial]:
    """The trial's rows; one row that names the package when one of mpo's own needs is not there."""
    try:
        return job()
    except ImportError as error:
        return [Trial(backend=backend, core=False, state="fails", told=str(error))]


def find_gpu() -> str:
    """Name, compute capability and driver of the first NVIDIA GPU; "" when there is none."""
    script = WORKER.with_name("trtworker.py")
    _, told = run_script(script, {"module": ""}, timeout=TIMEOUT_S)
    if not told.get("driver"):
        return ""
    major, minor = divmod(int(told["driver"]), 1000)
    return f"{told['gpu']} ({told['capability']}, CUDA {major}.{minor // 10})"


def _simple(module: str, model: Path, provider: str = "") -> list[Trial]:
    if importlib.util.find_spec(module) is None:
        line = f"pip install {module}"
        return [Trial(backend=module, core=True, state="missing", install=line)]
    return [_tried(module, model, provider)[0]]


def _onnxruntime(model: Path) -> list[Trial]:
    """One row a provider that the installed build offers."""
    if importlib.util.find_spec("onnxruntime") is None:
        return _simple("onnxruntime", model)
    first, told = _tried("onnxruntime", model, "")
    if first.state != "works":
        return [first]
    offered = [name for name in told["providers"] if name != REMOTE]
    return [_tried("onnxruntime", model, name)[0] for name in offered]


def _tried(module: str, model: Path, provider: str) -> tuple[Trial, dict[str, Any]]:
    request = {"trial": module, "model": str(model), "provider": provider}
    ended, told = run_script(WORKER, request, timeout=TIMEOUT_S)
    state: State = "works" if told.get("right") else "fails"
    text = str(told.get("told") or _end(ended))
    if told and not told.get("right") and provider == "":
        text = f"wrong result ({text})"
    name = f"{module} {provider}".strip()
    core = provider in ("", "CPUExecutionProvider")
    return Trial(backend=name, core=core, state=state, told=text, seconds=ended.seconds), told


def _openvino(model: Path) -> list[Trial]:
    from mpo.exporters.openvino import INSTALL, installed
    from mpo.exporters.openvino import WORKER as SCRIPT

    if not installed():
        return [Trial(backend="openvino", core=False, state="missing", install=INSTALL)]
    output = model.with_suffix(".xml")
    request = {"job": "trial", "onnx": str(model), "output": str(output), "half": False}
    ended, told = run_script(SCRIPT, request, timeout=TIMEOUT_S)
    right = told.get("outputs") == [[2.0, 0.0], [0.0, 3.0]]
    text = str(told.get("version") or told.get("error") or _end(ended))
    state: State = "works" if right else "fails"
    seconds = ended.seconds
    return [Trial(backend="openvino", core=False, state=state, told=text, seconds=seconds)]


def _engine(backend: EngineBackend, model: Path) -> list[Trial]:
    """Build an engine; run it where a GPU is."""
    from mpo.exporters.engines import build_engine
    from mpo.records import EngineOptions, ShapeRange

    shapes = {"x": ShapeRange(min=(1, 2), opt=(2, 2), max=(4, 2))}
    options = EngineOptions(backend=backend, shapes=shapes, timeout_s=TIMEOUT_S)
    target = model.with_name(f"{backend}.engine")
    result = build_engine(model, target, options)
    known = {"backend": backend, "core": False, "seconds": result.seconds}
    if not result.built:
        missing: State = "missing" if result.outcome == "missing" else "fails"
        return [Trial(**known, state=missing, told=result.reason, install=result.hint)]
    told = f"{result.version}, an engine of {result.bytes} bytes"
    if result.ran_reason == "no GPU here":
        return [Trial(**known, state="builds", told=f"{told}; no GPU here to run it")]
    return [_ran(backend, target, result.sha256, known, told)]


def _ran(
    backend: EngineBackend, engine: Path, digest: str, known: dict[str, Any], told: str
) -> Trial:
    import numpy as np

    from mpo.errors import MpoError
    from mpo.exporters.backends import load_arrays, save_arrays
    from mpo.exporters.engines import run_engine

    inputs, outputs = engine.with_suffix(".in.npz"), engine.with_suffix(".out.npz")
    save_arrays(inputs, {"x": np.array([[1.0, -3.0], [-2.0, 4.0]], np.float32)})
    try:
        run_engine(engine, digest, inputs, outputs, backend=backend, calls=3, timeout=TIMEOUT_S)
    except MpoError as error:
        return Trial(**known, state="fails", told=f"{told}; {error.message}")
    right = load_arrays(outputs)["y"].tolist() == [[2.0, 0.0], [0.0, 3.0]]
    state: State = "works" if right else "fails"
    return Trial(**known, state=state, told=told if right else f"{told}; wrong result")


def _end(ended: Ended) -> str:
    lines = [line.strip() for line in ended.errors.splitlines() if line.strip()]
    return f"{ended.reason}: {lines[-1][:200]}" if lines else ended.reason
