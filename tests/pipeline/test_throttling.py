"""Pairs of a throttled GPU, from the device's answer to the verdict; a script answers the jobs."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from mpo.pipeline.bench.benching import bench
from mpo.pipeline.bench.naming import Asked
from mpo.pipeline.bench.phases import Effort
from mpo.profiles.jobs import Job
from mpo.records import Bench
from mpo.render.bench import markdown, terminal
from mpo.rules import parse_rules

CLEAN, HOT = "1980, 60, 300.0, 0x0", "1200, 92, 300.0, 0x0000000000000040"
QUIET = list(np.linspace(-0.004, 0.004, 16))
Benched = Callable[[Callable[[int], str | None]], Bench]


@pytest.fixture
def benched(tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Benched:
    """A bench whose processes in turn have this GPU line each; a hot one makes the candidate look
    20 % slower."""
    old, new = (tiny.chain(tmp_path / f"{name}.onnx", 2) for name in ("baseline", "candidate"))

    def run(line: Callable[[int], str | None]) -> Bench:
        count = 0

        def answer(job: Job) -> dict[str, Any] | None:
            nonlocal count
            if job.request.get("job") != "turns":
                return tiny.quiet_solo(job)
            told, slow = line(count), 0.2 if line(count) == HOT else QUIET[count % 16]
            count += 1
            names = job.request["models"]
            p10 = [math.exp(slow) if "candidate" in name else 1.0 for name in names]
            return {"p10_ms": p10, **({"telemetry": [told]} if told else {})}

        target = tiny.Scripted(answer)
        monkeypatch.setattr("mpo.pipeline.bench.benching.opened", lambda names: _Opened(target))
        asked = Asked(
            model=new, baseline=old, targets=("local",), rules=parse_rules("latency>3%"),
            effort=Effort(seconds=0.05, processes=3, pairs=8), threads=1, batch=4,
        )  # fmt: skip
        return bench(asked, lambda what, done, total: None)

    return run


class _Opened:
    def __init__(self, target: Any) -> None:
        self.target = target

    def __enter__(self) -> tuple[Any]:
        return (self.target,)

    def __exit__(self, *error: object) -> None:
        """Nothing to close."""


def printed(found: Bench) -> str:
    out = io.StringIO()
    Console(file=out, width=200, color_system=None).print(terminal(found))
    return out.getvalue()


def codes(found: Bench) -> set[str]:
    return {one.code for one in found.warnings}


def test_clean_pairs_pass_and_the_table_tells_the_clock(benched: Benched) -> None:
    found = benched(lambda place: CLEAN)
    assert found.verdict == "pass"
    assert len(found.runs[0].pairs_telemetry) == len(found.runs[0].pairs_ms) == 8
    assert "gpu-throttled" not in codes(found)
    assert "0 of 8" in printed(found)
    assert "1980 to 1980 MHz" in markdown(found)


@pytest.mark.case(34)
def test_a_throttled_pair_is_kept_flagged_left_out_and_measured_again(benched: Benched) -> None:
    found = benched(lambda place: HOT if place in (2, 5) else CLEAN)
    (rule,) = [one for one in found.comparisons if one.rule]
    assert (found.verdict, rule.pairs) == ("pass", 8)
    assert rule.estimate == pytest.approx(0, abs=0.5)
    runs = found.runs[0]
    assert len(runs.pairs_ms) == 10
    flags = [one is not None and one.throttled for one in runs.pairs_telemetry]
    assert [place for place, flag in enumerate(flags) if flag] == [2, 5]
    (warning,) = [one for one in found.warnings if one.code == "gpu-throttled"]
    assert "2 of 10 pairs (hardware thermal slowdown, SM clock 1200 to 1200 MHz)" in warning.detail
    assert "nvidia-smi --lock-gpu-clocks" in warning.remedy
    assert "2 of 10" in printed(found)


@pytest.mark.case(34)
def test_more_than_a_quarter_throttled_decides_nothing(benched: Benched) -> None:
    found = benched(lambda place: HOT if place % 2 else CLEAN)
    (rule,) = [one for one in found.comparisons if one.rule]
    assert found.verdict == "inconclusive"
    assert len(found.runs[0].pairs_ms) == 10  # and no more: measuring ends
    assert "throttled during 5 of 10, more than a quarter" in rule.reason


def test_a_device_that_tells_nothing_is_as_it_was(benched: Benched) -> None:
    found = benched(lambda place: None)
    assert found.verdict == "pass"
    assert found.runs[0].pairs_telemetry == ()
    assert "Throttled pairs" not in printed(found)


def test_the_power_cap_is_told_and_decides(benched: Benched) -> None:
    found = benched(lambda place: "1900, 70, 700.0, 0x0000000000000004")
    assert found.verdict == "pass"
    assert "gpu-power-cap" in codes(found)
