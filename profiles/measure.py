"""Measure ONNX files in fresh child processes: latency, peak memory, and the paired ratio.

Absolute figures come from solo processes, one model each. The ratio of two models comes from
processes that alternate both (AB, BA, ...), because only that cancels what a shared machine does
meanwhile (MEASURING.md 0).
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from mpo.errors import MpoError, UsageError
from mpo.gate import percentile, ratio_interval
from mpo.profiles.launcher import run_child
from mpo.records import Ratio
from mpo.timing import Stopwatch

Inputs = Path | Mapping[str, NDArray[Any]]
Progress = Callable[[int, int], None]
PAIRS_NEEDED = 6  # below, no exact 95 % interval exists
# What the figures depend on beside batch and threads. Memory has its own lean processes: the
# arena's growth is policy, and with the arena off the default malloc makes the peak a matter of
# luck (85 to 146 MB, same model). The lean setting slows inference by up to 40 %, so latency is
# taken with the runtime's defaults.
OPTIONS = {
    "latency": "arena on, spinning on, graph optimization all",
    "latency ratio": "arena on, spinning off, both models in one process, in turn",
    "memory": "arena off, MALLOC_MMAP_THRESHOLD_=131072, VmHWM above the empty runtime",
}
MEMORY_CALLS = 3
BASELINE_PROCESSES = 3
_baselines: dict[tuple[int, bool], tuple[float, float]] = {}


@dataclass(frozen=True)
class Solo:
    """One model alone in its process.

    Attributes:
        samples_ms: single-call times of all processes together, steady state only.
        p50_ms, p90_ms: median over processes of each process's own percentile.
        peak_memory_bytes: the most that a lean process held (OPTIONS), less what it holds with a
            model that does nothing.
        load_memory_bytes: the same until the model was loaded, before the first call.
        default_memory_bytes: the peak with the runtime's and malloc's defaults, as the processes
            that gave the latency had it; higher, and less the same from run to run.
        load_ms, first_ms: median time to load, and of the first call.
        steady: False when some process did not settle within its warm-up.
        processes: how many.
    """

    samples_ms: tuple[float, ...]
    p50_ms: float
    p90_ms: float
    peak_memory_bytes: int
    load_memory_bytes: int
    default_memory_bytes: int
    load_ms: float
    first_ms: float
    steady: bool
    processes: int


@dataclass(frozen=True)
class Pair:
    """Two models measured in turn.

    Attributes:
        ratio: optimized / original latency with a 95 % interval.
        log_ratios: ln(p10 of optimized / p10 of original), one per process: what `gate.decide`
            takes.
        p10_ms: (original, optimized) per process; for the ratio only, not for absolute claims.
    """

    ratio: Ratio
    log_ratios: tuple[float, ...]
    p10_ms: tuple[tuple[float, float], ...]


def measure_solo(
    path: Path,
    inputs: Inputs,
    *,
    threads: int,
    processes: int = 3,
    seconds: float = 1.0,
    samples: int = 50,
    timeout: float = 300.0,
    progress: Progress | None = None,
) -> Solo:
    """Latency and peak memory of one ONNX file in `processes` fresh processes.

    Args:
        inputs: arrays by input name, or the path of an .npz with them.
        threads: of one inference.
        seconds: of sampling per process after warm-up; 0 takes three calls, without warm-up.
        samples: at least this many per process, however long they take.
        timeout: of one process, in seconds.
        progress: called with (processes done, processes in all).

    Raises:
        UsageError: inputs that are missing.
        MpoError: a process failed, or the operating system tells no peak memory (only Linux does).
    """
    with tempfile.TemporaryDirectory(prefix="mpo-measure-") as folder:
        request = _request("solo", [path], [inputs], Path(folder), threads)
        request |= {"seconds": seconds, "floor": samples if seconds > 0 else MEMORY_CALLS}
        lean = request | {"arena": False, "seconds": 0.0, "floor": MEMORY_CALLS}
        runs, lean_runs = [], []
        for done in range(processes):
            lean_runs.append(run_child(lean, timeout=timeout))
            runs.append(run_child(request, timeout=timeout))
            if progress:
                progress(done + 1, processes)
    times = [run["samples_ms"] for run in runs]
    load_floor, peak_floor = _baseline(threads, lean=True)
    load = _above(load_floor, lean_runs, "load_peak")
    return Solo(
        samples_ms=tuple(time for own in times for time in own),
        p50_ms=statistics.median(percentile(own, 0.5) for own in times),
        p90_ms=statistics.median(percentile(own, 0.9) for own in times),
        # The first call's own overhead is in one floor and not in the other.
        peak_memory_bytes=max(load, _above(peak_floor, lean_runs, "peak")),
        load_memory_bytes=load,
        default_memory_bytes=_above(_baseline(threads, lean=False)[1], runs, "peak"),
        load_ms=statistics.median(run["load_ms"] for run in runs),
        first_ms=statistics.median(run["first_ms"] for run in runs),
        steady=all(run["steady"] for run in runs),
        processes=processes,
    )


def measure_pair(
    original: Path,
    optimized: Path,
    inputs_original: Inputs,
    inputs_optimized: Inputs,
    *,
    threads: int = 1,
    processes: int = 8,
    seconds: float = 12.0,
    rounds: int = 20,
    timeout: float = 300.0,
    progress: Progress | None = None,
) -> Pair:
    """The latency ratio optimized / original, from fresh processes that alternate both models.

    Args:
        seconds: of sampling in all, shared by the processes; when it is spent twice over, no
            further process starts once six are done.
        rounds: alternations per process at least, however long they take.
        timeout: of one process, in seconds.

    Raises:
        UsageError: inputs that are missing, or fewer than six processes.
        MpoError: a process failed.
    """
    if processes < PAIRS_NEEDED:
        raise UsageError(f"{processes} processes give no 95 % interval; {PAIRS_NEEDED} do.")
    watch, found = Stopwatch(), []
    with tempfile.TemporaryDirectory(prefix="mpo-measure-") as folder:
        request = _request(
            "pair",
            [original, optimized],
            [inputs_original, inputs_optimized],
            Path(folder),
            threads,
        )
        request |= {"spin": False, "seconds": seconds / processes, "floor": rounds}
        swapped = request | {key: request[key][::-1] for key in ("models", "inputs")}
        for done in range(processes):
            # The model that is loaded first runs a little slower (0.3 % seen), so they take turns.
            turned = done % 2 == 1
            times = run_child(swapped if turned else request, timeout=timeout)["p10_ms"]
            found.append((times[1], times[0]) if turned else (times[0], times[1]))
            if progress:
                progress(done + 1, processes)
            if watch.seconds > 2 * seconds and len(found) >= PAIRS_NEEDED and turned:
                break
    logs = tuple(math.log(second / first) for first, second in found)
    interval = ratio_interval(logs)
    ratio = Ratio(estimate=interval.estimate, ci95=(interval.low, interval.high), pairs=len(found))
    return Pair(ratio=ratio, log_ratios=logs, p10_ms=tuple(found))


def _request(
    job: str, models: list[Path], inputs: list[Inputs], folder: Path, threads: int
) -> dict[str, Any]:
    for path in models:
        if not path.is_file():
            raise UsageError(f"There is no ONNX file {path}.")
    if threads < 1:
        raise UsageError(f"{threads} threads cannot run a model; at least one is needed.")
    return {
        "job": job,
        "models": [str(path.resolve()) for path in models],
        "inputs": [str(_saved(one, folder / f"inputs{i}.npz")) for i, one in enumerate(inputs)],
        "threads": threads,
        "arena": True,
        "spin": True,
        "cap": 3.0,
    }


def _saved(inputs: Inputs, path: Path) -> Path:
    """Write the arrays where the child finds them; names are prefixed, as "file" is savez's own."""
    if isinstance(inputs, Path):
        if not inputs.is_file():
            raise UsageError(f"There is no input file {inputs}.")
        with np.load(inputs, allow_pickle=False) as archive:
            inputs = {name: archive[name] for name in archive.files}
    arrays: dict[str, Any] = {f"input:{name}": value for name, value in inputs.items()}
    with path.open("wb") as file:
        np.savez(file, **arrays)
    return path


def _baseline(threads: int, *, lean: bool) -> tuple[float, float]:
    """Median (load, peak) bytes of the same child with a model that does nothing; measured once."""
    key = (threads, lean)
    if key not in _baselines:
        with tempfile.TemporaryDirectory(prefix="mpo-measure-") as name:
            path = Path(name) / "empty.onnx"
            path.write_bytes(_empty_model())
            inputs: Inputs = {"x": np.zeros(1, np.float32)}
            request = _request("solo", [path], [inputs], path.parent, threads)
            request |= {"arena": not lean, "seconds": 0.0, "floor": MEMORY_CALLS}
            runs = [run_child(request, timeout=120.0) for _ in range(BASELINE_PROCESSES)]
        _baselines[key] = (_median(runs, "load_peak"), _median(runs, "peak"))
    return _baselines[key]


def _empty_model() -> bytes:
    value = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")
    }
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "empty", [value["x"]], [value["y"]]
    )
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    return bytes(model.SerializeToString())


def _median(runs: list[dict[str, Any]], key: str) -> float:
    values = [run[key] for run in runs]
    if None in values:
        raise MpoError(
            "Peak memory is unavailable: this system has no /proc/self/status with VmHWM.",
            hint="Measure on Linux, or on a Linux target.",
        )
    return float(statistics.median(values))


def _above(floor: float, runs: list[dict[str, Any]], key: str) -> int:
    return max(0, round(_median(runs, key) - floor))
