"""Which of a bench's pairs were measured while the GPU was throttled. They stay in the raw figures
and out of the verdicts; when they are more than a quarter, nothing is decided (MEASURING.md 1.5).
Pure: records in, records out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mpo.records import BenchRuns, DeviceWarning, GpuTelemetry, Which
from mpo.rules import Rule

MOST = 0.25  # of the pairs
SPARE = 3  # one in so many pairs is measured again at most: a quarter of all then
BOTH: tuple[Which, ...] = ("baseline", "candidate")


def throttled_pairs(
    metric: str, runs: BenchRuns, models: Sequence[Which] = BOTH
) -> tuple[bool, ...]:
    """Of each pair that this metric's ratio is taken from, whether it is to be left out; memory
    does not depend on clocks.

    Args:
        models: of which processes alone are paired; with one of them, its processes themselves.
    """
    if not metric.startswith("latency"):
        return ()
    if metric == "latency" and runs.pairs_ms and len(models) == 2:
        return tuple(map(_throttled, runs.pairs_telemetry))
    alone = [runs.alone[which] for which in models if which in runs.alone]
    return tuple(
        any(_throttled(one.telemetry) for one in together) for together in zip(*alone, strict=False)
    )


def flags_of(rule: Rule, runs: BenchRuns) -> tuple[bool, ...]:
    """Of each of a rule's figures, whether it is to be left out."""
    models: tuple[Which, ...] = ("candidate",) if rule.kind == "absolute" else BOTH
    return throttled_pairs(rule.metric, runs, models)


def too_many(flags: Sequence[bool]) -> bool:
    """Whether so many pairs were throttled that the others are no fair sample."""
    return sum(flags) > MOST * len(flags)


def unthrottled(values: Sequence[float], flags: Sequence[bool]) -> list[float]:
    """The values that may decide; all of them when too many would be left out, and nothing may."""
    if too_many(flags) or not flags:
        return list(values)
    return [value for value, flag in zip(values, flags, strict=True) if not flag]


def throttle_doubts(runs: BenchRuns) -> Iterator[DeviceWarning]:
    """What a reader should know of the GPU's state meanwhile."""
    flags = throttled_pairs("latency", runs)
    held = [one for one in telemetry_of(runs) if one.throttled]
    if held:
        where = f"{sum(flags)} of {len(flags)} pairs" if any(flags) else "processes alone"
        yield DeviceWarning(
            code="gpu-throttled",
            detail=f"{runs.target}: the GPU was throttled during {where} ({_why(held)}); throttled "
            "pairs are kept in the raw figures and left out of the verdict.",
            remedy="Cool the GPU and give it enough power, or hold its clock where it can stay: "
            "nvidia-smi --lock-gpu-clocks; then measure again.",
        )
    capped = [one for one in telemetry_of(runs) if one.reasons and not one.throttled]
    if capped:
        yield DeviceWarning(
            code="gpu-power-cap",
            detail=f"{runs.target}: the GPU ran at its power cap in {len(capped)} of "
            f"{len(telemetry_of(runs))} processes.",
            remedy="Ratios hold, as both models meet the same cap; absolute latencies hold for "
            "this cap only.",
        )


def telemetry_of(runs: BenchRuns) -> tuple[GpuTelemetry, ...]:
    """What the GPU told during every process, alone and in turn."""
    alone = [one.telemetry for which in BOTH for one in runs.alone.get(which, ())]
    return tuple(one for one in (*alone, *runs.pairs_telemetry) if one is not None)


def _throttled(one: GpuTelemetry | None) -> bool:
    return one is not None and one.throttled


def _why(held: Sequence[GpuTelemetry]) -> str:
    reasons = dict.fromkeys(reason for one in held for reason in one.reasons)
    clocks = [one.sm_clock_mhz for one in held if one.sm_clock_mhz is not None]
    told = list(reasons)
    if clocks:
        low, high = min(low for low, _ in clocks), max(high for _, high in clocks)
        told.append(f"SM clock {low:.0f} to {high:.0f} MHz")
    return ", ".join(told)
