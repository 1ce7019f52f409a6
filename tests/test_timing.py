"""The clock and its words."""

from __future__ import annotations

import math
import time

import pytest

from mpo.timing import Deadline, Stages, Stopwatch, format_seconds, now_ns


def test_the_clock_never_goes_back() -> None:
    times = [now_ns() for _ in range(1000)]
    assert times == sorted(times)


def test_a_stopwatch_counts_seconds() -> None:
    watch = Stopwatch()
    time.sleep(0.02)
    assert 0.02 <= watch.seconds < 2


def wait_and_fail() -> None:
    time.sleep(0.01)
    raise OSError("Invalid")


def test_a_stage_entered_twice_adds_up_even_when_it_raises() -> None:
    stages = Stages()
    with stages.timed("a"):
        time.sleep(0.01)
    with pytest.raises(OSError, match="Invalid"), stages.timed("a"):
        wait_and_fail()
    with stages.timed("b"):
        pass
    assert list(stages.seconds) == ["a", "b"]
    assert stages.seconds["a"] >= 0.02


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.44, "0.4 s"),
        (9.96, "10 s"),
        (59.6, "1 min 0 s"),
        (75, "1 min 15 s"),
        (7300, "2 h 1 min"),
    ],
)
def test_seconds_are_written_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_a_deadline_ends_when_only_its_reserve_is_left() -> None:
    assert Deadline().left == math.inf
    assert not Deadline().over()
    hour = Deadline(3600)
    assert 3590 < hour.left <= 3600
    hour.keep(3600)
    assert hour.over()
    hour.keep(10)
    assert not hour.over()
