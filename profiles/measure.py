"""Measure ONNX files in fresh child processes: latency, peak memory, and the paired ratio.

Absolute figures come from solo processes, one model each. The ratio of two models comes from
processes that alternate both (AB, BA, ...), because only that cancels what a shared machine does
meanwhile (MEASURING.md 0).
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpo.errors import RefusedError, UsageError
from mpo.gate import percentile, ratio_interval
from mpo.profiles.baseline import baseline, median_bytes
from mpo.profiles.jobs import Target
from mpo.profiles.modeljobs import (
    MEMORY_CALLS,
    Inputs,
    are_times,
    asking,
    measure_turns,
    model_job,
)
from mpo.profiles.telemetry import read_telemetry
from mpo.records import GpuTelemetry, Ratio, SessionOptions
from mpo.records.bench import MemoryMethod
from mpo.timing import Stopwatch

Progress = Callable[[int, int], None]
Range = tuple[float, float]
PAIRS_NEEDED = 6  # below, no exact 95 % interval exists


@dataclass(frozen=True)
class Solo:
    """One model alone in its process.

    Attributes:
        samples_ms: single-call times of all processes together, steady state only.
        p50_ms, p90_ms: median over processes of each process's own percentile.
        peak_memory_bytes: the most that a process held, less what it holds with a model that does
            nothing; median over processes. Weights that are mapped from disk count as they are
            read.
        load_memory_bytes: the same until the model was loaded, before the first call.
        load_ms, first_ms: median time to load, and of the first call.
        memory_method: "vmhwm", or "rss-sampled" where the system tells no peak.
        device_ms: median over processes of the GPU's own median; None where nothing tells it.
        telemetry: what the GPU told while the models of all processes were timed; None without one
            that tells.
        p50_range, p90_range, peak_range: the lowest and the highest of the processes.
        steady: False when some process did not settle within its warm-up.
        processes: how many.
    """

    samples_ms: tuple[float, ...]
    p50_ms: float
    p90_ms: float
    peak_memory_bytes: int
    load_memory_bytes: int
    load_ms: float
    first_ms: float
    steady: bool
    processes: int
    p50_range: Range
    p90_range: Range
    peak_range: tuple[int, int]
    device_ms: float | None = None
    memory_method: MemoryMethod = "vmhwm"
    telemetry: GpuTelemetry | None = None


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
    session: SessionOptions | None = None,
    processes: int = 3,
    seconds: float = 1.0,
    samples: int = 50,
    timeout: float = 300.0,
    progress: Progress | None = None,
) -> Solo:
    """Latency and peak memory of one ONNX file in `processes` fresh processes on the target; one
    and the same processes give both.

    Args:
        inputs: arrays by input name, or the path of an .npz with them.
        session: how the model is run; without it, the runtime's defaults on one thread.
        seconds: of sampling per process after warm-up; 0 takes three calls, without warm-up.
        samples: at least this many per process, however long they take.
        timeout: of one process, in seconds.
        progress: called with (processes done, processes in all).

    Raises:
        UsageError: inputs that are missing, or a target that cannot run the file yet.
        MpoError: a process failed, or nothing tells its memory: no /proc, no `ps`.
    """
    options = session or SessionOptions(device=target.device)
    (solo,) = measure_beside(
        target,
        [(path, inputs)],
        options,
        processes=processes,
        seconds=seconds,
        samples=samples,
        timeout=timeout,
        progress=progress,
    )
    return solo


def measure_beside(
    target: Target,
    models: Sequence[tuple[Path, Inputs]],
    session: SessionOptions,
    *,
    processes: int = 3,
    seconds: float = 1.0,
    samples: int = 50,
    timeout: float = 300.0,
    progress: Progress | None = None,
) -> tuple[Solo, ...]:
    """Solo figures of several models whose processes take turns, so that what a machine does
    meanwhile falls on all of them; arguments and errors as `measure_solo` has them."""
    floor = samples if seconds > 0 else MEMORY_CALLS
    runs: list[list[dict[str, Any]]] = [[] for _ in models]
    with tempfile.TemporaryDirectory(prefix="mpo-measure-") as name:
        jobs = []
        for place, (path, inputs) in enumerate(models):
            folder = Path(name) / str(place)
            folder.mkdir()
            job = model_job([path], [inputs], folder, session, timeout)
            jobs.append(asking(job, job="solo", seconds=seconds, floor=floor))
        for done in range(processes):
            for job, own in zip(jobs, runs, strict=True):
                own.append(target.run(job))
            if progress:
                progress(done + 1, processes)
    floors = baseline(target, session)
    return tuple(_solo(own, floors) for own in runs)


def _solo(runs: list[dict[str, Any]], floors: tuple[float, float]) -> Solo:
    times = [_times(run) for run in runs]
    load = _above(floors[0], runs, "load_peak")
    p50, p90 = ([percentile(own, share) for own in times] for share in (0.5, 0.9))
    # Each process as the median of them all is told: no lower than until it was loaded.
    peaks = [max(_above(floors[0], [run], "load_peak"), _above(floors[1], [run], "peak"))
             for run in runs]  # fmt: skip
    return Solo(
        samples_ms=tuple(time for own in times for time in own),
        p50_ms=statistics.median(p50),
        p90_ms=statistics.median(p90),
        # The first call's own overhead is in one floor and not in the other.
        peak_memory_bytes=max(load, _above(floors[1], runs, "peak")),
        load_memory_bytes=load,
        load_ms=statistics.median(run["load_ms"] for run in runs),
        first_ms=statistics.median(run["first_ms"] for run in runs),
        steady=all(run["steady"] for run in runs),
        processes=len(runs),
        p50_range=(min(p50), max(p50)),
        p90_range=(min(p90), max(p90)),
        peak_range=(min(peaks), max(peaks)),
        memory_method=_method(runs),
        device_ms=statistics.median(own) if (own := _device_times(runs)) else None,
        telemetry=read_telemetry(_lines(runs)),
    )


def _method(runs: list[dict[str, Any]]) -> MemoryMethod:
    told = {run.get("memory_method", "vmhwm") for run in runs}
    return "vmhwm" if told == {"vmhwm"} else "rss-sampled"


def _device_times(runs: list[dict[str, Any]]) -> list[float]:
    """Each process's median of the device's own times, when there are any."""
    times = [run.get("device_ms") for run in runs]
    return [statistics.median(own) for own in times if are_times(own)]


def _lines(runs: list[dict[str, Any]]) -> list[Any]:
    """The GPU's samples of all processes, as they were sent."""
    told = [run.get("telemetry") for run in runs]
    return [line for own in told if isinstance(own, list) for line in own]


def _times(run: dict[str, Any]) -> list[float]:
    """A process's times, once they are some: a device is not believed unseen."""
    times = run.get("samples_ms")
    if not are_times(times):
        raise RefusedError(
            "The device gave latencies that are none.",
            hint="Its figures cannot be used: check what runs there.",
        )
    return list(times)


def measure_pair(
    target: Target,
    original: Path,
    optimized: Path,
    inputs_original: Inputs,
    inputs_optimized: Inputs,
    *,
    session: SessionOptions | None = None,
    processes: int = 8,
    seconds: float = 12.0,
    rounds: int = 20,
    timeout: float = 300.0,
    progress: Progress | None = None,
) -> Pair:
    """The latency ratio optimized / original, from fresh processes that alternate both models.

    Args:
        session: how both are run, but for spinning, which is off: idle threads of the one would
            steal time from the other. Without it, the runtime's defaults on one
            thread.
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
        options = session or SessionOptions(device=target.device)
        options = options.model_copy(update={"spinning": False})
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
