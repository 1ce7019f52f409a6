"""The only clock: monotonic nanoseconds, seconds of stages, and deadlines."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator


def now_ns() -> int:
    """Nanoseconds on a monotonic clock; only differences mean something."""
    return time.perf_counter_ns()


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = now_ns()

    @property
    def seconds(self) -> float:
        """Seconds until now."""
        return (now_ns() - self._start) / 1e9


class Stages:
    """Seconds per named stage; a stage that is entered again adds up.

    Attributes:
        seconds: by stage, in the order of their first start.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count the time inside the block, also when it raises."""
        watch = Stopwatch()
        self.seconds.setdefault(name, 0.0)
        try:
            yield
        finally:
            self.seconds[name] += watch.seconds


class Deadline:
    """When work shall end: so many seconds after it was made, less what is kept in reserve for what
    comes after the work.

    Args:
        seconds: from now; None for no end.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = seconds
        self._watch, self._reserve = Stopwatch(), 0.0

    def keep(self, seconds: float) -> None:
        """Keep so much in reserve, in the place of what was kept before."""
        self._reserve = seconds

    @property
    def left(self) -> float:
        """Seconds until work shall end; infinite without an end, negative after it."""
        if self.seconds is None:
            return math.inf
        return self.seconds - self._reserve - self._watch.seconds

    def over(self) -> bool:
        """Whether work shall end now."""
        return self.left <= 0


def format_seconds(seconds: float) -> str:
    """0.4 -> "0.4 s"; 75 -> "1 min 15 s"; 7300 -> "2 h 2 min"."""
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
