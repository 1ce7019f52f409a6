"""What a device can do at most: measured here, and answers that are no measurement."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest

from mpo.errors import MpoError, UsageError
from mpo.profiles import limits
from mpo.profiles.graphs import unary_model
from mpo.profiles.jobs import Job
from mpo.profiles.limits import measure_limits, product_model
from mpo.profiles.local import LocalTarget

GOOD = {
    "stream": {"copy": 1e9, "triad": 2e9},
    "flops": {"fp32": 1e10, "int8": 3e10},
    "numpy_flops": 9e9,
    "timer_ns": 50.0,
    "overhead_us": 7.0,
}


class Telling:
    """A target that answers one job after the other with these words."""

    name, device = "somewhere", "cpu"

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers = list(answers)

    def run(self, job: Job) -> dict[str, Any]:
        """The next words."""
        return self.answers.pop(0)

    def close(self) -> None:
        """Nothing to leave."""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The device's script as a module."""
    spec = importlib.util.spec_from_file_location("probe_limits", limits.PROBE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_this_machine_s_limits_are_measured_and_plausible() -> None:
    told = []
    found = measure_limits(
        LocalTarget(), threads=1, processes=2, seconds=0.02,
        progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert told == [(1, 2), (2, 2)]
    assert found.threads == 1
    assert found.memory_bandwidth_bytes_s is not None
    assert 1e8 < found.memory_bandwidth_bytes_s < 1e12
    assert set(found.peak_flops) >= {"fp32"}
    assert 1e8 < found.peak_flops["fp32"] < 1e13
    assert found.call_overhead_us is not None
    assert 0.5 < found.call_overhead_us < 10_000
    assert found.timer_resolution_ns is not None
    assert 0 < found.timer_resolution_ns < 1e6
    low, high = found.intervals["peak_flops.fp32"]
    assert low <= high == found.peak_flops["fp32"]


def test_a_figure_is_the_best_of_its_processes_with_their_range() -> None:
    slower = {**GOOD, "stream": {"copy": 5e8}, "overhead_us": 9.0, "timer_ns": 70.0}
    found = measure_limits(Telling(slower, GOOD, slower), threads=2)
    assert found.memory_bandwidth_bytes_s == 2e9
    assert found.intervals["memory_bandwidth_bytes_s"] == (5e8, 2e9)
    assert found.call_overhead_us == 9.0
    assert found.timer_resolution_ns == 50.0
    assert found.peak_flops == {"fp32": 1e10, "int8": 3e10}


def test_a_precision_that_a_device_lacks_is_left_out() -> None:
    found = measure_limits(Telling({**GOOD, "flops": {"fp32": 1e10}}), threads=1, processes=1)
    assert found.peak_flops == {"fp32": 1e10}


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {**GOOD, "flops": {}},
        {**GOOD, "flops": {"fp32": math.nan}},
        {**GOOD, "flops": {"fp32": 0}},
        {**GOOD, "timer_ns": "soon"},
        {**GOOD, "stream": {}},
        {**GOOD, "stream": 5},
        {**GOOD, "overhead_us": -1.0},
        {**GOOD, "numpy_flops": None},
    ],
)
def test_figures_that_are_none_are_refused(answer: dict[str, Any]) -> None:
    with pytest.raises(MpoError, match=r"limits are incomplete|gave no figure") as caught:
        measure_limits(Telling(answer), threads=1)
    assert caught.value.exit_code == 1


def test_a_gpu_without_its_runtime_is_refused_with_the_command_that_helps() -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(UsageError, match="no CUDAExecutionProvider for cuda:0") as caught:
        measure_limits(LocalTarget("cuda:0"), threads=1, processes=1)
    assert "pip install onnxruntime-gpu" in caught.value.hint


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_product_s_file_multiplies_squares_of_any_side(precision: str) -> None:
    session = onnxruntime.InferenceSession(product_model(precision))
    kind = {"fp32": np.float32, "int8": np.int8}[precision]
    for side in (3, 8):
        a = (np.arange(side * side).reshape(side, side) % 5).astype(kind)
        (found,) = session.run(None, {"a": a, "b": a})
        assert (found == a.astype(np.int64) @ a.astype(np.int64)).all()


def test_the_copied_vector_s_file_runs_at_any_length() -> None:
    session = onnxruntime.InferenceSession(unary_model("Neg", "n"))
    assert (session.run(None, {"x": np.ones(7, np.float32)})[0] == -1).all()


def test_streamed_arrays_are_far_larger_than_the_caches(script: ModuleType, tmp_path: Path) -> None:
    assert script.array_bytes() >= min(script.ARRAY[0], script.CACHES * script.cache_bytes())
    index = tmp_path / "sys/devices/system/cpu/cpu0/cache"
    for at, (kind, size) in enumerate((("Data", "32K"), ("Instruction", "48K"), ("Unified", "2M"))):
        (index / f"index{at}").mkdir(parents=True)
        (index / f"index{at}/type").write_text(f"{kind}\n")
        (index / f"index{at}/size").write_text(f"{size}\n")
    assert script.cache_bytes(tmp_path) == (32 << 10) + (2 << 20)
    assert script.cache_bytes(tmp_path / "none") == 0


def test_a_triad_s_tiles_cover_the_whole_part(script: ModuleType) -> None:
    size = 2 * script.TILE + 5
    a, b, c = np.zeros(size, np.float32), np.full(size, 1, np.float32), np.full(size, 2, np.float32)
    script.triad_part(a, b, c)
    assert (a == 7).all()


def test_a_product_grows_until_a_call_is_long_enough(script: ModuleType) -> None:
    sides: list[int] = []

    def make(side: int) -> Any:
        sides.append(side)
        return lambda: sum(range(side * side))  # 2 ns and more an element

    assert script.product(make, 0.01) > 0
    assert sides == list(script.SIDES[: len(sides)])
    assert len(sides) > 1
