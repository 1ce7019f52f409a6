"""The child that takes a device to its limits: memory bandwidth, arithmetic, timer, call overhead.

A script for profiles/jobs.py: standard library, numpy, onnxruntime; Python >= 3.8. The request:
    {"job": "limits", "models": {"copy": name, "matmul": name, "empty": name, ...},
     "session": {"device": "cpu", "threads": 2}, "seconds": 0.5}
Models are names of the job's files. `copy` (y = -x) and the products take free sizes, so that each
grows until a call takes long enough on this very device. Rates are the best of many calls, since
whatever else runs here only lowers them.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, NotImplemented

CALL_NS = 20_000_000  # a product grows until a call takes as long
SIDES = (256, 512, 1024, 2048, 4096, 8192)
CACHES = 4  # an array is as many times larger than all caches together (McCalpin's rule)
ARRAY = (32 << 20, 256 << 20)  # bytes of one array, at least and at most
SHARE = 8  # one array takes at most one part in so many of the free memory
TILE = 1 << 15  # elements of a triad's tile: it stays in a cache between its two steps
CACHE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20}
TYPES = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8}


class Unable(Exception):
    """What the user must do before this device can answer: a sentence and a hint."""


def session(name: str, request: dict[str, Any]) -> onnxruntime.InferenceSession:
    """A session on the request's device; never a silent fall-back to the CPU."""
    asked, path = request["session"], request["files"][name]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = asked["threads"]
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    providers: list[Any] = ["CPUExecutionProvider"]
    if asked["device"] != "cpu":
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise Unable(
                f"onnxruntime {onnxruntime.__version__} has no CUDAExecutionProvider for "
                f"{asked['device']}.",
                "Install onnxruntime-gpu in the place of onnxruntime: pip install onnxruntime-gpu",
            )
        place = {"device_id": int(asked["device"].split(":")[1])}
        providers = [("CUDAExecutionProvider", place)]
    return onnxruntime.InferenceSession(path, options, providers=providers)


def bound(opened: Any, feeds: dict[str, Any], device: str) -> Callable[[], None]:
    """A call whose inputs and outputs lie on the device, so that no transfer is in its time."""
    kind, _, place = device.partition(":")
    binding = opened.io_binding()
    held = {
        name: onnxruntime.OrtValue.ortvalue_from_numpy(array, kind, int(place or 0))
        for name, array in feeds.items()
    }
    for name, value in held.items():
        binding.bind_ortvalue_input(name, value)
    for output in opened.get_outputs():
        binding.bind_output(output.name, kind, int(place or 0))

    def call() -> None:
        opened.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return call


def nanoseconds(call: Callable[[], Any]) -> int:
    """What one call takes."""
    start = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - start


def best(call: Callable[[], Any], seconds: float) -> int:
    """The shortest of at least three calls, and of all that fit in the time."""
    found: list[int] = []
    start = time.perf_counter_ns()
    while len(found) < 3 or time.perf_counter_ns() - start < seconds * 1e9:
        found.append(nanoseconds(call))
    return max(1, min(found))


def cache_bytes(root: Path = Path("/")) -> int:
    """All data caches of the first core together, as the system tells; 0 where it does not."""
    total = 0
    for index in (root / "sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            kind, size = (index / "type").read_text(), (index / "size").read_text().strip()
        except OSError:
            continue
        told = re.match(r"(\d+)([KM]?)$", size)
        if told and "Instruction" not in kind:
            total += int(told[1]) * CACHE_UNITS[told[2]]
    return total


def array_bytes() -> int:
    """The size of one streamed array: far beyond the caches, and modest in memory."""
    free = 8 << 30
    try:
        text = Path("/proc/meminfo").read_text()
        free = int(re.findall(r"^MemAvailable: +(\d+)", text, re.MULTILINE)[0]) * 1024
    except (OSError, IndexError):
        pass
    wanted = max(ARRAY[0], min(ARRAY[1], CACHES * cache_bytes()))
    return max(1 << 20, min(wanted, free // SHARE)) // (1 << 20) * (1 << 20)


def stream(request: dict[str, Any], opened: Any) -> dict[str, float]:
    """Bytes per second of copying (2 arrays pass) and triad a = b + s c (3 arrays pass), counted as
    STREAM does; on a GPU of y = -x instead."""
    threads, seconds = request["session"]["threads"], request["seconds"]
    size = array_bytes() // 4
    if request["session"]["device"] != "cpu":
        feeds = {"x": np.ones(size, np.float32)}
        call = bound(opened, feeds, request["session"]["device"])
        call()
        return {"copy": 2 * 4 * size / best(call, seconds) * 1e9}
    a, b, c = (np.full(size, value, np.float32) for value in (0.0, 1.0, 2.0))
    parts = [slice(size * at // threads, size * (at + 1) // threads) for at in range(threads)]
    with ThreadPoolExecutor(threads) as pool:

        def copy() -> None:
            list(pool.map(lambda part: np.copyto(a[part], b[part]), parts))

        def triad() -> None:
            list(pool.map(lambda part: triad_part(a[part], b[part], c[part]), parts))

        copy()
        triad()
        return {
            "copy": 2 * 4 * size / best(copy, seconds) * 1e9,
            "triad": 3 * 4 * size / best(triad, seconds) * 1e9,
        }


def triad_part(a: Any, b: Any, c: Any) -> None:
    """One thread's share of a = b + 3 c, tile by tile so that each array passes memory once."""
    for low in range(0, len(a), TILE):
        tile = slice(low, low + TILE)
        np.multiply(c[tile], np.float32(3), out=a[tile])
        np.add(a[tile], b[tile], out=a[tile])


def product(make: Callable[[int], Callable[[], Any]], seconds: float) -> float:
    """Operations per second of the best square product: the side grows until a call is long."""
    rate = 0.0
    for side in SIDES:
        call = make(side)
        call()
        took = min(nanoseconds(call) for _ in range(2))
        if took < CALL_NS and side != SIDES[-1]:
            rate = max(rate, 2.0 * side**3 / took * 1e9)
            continue
        return max(rate, 2.0 * side**3 / best(call, seconds) * 1e9)
    return rate


def arithmetic(request: dict[str, Any], precision: str, opened: Any) -> float:
    """Operations per second of the runtime's matrix product in this precision."""
    device, kind = request["session"]["device"], TYPES[precision]

    def make(side: int) -> Callable[[], Any]:
        values = np.arange(side * side).reshape(side, side) % 7
        return bound(opened, {"a": values.astype(kind), "b": values.T.astype(kind)}, device)

    return product(make, request["seconds"])


def numpy_product(seconds: float) -> float:
    """The same in fp32 by numpy's own library."""

    def make(side: int) -> Callable[[], Any]:
        a = np.ones((side, side), np.float32)
        out = np.empty_like(a)
        return lambda: np.matmul(a, a, out=out)

    return product(make, seconds)


def timer_ns() -> float:
    """The smallest step between two readings of the clock that differ."""
    steps: list[int] = []
    while len(steps) < 2000:
        first = second = time.perf_counter_ns()
        while second == first:
            second = time.perf_counter_ns()
        steps.append(second - first)
    return float(min(steps))


def overhead_us(opened: Any) -> float:
    """Median microseconds of a call of the model that does nothing."""
    feeds = {"x": np.zeros(1, np.float32)}
    for _ in range(100):
        opened.run(None, feeds)
    return (
        statistics.median(nanoseconds(lambda: opened.run(None, feeds)) for _ in range(2000)) / 1e3
    )


def limits(request: dict[str, Any]) -> dict[str, Any]:
    """All of it. A precision that the device's runtime cannot multiply in is left out."""
    models, rates = request["models"], {}
    for precision in TYPES:
        if precision in models:
            try:
                opened = session(models[precision], request)
                rates[precision] = arithmetic(request, precision, opened)
            except (Fail, InvalidGraph, NotImplemented):
                if precision == "fp32":
                    raise
    copier = None if request["session"]["device"] == "cpu" else session(models["copy"], request)
    return {
        "stream": stream(request, copier),
        "flops": rates,
        "numpy_flops": numpy_product(request["seconds"]),
        "timer_ns": timer_ns(),
        "overhead_us": overhead_us(session(models["empty"], request)),
    }


def main() -> None:
    """Answer the request; whatever a library prints on stdout goes to stderr."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = json.loads(sys.stdin.readline())
    try:
        result = limits(request)
    except Unable as error:
        result = {"error": error.args[0], "hint": error.args[1]}
    answer.write(json.dumps(result) + "\n")
    answer.close()


if __name__ == "__main__":
    main()
