"""The OpenVINO child: ONNX -> IR, and inference on the CPU.

A script for exporters/child.py: standard library, numpy and openvino (Python >= 3.8). One line of
JSON in, one object out:
    {"job": "convert", "onnx": path, "output": path.xml, "half": false}
    {"job": "trial", "onnx": path, "output": path.xml, "half": false}
    {"job": "describe", "model": path}
    {"job": "run", "model": path, "threads": 1, "files": [[inputs.npz, outputs.npz], ...]}
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

import numpy as np

openvino: Any = importlib.import_module("openvino")  # it ships no types
PREFIX = "Exception from "


def convert(request: dict[str, Any]) -> dict[str, Any]:
    """Read the ONNX file with OpenVINO's own reader and save it as IR."""
    model = openvino.Core().read_model(request["onnx"])
    openvino.save_model(model, request["output"], compress_to_fp16=request["half"])
    return {"version": openvino.__version__.split("-")[0]}


def settings_of(threads: int) -> dict[str, Any]:
    """Float32 is never lowered to what the CPU does faster."""
    return {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }


class Model:
    """A compiled model as profiles/worker.py runs it: inputs are not copied, outputs stay."""

    def __init__(self, path: str, threads: int) -> None:
        compiled = openvino.Core().compile_model(path, "CPU", settings_of(threads))
        self._request = compiled.create_infer_request()

    def run(self, outputs: None, feeds: dict[str, Any]) -> None:
        """One inference, back when it is done."""
        self._request.infer(feeds, share_inputs=True, share_outputs=True)


def open_model(path: str, session: dict[str, Any]) -> Model:
    """What profiles/worker.py asks for."""
    if session["device"] != "cpu":
        raise ValueError("OpenVINO runs on the CPU here, not on " + str(session["device"]))
    return Model(path, session["threads"])


def describe(request: dict[str, Any]) -> dict[str, Any]:
    """Inputs (a free axis is "?"), operations, and the elements of float and 8-bit constants."""
    model = openvino.Core().read_model(request["model"])
    inputs = []
    for port in model.inputs:
        axes = [axis.get_length() if axis.is_static else "?" for axis in port.partial_shape]
        name, dtype = port.any_name, str(np.dtype(port.element_type.to_dtype()))
        inputs.append({"name": name, "axes": axes, "dtype": dtype})
    operations, params = 0, 0
    for one in model.get_ordered_ops():
        if one.get_type_name() == "Constant":
            kind = one.output(0).element_type
            if kind.is_real() or kind.get_bitwidth() <= 8:
                params += int(np.prod(one.output(0).shape, dtype=np.int64))
        elif one.get_type_name() not in ("Parameter", "Result"):
            operations += 1
    return {"inputs": inputs, "nodes": operations, "params": params}


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Compile once, run each batch."""
    settings = settings_of(request["threads"])
    compiled = openvino.Core().compile_model(request["model"], "CPU", settings)
    for given, wanted in request["files"]:
        with np.load(given, allow_pickle=False) as archive:
            feeds = {name.split(":", 1)[1]: archive[name] for name in archive.files}
        found = compiled(feeds)
        arrays: dict[str, Any] = {
            "a:" + port.any_name: np.asarray(value) for port, value in found.items()
        }
        with open(wanted, "wb") as file:  # noqa: PTH123
            np.savez(file, **arrays)
    return {"version": openvino.__version__.split("-")[0]}


def trial(request: dict[str, Any]) -> dict[str, Any]:
    """Convert, load what was written, run it on [[1, -3], [-2, 4]]: what `mpo doctor` asks."""
    told = convert(request)
    compiled = openvino.Core().compile_model(request["output"], "CPU")
    (y,) = compiled(np.array([[1.0, -3.0], [-2.0, 4.0]], np.float32)).values()
    return {**told, "outputs": y.tolist()}


def sentence(error: Exception) -> str:
    """What OpenVINO says, without the places in its sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith((PREFIX, "Check '"))]
    return " ".join(kept or lines or ["no message"])[:500]


JOBS = {"convert": convert, "describe": describe, "run": run, "trial": trial}


def main() -> None:
    """Answer the request; whatever the library prints on stdout goes to stderr."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = json.loads(sys.stdin.readline())
    try:
        told = JOBS[request["job"]](request)
    except (RuntimeError, TypeError, ValueError) as error:  # all that OpenVINO raises
        told = {"error": sentence(error)}
    answer.write(json.dumps(told) + "\n")
    answer.close()


if __name__ == "__main__":
    main()
