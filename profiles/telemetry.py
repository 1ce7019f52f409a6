"""What a GPU's samples say: its clock, heat and power while a model was timed, and whether figures
taken then are to be doubted. Pure: lines of gpuwatch.py in, a record out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpo.profiles.probe_state import NVML_BITS, number
from mpo.records import GpuTelemetry

WATCH = Path(__file__).with_name("gpuwatch.py")
# A power cap alone is how a GPU under full load normally runs: it is told, and meets both models
# alike. Heat, the board's own slowdown and its power brake come and go.
STEADY_REASONS = frozenset({NVML_BITS[0x4]})
FALL = 0.1  # of the SM clock, from the highest sample of a process to the lowest
MOST_BITS = 64


@dataclass(frozen=True)
class _Sample:
    clock_mhz: float | None
    temperature_c: float | None
    power_w: float | None
    bits: int | None


def read_telemetry(lines: Any) -> GpuTelemetry | None:
    """The record of one process's samples; None when nothing among the lines is a sample.

    Args:
        lines: "CLOCK, DEGREES, WATTS, 0xBITS" each, as the device sent them; a figure that the
            driver does not tell ("[N/A]") is unknown, a line that is no sample is left out.
    """
    if not isinstance(lines, list):
        return None
    samples = [one for line in lines if (one := _sample(line)) is not None]
    if not samples:
        return None
    clocks = [one.clock_mhz for one in samples if one.clock_mhz is not None]
    bits = 0
    for one in samples:
        bits |= one.bits or 0
    reasons = tuple(name for bit, name in NVML_BITS.items() if bits & bit)
    fell = bool(clocks) and min(clocks) < (1 - FALL) * max(clocks)
    return GpuTelemetry(
        samples=len(samples),
        sm_clock_mhz=(min(clocks), max(clocks)) if clocks else None,
        temperature_c=_highest(one.temperature_c for one in samples),
        power_w=_highest(one.power_w for one in samples),
        reasons=reasons,
        throttled=fell or not STEADY_REASONS.issuperset(reasons),
    )


def _sample(line: object) -> _Sample | None:
    words = [word.strip() for word in line.split(",")] if isinstance(line, str) else []
    if len(words) != 4:
        return None
    clock, degrees, watts = (_figure(word) for word in words[:3])
    found = _Sample(clock, degrees, watts, _bits(words[3]))
    return None if found == _Sample(None, None, None, None) else found


def _figure(word: str) -> float | None:
    """A figure that a GPU can have: neither negative nor beyond all measure, nor NaN."""
    value = number(word)
    return value if value is not None and 0 <= value < 1e5 else None


def _bits(word: str) -> int | None:
    if not word.startswith("0x"):
        return None
    try:
        value = int(word, 16)
    except ValueError:
        return None
    return value if value.bit_length() <= MOST_BITS else None


def _highest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
