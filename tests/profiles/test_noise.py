"""A device's noise, and what the gate can detect in it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mpo.errors import MpoError, UsageError
from mpo.gate import decide
from mpo.profiles.jobs import Job
from mpo.profiles.local import LocalTarget
from mpo.profiles.noise import Alone, judge, measure_noise
from mpo.records import Noise

QUIET = [0.001, -0.002, 0.0015, -0.0005, 0.002, -0.001, 0.0, 0.0012]


def judged(
    logs: list[float] = QUIET, alone: list[Alone] | None = None, busy: float = 0.0, spare: int = 0
) -> Noise:
    """The verdict on these figures; six alike solo processes unless others are given."""
    return judge(logs, alone or [Alone(9.9, 10.0, 10.2, True)] * 6, 2, busy, spare)


def test_a_quiet_device_is_quiet_enough() -> None:
    found = judged()
    assert not found.too_noisy
    assert found.reasons == ()
    assert found.interval[0] <= 1 <= found.interval[1]
    assert found.mde_pct < 1
    assert (found.pairs, found.p90_spread_pct) == (8, 0)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"logs": [30 * value for value in QUIET]}, "only a slowdown of"),
        (
            {"alone": [Alone(9, 10, 11, True)] * 3 + [Alone(9, 10, 13, True)] * 3},
            "between 11 and 13 ms, 18 % apart",
        ),
        ({"alone": [Alone(5, 9, 12, True)] * 6}, "p90 lies 140 % above p10"),
        ({"alone": [Alone(9.9, 10, 10.2, False)] * 6}, "only 0 of 6 processes settled"),
        ({"busy": 2.0}, "kept 2.0 cores busy, 0 are to spare"),
    ],
)
@pytest.mark.case(33)
def test_a_noisy_device_says_so_with_the_numbers(what: dict[str, Any], words: str) -> None:
    found = judged(**what)
    assert found.too_noisy
    assert len(found.reasons) == 1
    assert words in found.reasons[0]


def test_busy_cores_that_nobody_needs_do_no_harm() -> None:
    assert not judged(busy=2.0, spare=2).too_noisy
    assert judged(busy=2.5, spare=2).too_noisy


def test_the_detectable_slowdown_is_what_the_gate_confirms_nine_times_in_ten() -> None:
    random = np.random.default_rng(5)
    deviation, confirmed, draws = 0.01, 0, 400
    scale = judged().mde_pct / 100 / np.std(QUIET, ddof=1)
    shift = scale * deviation
    for _ in range(draws):
        logs = shift + deviation * random.standard_normal(8)
        confirmed += decide(logs, 1.0)[0] == "FAIL"
    assert 0.86 < confirmed / draws < 0.94


def test_more_pairs_detect_less_and_more_noise_detects_worse() -> None:
    assert judged(QUIET * 3).mde_pct < judged().mde_pct
    assert judged([2 * v for v in QUIET]).mde_pct > 1.9 * judged().mde_pct
    assert math.isfinite(judged(QUIET[:6]).mde_pct)


@pytest.mark.parametrize(
    "times", [None, "fast", [], [1.0, math.nan], [1.0, math.inf], [0.0, 1.0], [-1.0], [[1.0]]]
)
def test_times_that_are_none_are_refused(times: Any) -> None:
    class Lying(LocalTarget):
        """This machine, with other times."""

        def run(self, job: Job) -> dict[str, Any]:
            """The answer."""
            if job.request["job"] == "solo":
                return {"samples_ms": times, "steady": True}
            return super().run(job)

    with pytest.raises(MpoError, match="times that are none") as caught:
        measure_noise(Lying(), threads=1, solo=2)
    assert caught.value.exit_code == 1


def test_too_few_processes_are_refused() -> None:
    with pytest.raises(UsageError, match="5 processes"):
        measure_noise(LocalTarget(), threads=1, processes=5, solo=0)


def test_a_model_is_measured_against_itself_here() -> None:
    asked: list[str] = []

    class Watched(LocalTarget):
        """This machine, its jobs counted."""

        def run(self, job: Job) -> dict[str, Any]:
            """The answer."""
            asked.append(str(job.request["job"]))
            return super().run(job)

    told: list[tuple[int, int]] = []
    found = measure_noise(
        Watched(), threads=1, processes=6, seconds=0.6, solo=2, solo_seconds=0.1,
        progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert found.pairs == 6
    assert len(found.solo_p90_ms) == 2
    assert 0 < found.interval[0] <= found.interval[1]
    assert found.threads == 1
    assert told == [(at, 8) for at in range(1, 9)]
    assert [name for name in asked if name in ("solo", "turns")] == [
        "solo", *["turns"] * 6, "solo",
    ]  # fmt: skip
