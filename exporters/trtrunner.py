"""The running child: one engine on one GPU, timed with CUDA events, its memory read.

A script for exporters/child.py: standard library, numpy and the vendor's module (Python >= 3.8).
CUDA comes from the driver's own library, so that no other package is needed. One JSON line:
    {"module": "tensorrt_rtx", "engine": path, "inputs": npz, "outputs": npz, "calls": 50}
With "describe": true in the place of inputs, outputs and calls it tells what the engine takes.
Names in the archives have the prefix "a:", as exporters/backends.py writes them.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import statistics
import sys
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

WARMUP = 10


class Unable(Exception):
    """Why the engine cannot run, in one sentence."""


class Cuda:
    """The few driver calls that running needs; a call that fails raises Unable with its code."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
        except OSError:
            raise Unable("no NVIDIA driver here") from None
        self.call("cuInit", 0)
        device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self.call("cuCtxSetCurrent", self._context)
        stream = ctypes.c_void_p()
        self.call("cuStreamCreate", ctypes.byref(stream), 1)
        self.stream = int(stream.value or 0)

    def call(self, name: str, *arguments: Any) -> None:
        """One call of the driver."""
        code = getattr(self._library, name)(*arguments)
        if code:
            raise Unable(f"{name} failed with CUDA error {code}")

    def free_bytes(self) -> int:
        """Memory that is free on the GPU."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def allocate(self, size: int) -> int:
        """Address of a block of at least one byte."""
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        return address.value

    def upload(self, address: int, array: Any) -> None:
        """Copy an array to the GPU."""
        size = ctypes.c_size_t(array.nbytes)
        self.call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), ctypes.c_void_p(_at(array)), size)

    def download(self, array: Any, address: int) -> None:
        """Copy from the GPU into an array."""
        size = ctypes.c_size_t(array.nbytes)
        self.call("cuMemcpyDtoH_v2", ctypes.c_void_p(_at(array)), ctypes.c_uint64(address), size)

    def event(self) -> Any:
        """A new event that keeps its time."""
        event = ctypes.c_void_p()
        self.call("cuEventCreate", ctypes.byref(event), 0)
        return event

    def record(self, event: Any) -> None:
        """Mark this moment in the stream."""
        self.call("cuEventRecord", event, ctypes.c_void_p(self.stream))

    def wait(self) -> None:
        """Until all work in the stream is done."""
        self.call("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """GPU time between two recorded events."""
        value = ctypes.c_float()
        self.call("cuEventElapsedTime", ctypes.byref(value), start, end)
        return float(value.value)


def _at(array: Any) -> int:
    return int(array.ctypes.data)


def load(trt: Any, path: str) -> Any:
    """The engine; code for the host inside an engine is never allowed."""
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    if hasattr(runtime, "engine_host_code_allowed"):
        runtime.engine_host_code_allowed = False
    with open(path, "rb") as file:  # noqa: PTH123
        engine = runtime.deserialize_cuda_engine(file.read())
    if engine is None:
        raise Unable("the runtime does not take this engine on this GPU")
    return engine


Bound = Dict[str, Tuple[Any, int]]


def names_of(trt: Any, engine: Any) -> Tuple[List[str], List[str]]:
    """Names of the inputs and of the outputs."""
    names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
    inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
    return inputs, [n for n in names if n not in inputs]


def bind(
    trt: Any, cuda: Cuda, engine: Any, context: Any, feeds: dict[str, Any]
) -> Tuple[Bound, Bound]:
    """Put the inputs on the GPU and make room for the outputs: {name: (array, address)} of both."""
    inputs, others = names_of(trt, engine)
    given: Bound = {}
    outputs: Bound = {}
    if set(inputs) != set(feeds):
        raise Unable(f"the engine takes {sorted(inputs)}, not {sorted(feeds)}")
    for name in inputs:
        array = np.ascontiguousarray(feeds[name], dtype=trt.nptype(engine.get_tensor_dtype(name)))
        if not context.set_input_shape(name, array.shape):
            raise Unable(f"input {name} cannot have the shape {array.shape}")
        address = cuda.allocate(array.nbytes)
        cuda.upload(address, array)
        context.set_tensor_address(name, address)
        given[name] = (array, address)
    for name in others:
        shape = tuple(context.get_tensor_shape(name))
        if min(shape, default=0) < 0:
            raise Unable(f"the size of output {name} depends on the data")
        array = np.empty(shape, dtype=trt.nptype(engine.get_tensor_dtype(name)))
        outputs[name] = (array, cuda.allocate(array.nbytes))
        context.set_tensor_address(name, outputs[name][1])
    return given, outputs


def scratch_bytes(engine: Any) -> int:
    """Memory that one inference takes beside the weights: the same on every run."""
    return int(getattr(engine, "device_memory_size_v2", None) or engine.device_memory_size)


class Model:
    """An engine as profiles/worker.py runs it: inputs go up, outputs come down, within the call.

    Attributes:
        device_ms: the GPU's own time of the last call, without the copies.
    """

    def __init__(self, path: str, module: str) -> None:
        self._trt, self._cuda = importlib.import_module(module), Cuda()
        self._engine = load(self._trt, path)
        self._context = self._engine.create_execution_context()
        self._start, self._end = self._cuda.event(), self._cuda.event()
        self._bound: Optional[Tuple[Bound, Bound]] = None
        self.device_ms = 0.0

    def run(self, outputs: None, feeds: dict[str, Any]) -> None:
        """One inference, back when its outputs are in this process's memory."""
        cuda = self._cuda
        if self._bound is None:  # one model is fed the same arrays all along
            self._bound = bind(self._trt, cuda, self._engine, self._context, feeds)
        given, found = self._bound
        for array, address in given.values():
            cuda.upload(address, array)
        cuda.record(self._start)
        if not self._context.execute_async_v3(cuda.stream):
            raise Unable("the engine refused to run")
        cuda.record(self._end)
        cuda.wait()
        for array, address in found.values():
            cuda.download(array, address)
        self.device_ms = cuda.elapsed_ms(self._start, self._end)


def open_model(path: str, session: dict[str, Any]) -> Model:
    """What profiles/worker.py asks for."""
    return Model(path, session["runner"].replace("-", "_"))


def describe(trt: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Inputs (a free axis is "?") and scratch memory."""
    Cuda()
    engine = load(trt, request["engine"])
    inputs = []
    for name in names_of(trt, engine)[0]:
        axes = [size if size >= 0 else "?" for size in engine.get_tensor_shape(name)]
        dtype = str(np.dtype(trt.nptype(engine.get_tensor_dtype(name))))
        inputs.append({"name": name, "axes": axes, "dtype": dtype})
    return {"inputs": inputs, "engine_memory_bytes": scratch_bytes(engine)}


def run(trt: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Load, warm up, time each call between two events, keep the last outputs."""
    with np.load(request["inputs"], allow_pickle=False) as archive:
        feeds = {name.split(":", 1)[1]: archive[name] for name in archive.files}
    cuda = Cuda()
    before = cuda.free_bytes()
    engine = load(trt, request["engine"])
    weights = before - cuda.free_bytes()
    context = engine.create_execution_context()
    _, outputs = bind(trt, cuda, engine, context, feeds)
    start, end, samples = cuda.event(), cuda.event(), []
    for turn in range(WARMUP + request["calls"]):
        cuda.record(start)
        if not context.execute_async_v3(cuda.stream):
            raise Unable("the engine refused to run")
        cuda.record(end)
        cuda.wait()
        if turn >= WARMUP:
            samples.append(cuda.elapsed_ms(start, end))
    for array, address in outputs.values():
        cuda.download(array, address)
    with open(request["outputs"], "wb") as file:  # noqa: PTH123
        np.savez(file, **{"a:" + name: array for name, (array, _) in outputs.items()})
    return {
        "samples_ms": samples,
        "p50_ms": statistics.median(samples),
        "p90_ms": float(np.quantile(samples, 0.9)),
        "device_memory_bytes": scratch_bytes(engine),
        "weights_bytes": max(weights, 0),
    }


def main() -> None:
    """Answer the request; whatever a library prints on stdout goes to stderr."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = json.loads(sys.stdin.readline())
    try:
        answer_to = describe if request.get("describe") else run
        result = answer_to(importlib.import_module(request["module"]), request)
    except Unable as error:
        result = {"error": str(error)}
    answer.write(json.dumps(result) + "\n")
    answer.close()
    os._exit(0)  # objects of the runtime must not outlive the driver's context


if __name__ == "__main__":
    main()
