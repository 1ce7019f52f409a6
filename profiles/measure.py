"""Measure ONNX files in fresh child processes: latency, peak memory, and the paired ratio.

Absolute figures come from solo processes, one model each. The ratio of two models comes from
processes that alternate both (AB, BA, ...), because only that cancels what a shared machine does
meanwhile (MEASURING.md 0).
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpo.errors import UsageError
from mpo.gate import percentile, ratio_interval
from mpo.profiles.baseline import baseline, median_bytes
from mpo.profiles.jobs import Target
from mpo.profiles.modeljobs import MEMORY_CALLS, Inputs, asking, lean, measure_turns, model_job
from mpo.records import Ratio, SessionOptions
from mpo.timing import Stopwatch

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
    target: Target,
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
    """Latency and peak memory of one ONNX file in `processes` fresh processes on the target.

    Args:
        inputs: arrays by input name, or the path of an .npz with them.
        threads: of one inference.
        seconds: of sampling per process after warm-up; 0 takes three calls, without warm-up.
        samples: at least this many per process, however long they take.
        timeout: of one process, in seconds.
        progress: called with (processes done, processes in all).

    Raises:
        UsageError: inputs that are missing, or a target that cannot run the file yet.
        MpoError: a process failed, or the operating system tells no peak memory (only Linux does).
    """
    floor = samples if seconds > 0 else MEMORY_CALLS
    with tempfile.TemporaryDirectory(prefix="mpo-measure-") as folder:
        options = SessionOptions(device=target.device, threads=threads)
        job = model_job([path], [inputs], Path(folder), options, timeout)
        timed = asking(job, job="solo", seconds=seconds, floor=floor)
        lean_job = lean(asking(job, job="solo", seconds=0.0, floor=MEMORY_CALLS))
        runs, lean_runs = [], []
        for done in range(processes):
            lean_runs.append(target.run(lean_job))
            runs.append(target.run(timed))
            if progress:
                progress(done + 1, processes)
    times = [run["samples_ms"] for run in runs]
    load_floor, peak_floor = baseline(target, threads, arena=False)
    load = _above(load_floor, lean_runs, "load_peak")
    return Solo(
        samples_ms=tuple(time for own in times for time in own),
        p50_ms=statistics.median(percentile(own, 0.5) for own in times),
        p90_ms=statistics.median(percentile(own, 0.9) for own in times),
        # The first call's own overhead is in one floor and not in the other.
        peak_memory_bytes=max(load, _above(peak_floor, lean_runs, "peak")),
        load_memory_bytes=load,
        default_memory_bytes=_above(baseline(target, threads, arena=True)[1], runs, "peak"),
        load_ms=statistics.median(run["load_ms"] for run in runs),
        first_ms=statistics.median(run["first_ms"] for run in runs),
        steady=all(run["steady"] for run in runs),
        processes=processes,
    )


def measure_pair(
    target: Target,
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
        options = SessionOptions(device=target.device, threads=threads, spinning=False)
        models, inputs = [original, optimized], [inputs_original, inputs_optimized]
        job = model_job(models, inputs, Path(folder), options, timeout)
        for done in range(processes):
            # The model that is loaded first runs a little slower (0.3 % seen), so they take turns.
            order = [0, 1] if done % 2 == 0 else [1, 0]
            times = measure_turns(target, job, order, seconds / processes, rounds, seed=done)
            found.append((times[0], times[1]))
            if progress:
                progress(done + 1, processes)
            if watch.seconds > 2 * seconds and len(found) >= PAIRS_NEEDED and order == [1, 0]:
                break
    logs = tuple(math.log(second / first) for first, second in found)
    interval = ratio_interval(logs)
    ratio = Ratio(estimate=interval.estimate, ci95=(interval.low, interval.high), pairs=len(found))
    return Pair(ratio=ratio, log_ratios=logs, p10_ms=tuple(found))


def _above(floor: float, runs: list[dict[str, Any]], key: str) -> int:
    return max(0, round(median_bytes(runs, key) - floor))
