"""What a device can do at most: measured in fresh processes there."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnx import TensorProto, helper

from mpo.errors import MpoError
from mpo.profiles.device import describe
from mpo.profiles.graphs import empty_model, model_of, unary_model
from mpo.profiles.jobs import Job, Target, thread_counts
from mpo.records import Limits

Progress = Callable[[int, int], None]
PROBE = Path(__file__).with_name("probe_limits.py")
# (operator, element type in, element type out) of the square products. CPUs have no half type of
# their own in the runtime (it casts), so fp16 is left to GPUs.
PRODUCTS = {
    "fp32": ("MatMul", TensorProto.FLOAT, TensorProto.FLOAT),
    "fp16": ("MatMul", TensorProto.FLOAT16, TensorProto.FLOAT16),
    "int8": ("MatMulInteger", TensorProto.INT8, TensorProto.INT32),
}


def measure_limits(
    target: Target,
    *,
    threads: int | None = None,
    processes: int = 3,
    seconds: float = 0.5,
    timeout: float = 180.0,
    progress: Progress | None = None,
) -> Limits:
    """Memory bandwidth, peak arithmetic, timer and call overhead of a target's device.

    Args:
        threads: that all figures are taken with; the device's physical cores by default.
        processes: fresh ones; each figure is the best of all, with the range of their bests.
        seconds: of each of about five kernels in each process.
        timeout: of one process, in seconds.
        progress: called with (processes done, processes in all).

    Raises:
        UsageError: what is missing on the target, with the command that installs it.
        MpoError: a process failed, or gave figures that are none.
    """
    threads = threads or describe(target).cpu.physical_cores or 1
    precisions = ("fp32", "int8") if target.device == "cpu" else ("fp32", "fp16", "int8")
    runs = []
    with tempfile.TemporaryDirectory(prefix="mpo-limits-") as folder:
        job = _job(target, Path(folder), precisions, threads, seconds, timeout)
        for done in range(processes):
            runs.append(_figures(target.run(job)))
            if progress:
                progress(done + 1, processes)
    shared = [name for name in runs[0] if all(name in run for run in runs)]
    ranges = {name: _range([run[name] for run in runs]) for name in shared}
    return Limits(
        memory_bandwidth_bytes_s=ranges["memory_bandwidth_bytes_s"][1],
        peak_flops={
            name.removeprefix("peak_flops."): found[1]
            for name, found in ranges.items()
            if name.startswith("peak_flops.")
        },
        numpy_flops=ranges["numpy_flops"][1],
        timer_resolution_ns=ranges["timer_resolution_ns"][0],
        call_overhead_us=statistics.median(run["call_overhead_us"] for run in runs),
        threads=threads,
        intervals=ranges,
    )


def _range(values: list[float]) -> tuple[float, float]:
    return min(values), max(values)


def _figures(answer: dict[str, Any]) -> dict[str, float]:
    """One process's figures by their names in the record.

    Raises:
        MpoError: a figure that is missing, not finite or not positive.
    """
    try:
        found = {
            "memory_bandwidth_bytes_s": max(float(rate) for rate in answer["stream"].values()),
            **{f"peak_flops.{name}": float(rate) for name, rate in answer["flops"].items()},
            "numpy_flops": float(answer["numpy_flops"]),
            "timer_resolution_ns": float(answer["timer_ns"]),
            "call_overhead_us": float(answer["overhead_us"]),
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise MpoError(f"The device's limits are incomplete: {error!r:.80}.") from error
    wrong = [name for name, value in found.items() if not (math.isfinite(value) and value > 0)]
    if wrong or "peak_flops.fp32" not in found:
        raise MpoError(f"The device gave no figure for {', '.join(wrong) or 'peak_flops.fp32'}.")
    return found


def _job(
    target: Target,
    folder: Path,
    precisions: tuple[str, ...],
    threads: int,
    seconds: float,
    timeout: float,
) -> Job:
    models = {precision: product_model(precision) for precision in precisions}
    models["empty"] = empty_model()
    models["copy"] = unary_model("Neg", "n")
    files = {f"{name}.onnx": folder / f"{name}.onnx" for name in models}
    for name, model in models.items():
        (folder / f"{name}.onnx").write_bytes(model)
    return Job(
        what="measured the device's limits",
        script=PROBE,
        request={
            "job": "limits",
            "models": {name: f"{name}.onnx" for name in models},
            "session": {"device": target.device, "threads": threads},
            "seconds": seconds,
        },
        files=files,
        environment=thread_counts(threads),
        timeout=timeout,
    )


def product_model(precision: str) -> bytes:
    """An ONNX file of y = a b, square matrices of any side n."""
    operator, given, made = PRODUCTS[precision]
    inputs = [helper.make_tensor_value_info(name, given, ["n", "n"]) for name in ("a", "b")]
    output = helper.make_tensor_value_info("y", made, ["n", "n"])
    return model_of([helper.make_node(operator, ["a", "b"], ["y"])], inputs, [output])
