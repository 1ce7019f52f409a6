"""A GPU's samples, from a stand-in for nvidia-smi that prints what the real one prints."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpo.profiles import gpuwatch
from mpo.profiles.graphs import empty_model
from mpo.profiles.jobs import Job
from mpo.profiles.local import LocalTarget
from mpo.profiles.modeljobs import asking, model_job, watched_turns
from mpo.profiles.telemetry import read_telemetry
from mpo.records import SessionOptions

CLEAN = "1980, 45, 310.55, 0x0000000000000000"
HOT = "1215, 91, 420.10, 0x0000000000000040"
ON_CPU = """
import onnxruntime
def open_model(path, session):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
"""
Tool = Callable[[str], Path]


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """Put an nvidia-smi with this body first on PATH."""

    def install(body: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        script = folder / "nvidia-smi"
        script.write_text(f'#!/bin/sh\necho "$$ $*" >> {tmp_path}/asked\n{body}\n')
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return tmp_path / "asked"

    return install


def repeating(*lines: str) -> str:
    shown = "; ".join(f"echo '{line}'; sleep 0.02" for line in lines)
    return f"while true; do {shown}; done"


def job_of(tmp_path: Path, device: str = "cuda:0") -> Job:
    """Two models in turn that a CPU runs, for a process that believes it is on a GPU."""
    model, adapter = tmp_path / "m.onnx", tmp_path / "adapter.py"
    model.write_bytes(empty_model())
    adapter.write_text(ON_CPU)
    feeds = {"x": np.zeros(1, np.float32)}
    job = model_job([model] * 2, [feeds] * 2, tmp_path, SessionOptions(device=device), 60.0)
    return replace(
        job,
        files={**job.files, "adapter.py": adapter},
        request={**job.request, "adapter": "adapter.py"},
    )


def turns(job: Job) -> Any:
    return watched_turns(LocalTarget("cuda:0"), job, [0, 1], 0.2, 20, seed=0)


def gone(process: int) -> bool:
    """Whether a process has ended."""
    for _ in range(100):
        if not Path(f"/proc/{process}").exists():
            return True
        time.sleep(0.05)
    return False


def test_a_clean_gpu_is_sampled_while_models_take_turns(tmp_path: Path, tool: Tool) -> None:
    asked = tool(repeating(CLEAN))
    times, gpu = turns(job_of(tmp_path))
    assert len(times) == 2
    assert gpu.samples >= 1
    assert (gpu.sm_clock_mhz, gpu.temperature_c, gpu.power_w) == ((1980, 1980), 45, 310.55)
    assert (gpu.reasons, gpu.throttled) == ((), False)
    process, words = asked.read_text().split(" ", 1)
    assert "--loop-ms=100" in words
    assert "clocks.sm,temperature.gpu,power.draw,clocks_event_reasons.active" in words
    assert gone(int(process))


def test_a_hot_gpu_is_told_by_a_model_alone_too(tmp_path: Path, tool: Tool) -> None:
    tool(repeating(CLEAN, HOT))
    job = job_of(tmp_path)
    job = asking(job, job="solo", seconds=0.3, floor=20, models=["model0/m.onnx"])
    answer = LocalTarget("cuda:0").run(job)
    gpu = read_telemetry(answer["telemetry"])
    assert gpu is not None
    assert gpu.throttled
    assert gpu.reasons == ("hardware thermal slowdown",)
    assert gpu.sm_clock_mhz == (1215, 1980)


def test_an_older_driver_is_asked_by_the_older_name(tmp_path: Path, tool: Tool) -> None:
    refusal = 'Field "clocks_event_reasons.active" is not a valid field to query.'
    tool(f"case \"$*\" in *event*) echo '{refusal}'; exit 2;; esac\n{repeating(CLEAN)}")
    _, gpu = turns(job_of(tmp_path))
    assert gpu.samples >= 1


@pytest.mark.parametrize(
    "body",
    [
        "echo 'NVIDIA-SMI has failed because it could not talk to the driver.'; exit 9",
        "exit 6",
        repeating("a, b, c, d", "[N/A], [N/A], [N/A], [N/A]", "1, 2", "\\377\\376,,,"),
    ],
)
def test_garbage_and_refusals_are_no_samples(tmp_path: Path, tool: Tool, body: str) -> None:
    tool(body)
    times, gpu = turns(job_of(tmp_path))
    assert len(times) == 2
    assert gpu is None


def test_a_tool_that_hangs_is_ended_and_not_waited_for(
    tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tool("exec sleep 300")
    monkeypatch.setattr(gpuwatch, "START_S", 0.5)
    watch = gpuwatch.Watch("cuda:0")
    watch.start()
    assert watch.stop() == []
    (line,) = asked.read_text().splitlines()  # no second try
    assert gone(int(line.split()[0]))


def test_without_the_tool_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    watch = gpuwatch.Watch("cuda:0")
    watch.start()
    assert watch.stop() == []


def test_on_a_cpu_nobody_asks(tmp_path: Path, tool: Tool) -> None:
    asked = tool(repeating(HOT))
    _, gpu = turns(job_of(tmp_path, "cpu"))
    assert gpu is None
    assert not asked.exists()


@pytest.mark.parametrize(
    ("lines", "throttled"),
    [
        ([CLEAN, "1800, 45, 310, 0x0"], False),  # 9 % less
        ([CLEAN, "1700, 45, 310, 0x0"], True),  # 14 % less
        (["1980, 45, 310, 0x0000000000000001"], False),  # idle
        (["1980, 45, 310, 0x0000000000000002"], False),  # clocks that somebody set
        (["1980, 45, 700, 0x0000000000000004"], False),  # the power cap, both models alike
        (["1980, 45, 310, 0x0000000000000008"], True),  # hardware slowdown
        (["1980, 87, 310, 0x0000000000000020"], True),  # software thermal slowdown
        (["1980, 45, 310, 0x0000000000000080"], True),  # power brake
        (["[N/A], 45, [Not Supported], [N/A]"], False),
    ],
)
def test_what_counts_as_throttled(lines: list[str], throttled: bool) -> None:
    found = read_telemetry(lines)
    assert found is not None
    assert found.throttled is throttled


@pytest.mark.parametrize(
    "told",
    [None, "1980, 45, 310, 0x0", 7, [], [3], ["nan, -1, 1e999, 0xzz"], ["0, 0x" + "f" * 99]],
)
def test_a_device_s_answer_is_not_believed_unseen(told: Any) -> None:
    assert read_telemetry(told) is None
