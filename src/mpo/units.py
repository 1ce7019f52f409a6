"""Numbers with units, and back: "50MB" <-> 50_000_000 bytes, "12ms" <-> 12.0 milliseconds.

Sizes: B kB MB GB (powers of 1000), KiB MiB GiB (powers of 1024). Times: us ms s, kept in
milliseconds. How long a run may take: ms s m (or min) h, kept in seconds. Shares: "50%" and "0.5x",
kept as a factor of the original.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from mpo.errors import UsageError

Dimension = Literal["bytes", "ms", "factor", "count"]

BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
COUNTS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9}
_SCALES: dict[str, tuple[float, Dimension]] = {
    **{unit: (scale, "count") for unit, scale in COUNTS.items()},
    **{unit: (scale, "bytes") for unit, scale in BYTES.items()},
    **{unit: (scale, "ms") for unit, scale in MILLISECONDS.items()},
    "%": (1.0, "factor"),
    "x": (1.0, "factor"),
}
_NUMBER = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-z%]*)\s*")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number and what it counts: bytes, milliseconds, a factor of the original, or a bare
    count."""

    value: float
    dimension: Dimension


def parse_quantity(text: str) -> Quantity:
    """Read a number with its unit.

    Raises:
        UsageError: not a finite positive number, or an unknown unit.
    """
    match = _NUMBER.fullmatch(text)
    if not match:
        raise UsageError(
            f"{text!r} is not a number with a unit.", hint="Write it like 50MB, 12ms or 50%."
        )
    number, unit = float(match[1]), match[2]
    found = _SCALES.get(unit)
    if found is None:
        known = ", ".join([*BYTES, *MILLISECONDS, "%", "x"])
        raise UsageError(f"{text!r} has the unknown unit {unit!r}.", hint=f"Known units: {known}.")
    value = number / 100 if unit == "%" else number * found[0]
    if not math.isfinite(value) or value <= 0:  # with its unit: 1e308 GB is no number of bytes
        raise UsageError(
            f"{text!r} must be greater than zero, and a number that can be reckoned with.",
            hint="Write it like 50MB, 12ms or 50%.",
        )
    return Quantity(value, found[1])


def parse_share(text: str) -> float:
    """Read "1%" or "0.01" as a share: 0.01.

    Raises:
        UsageError: no number, a unit other than %, or a bare number of 1 and more, which would mean
            100 % where 1 % may be meant.
    """
    match = _NUMBER.fullmatch(text)
    if not match or match[2] not in ("", "%"):
        raise UsageError(f"{text!r} is not a share.", hint="Write it like 1% or 0.01.")
    number = float(match[1])
    if match[2] == "%":
        return number / 100
    if number >= 1:
        raise UsageError(
            f"{text!r} as a bare share is {number * 100:g} %.",
            hint=f"Write {number:g}% for {number:g} percent, or 0.01 for 1 %.",
        )
    return number


def parse_duration(text: str) -> float:
    """Read "30m", "90 s" or "1.5h" as seconds: how long a run may take.

    Raises:
        UsageError: not a finite number greater than zero, no unit, or an unknown one.
    """
    hint = "Write it like 30m, 90s or 1.5h."
    match = _NUMBER.fullmatch(text)
    if not match:
        raise UsageError(f"{text!r} is not a time.", hint=hint)
    if not match[2]:
        raise UsageError(f"The time {text!r} has no unit.", hint=hint)
    if match[2] not in SECONDS:
        known = ", ".join(SECONDS)
        raise UsageError(
            f"{text!r} has the unknown unit {match[2]!r}.", hint=f"Known units of time: {known}."
        )
    seconds = float(match[1]) * SECONDS[match[2]]
    if not math.isfinite(seconds) or seconds <= 0:
        raise UsageError(f"{text!r} is no time that a run could take.", hint=hint)
    return seconds


def format_bytes(value: float) -> str:
    """1234567 -> "1.23 MB"."""
    return _scaled(value, (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))) or f"{value:.0f} B"


def format_ms(value: float) -> str:
    """0.0123 -> "12.3 us"; 1.5 -> "1.5 ms"; 2500 -> "2.5 s"."""
    return _scaled(value, (("s", 1e3), ("ms", 1.0))) or f"{value * 1e3:.3g} us"


def format_count(value: float) -> str:
    """853018 -> "853 k"; 125485706 -> "125 M"."""
    return _scaled(value, (("G", 10**9), ("M", 10**6), ("k", 10**3))) or f"{value:.0f}"


def _scaled(value: float, scales: tuple[tuple[str, float], ...]) -> str:
    """Three digits in the largest unit that the value reaches once rounded; empty below all."""
    for unit, size in scales:
        number = value / size
        if abs(number) >= 0.9995:
            return f"{number:.0f} {unit}" if abs(number) >= 999.5 else f"{number:.3g} {unit}"
    return ""
