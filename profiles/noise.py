"""A device's own noise: what it reads when nothing differs, and what it could therefore detect."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from mpo.errors import MpoError
from mpo.gate import minimum_detectable, percentile, ratio_interval
from mpo.profiles.device import observe
from mpo.profiles.graphs import model_of
from mpo.profiles.jobs import Target
from mpo.profiles.measure import measure_pair
from mpo.profiles.modeljobs import are_times, asking, model_job
from mpo.records import Noise, SessionOptions

Progress = Callable[[int, int], None]
ROWS, WIDTH, LAYERS = 64, 512, 8  # 0.27 G operations: 2 ms on a server's core, 30 ms on a small one
MDE_LIMIT = 5.0  # per cent: a gate at 5 % decides nothing on a noisier device
SPREAD_LIMIT = 15.0  # per cent between the p90 of processes: absolute budgets mean little beyond
TAIL_LIMIT = 50.0  # per cent of p90 above p10 inside a process: something takes the cores away
BUSY_LIMIT = 0.25  # cores that others may take from those that the figures need
SOLO_SAMPLES = 50


@dataclass(frozen=True)
class Alone:
    """One process with the model alone: percentiles in ms, and whether it settled."""

    p10_ms: float
    p50_ms: float
    p90_ms: float
    steady: bool


def measure_noise(
    target: Target,
    *,
    threads: int | None = None,
    processes: int = 8,
    seconds: float = 8.0,
    solo: int = 6,
    solo_seconds: float = 1.0,
    timeout: float = 180.0,
    progress: Progress | None = None,
) -> Noise:
    """One small model against itself (A/A) as two models are compared, and alone as budgets are
    measured, half of the solo processes before and half after.

    Args:
        threads: of one inference; the device's physical cores by default.
        processes: that alternate the model with itself; at least 8 for a gate to confirm anything.
        seconds: of sampling in all of them together.
        solo: processes that run the model alone, `solo_seconds` each.
        timeout: of one process, in seconds.
        progress: called with (processes done, processes in all).

    Raises:
        UsageError: what is missing on the target, or fewer than six processes.
        MpoError: a process failed.
    """
    device, before = observe(target)
    threads = threads or device.cpu.physical_cores or 1
    alone: list[Alone] = []
    with tempfile.TemporaryDirectory(prefix="mpo-noise-") as name:
        folder = Path(name)
        model, inputs = small_model(folder), {"x": _numbers(ROWS, WIDTH)}
        options = SessionOptions(device=target.device, threads=threads)
        job = model_job([model], [inputs], folder, options, timeout)
        job = asking(job, job="solo", seconds=solo_seconds, floor=SOLO_SAMPLES)

        total = solo + processes
        for done in range(solo // 2):
            alone.append(_alone(target.run(job)))
            _tell(progress, done + 1, total)
        pair = measure_pair(
            target, model, model, inputs, inputs,
            session=options, processes=processes, seconds=seconds, timeout=timeout,
            progress=lambda done, _: _tell(progress, solo // 2 + done, total),
        )  # fmt: skip
        for done in range(solo // 2, solo):
            alone.append(_alone(target.run(job)))
            _tell(progress, processes + done + 1, total)
    taken = [one.busy_cores for one in (before, observe(target)[1]) if one.busy_cores is not None]
    spare = max(0, (device.cpu.cores or threads) - threads)
    return judge(pair.log_ratios, alone, threads, max(taken, default=None), spare)


def _alone(answer: dict[str, Any]) -> Alone:
    """What a process says of the model alone."""
    times = answer.get("samples_ms")
    if not are_times(times):
        raise MpoError(f"The device gave times that are none: {times!s:.80}.")
    low, middle, high = (percentile(times, share) for share in (0.1, 0.5, 0.9))
    return Alone(low, middle, high, answer.get("steady") is True)


def judge(
    log_ratios: Sequence[float],
    alone: Sequence[Alone],
    threads: int,
    busy_cores: float | None = None,
    spare_cores: int = 0,
) -> Noise:
    """The record, with its verdict, from the raw figures.

    Args:
        log_ratios: ln(second / first) of the same model, one per process.
        alone: of each process with the model alone.
        busy_cores: cores that other processes kept busy before or after.
        spare_cores: cores that the figures do not need.
    """
    p90 = [one.p90_ms for one in alone]
    interval = ratio_interval(log_ratios)
    mde = 100 * (minimum_detectable(statistics.stdev(log_ratios), len(log_ratios)) - 1)
    spread = 100 * (max(p90) / min(p90) - 1)
    tail = 100 * (statistics.median(one.p90_ms / one.p10_ms for one in alone) - 1)
    settled = sum(one.steady for one in alone)
    reasons = []
    if mde > MDE_LIMIT:
        reasons.append(
            f"one model against itself varies so much that only a slowdown of {mde:.1f} % would "
            f"be confirmed (at most {MDE_LIMIT:g} %)"
        )
    reasons += _unsteady(p90, spread, tail, settled)
    if (busy_cores or 0) > spare_cores + BUSY_LIMIT:
        reasons.append(
            f"other processes kept {busy_cores:.1f} cores busy, {spare_cores} are to spare"
        )
    return Noise(
        aa_sd_log=statistics.stdev(log_ratios),
        interval=(interval.low, interval.high),
        mde_pct=mde,
        pairs=len(log_ratios),
        solo_p10_ms=tuple(one.p10_ms for one in alone),
        solo_p50_ms=tuple(one.p50_ms for one in alone),
        solo_p90_ms=tuple(p90),
        p90_spread_pct=spread,
        tail_pct=tail,
        busy_cores=busy_cores,
        steady=settled == len(alone),
        threads=threads,
        too_noisy=bool(reasons),
        reasons=tuple(reasons),
    )


def _unsteady(p90: list[float], spread: float, tail: float, settled: int) -> list[str]:
    """What is wrong with absolute times."""
    found = []
    if spread > SPREAD_LIMIT:
        found.append(
            f"p90 of one model was between {min(p90):.3g} and {max(p90):.3g} ms, "
            f"{spread:.0f} % apart (at most {SPREAD_LIMIT:g} %)"
        )
    if tail > TAIL_LIMIT:
        found.append(f"inside a process p90 lies {tail:.0f} % above p10 (at most {TAIL_LIMIT:g} %)")
    if 2 * settled < len(p90):
        found.append(f"only {settled} of {len(p90)} processes settled")
    return found


def small_model(folder: Path) -> Path:
    """Write the model that noise is measured with: matrix products with ReLU between them, all with
    one and the same weights, so that the file stays small."""
    weights = numpy_helper.from_array(_numbers(WIDTH, WIDTH) * (2 / WIDTH) ** 0.5, "w")
    nodes, name = [], "x"
    for layer in range(LAYERS):
        nodes.append(helper.make_node("MatMul", [name, "w"], [f"m{layer}"]))
        name = "y" if layer == LAYERS - 1 else f"r{layer}"
        nodes.append(helper.make_node("Relu", [f"m{layer}"], [name]))
    shape = [ROWS, WIDTH]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    path = folder / "noise.onnx"
    path.write_bytes(model_of(nodes, infos[:1], infos[1:], [weights]))
    return path


def _numbers(*shape: int) -> np.typing.NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress:
        progress(done, total)
