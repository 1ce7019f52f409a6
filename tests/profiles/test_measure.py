"""Measuring real ONNX files in real child processes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper

from mpo.errors import MpoError, RefusedError, UsageError
from mpo.profiles.jobs import Job, thread_counts
from mpo.profiles.local import LocalTarget
from mpo.profiles.measure import measure_pair, measure_solo
from mpo.profiles.modeljobs import asking, model_job
from mpo.records import SessionOptions

MIB = 2**20
LOCAL = LocalTarget()


def save(
    path: Path, nodes: list[NodeProto], inputs: dict[str, int], weights: list[TensorProto]
) -> Path:
    """A graph with rank-1 or rank-2 inputs (element type by name) and the float output "y"."""
    given = [
        helper.make_tensor_value_info(name, kind, ["n"] if kind == TensorProto.INT64 else ["n", 64])
        for name, kind in inputs.items()
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", given, [output], weights)
    opset = [helper.make_opsetid("", 20)]
    path.write_bytes(
        helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    )
    return path


def chain(path: Path, layers: int) -> Path:
    """`layers` products with 64 x 64 matrices that no optimizer merges."""
    random = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for layer in range(layers):
        name = f"w{layer}"
        values = random.normal(0, 0.1, (64, 64)).astype(np.float32)
        weights.append(helper.make_tensor(name, TensorProto.FLOAT, [64, 64], values.ravel()))
        end = "y" if layer == layers - 1 else f"t{layer}"
        nodes += [
            helper.make_node("MatMul", [last, name], [f"m{layer}"]),
            helper.make_node("Tanh", [f"m{layer}"], [end]),
        ]
        last = end
    return save(path, nodes, {"x": TensorProto.FLOAT}, weights)


def hungry(path: Path) -> Path:
    """Holds as many floats as its input says, while it runs."""
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["full"]),
        helper.make_node("ReduceMax", ["full"], ["y"], keepdims=0),
    ]
    return save(path, nodes, {"shape": TensorProto.INT64}, [])


ROWS = {"x": np.ones((64, 64), np.float32)}


def test_a_model_that_holds_256_mib_is_measured_within_three_per_cent(tmp_path: Path) -> None:
    ballast = np.ones(600 * MIB // 8)  # this process's own memory must not show
    inputs = {"shape": np.array([64 * MIB], np.int64)}
    session = SessionOptions(arena=False, mmap_threshold_bytes=131072)  # an arena holds twice that
    solo = measure_solo(
        LOCAL, hungry(tmp_path / "m.onnx"), inputs, session=session, processes=1, seconds=0
    )
    assert solo.peak_memory_bytes == pytest.approx(256 * MIB, rel=0.03)
    assert solo.load_memory_bytes < 5 * MIB
    assert ballast[-1] == 1


def test_where_the_system_tells_no_peak_it_is_sampled_and_labelled(tmp_path: Path) -> None:
    """As on systems without /proc: the same 256 MiB, seen by `ps`."""
    session = SessionOptions(arena=False, mmap_threshold_bytes=131072)
    inputs = {"shape": np.array([64 * MIB], np.int64)}
    paths = {"model": hungry(tmp_path / "m.onnx"), "empty": chain(tmp_path / "e.onnx", 1)}
    found = {}
    for name, feeds in (("model", inputs), ("empty", ROWS)):
        job = model_job([paths[name]], [feeds], tmp_path, session, 120.0)
        found[name] = LOCAL.run(asking(job, job="solo", seconds=0.0, floor=4, sampled=True))
        assert found[name]["memory_method"] == "rss-sampled"
    held = found["model"]["peak"] - found["empty"]["peak"]
    assert held == pytest.approx(256 * MIB, rel=0.05)
    assert found["model"]["load_peak"] < found["model"]["peak"] - 200 * MIB


def test_sampled_memory_is_told_as_such(tmp_path: Path) -> None:
    answer = {"samples_ms": [1.0], "load_ms": 1, "first_ms": 1, "steady": True}
    answer |= {"load_peak": 5, "peak": 7, "memory_method": "rss-sampled"}
    target = Scripted(lambda job: answer)
    assert measure_solo(target, chain(tmp_path / "m.onnx", 1), ROWS).memory_method == "rss-sampled"


def test_solo_figures_hang_together(tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    solo = measure_solo(
        LOCAL,
        chain(tmp_path / "m.onnx", 8),
        ROWS,
        processes=2,
        seconds=0.1,
        progress=lambda now, total: done.append((now, total)),
    )
    assert len(solo.samples_ms) >= 100
    assert min(solo.samples_ms) <= solo.p50_ms <= solo.p90_ms <= max(solo.samples_ms)
    assert 0 <= solo.load_memory_bytes <= solo.peak_memory_bytes
    assert solo.load_ms > 0
    assert solo.first_ms > 0
    assert done == [(1, 2), (2, 2)]


def test_half_the_work_takes_about_half_the_time_and_the_same_work_the_same(tmp_path: Path) -> None:
    whole, half = chain(tmp_path / "a.onnx", 16), chain(tmp_path / "b.onnx", 8)
    less = measure_pair(LOCAL, whole, half, ROWS, ROWS, processes=6, seconds=1.2)
    assert 0.4 < less.ratio.estimate < 0.65
    assert less.ratio.ci95[0] <= less.ratio.estimate <= less.ratio.ci95[1] < 0.8
    assert less.ratio.pairs == len(less.p10_ms) == 6
    for log, (first, second) in zip(less.log_ratios, less.p10_ms, strict=True):
        assert log == pytest.approx(math.log(second / first))
    same = measure_pair(LOCAL, whole, whole, ROWS, ROWS, processes=6, seconds=1.2)
    assert same.ratio.estimate == pytest.approx(1, abs=0.1)


def test_inputs_may_come_as_a_file_and_may_have_any_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=ROWS["x"])
    path = chain(tmp_path / "m.onnx", 2)
    solo = measure_solo(LOCAL, path, tmp_path / "in.npz", processes=1, seconds=0.01, samples=5)
    assert len(solo.samples_ms) >= 5
    node = helper.make_node("Tanh", ["file"], ["y"])
    named = save(tmp_path / "f.onnx", [node], {"file": TensorProto.FLOAT}, [])
    assert measure_solo(LOCAL, named, {"file": ROWS["x"]}, processes=1, seconds=0).p50_ms > 0


def test_what_is_missing_or_senseless_is_a_usage_error(tmp_path: Path) -> None:
    path = chain(tmp_path / "m.onnx", 1)
    with pytest.raises(UsageError, match="no ONNX file"):
        measure_solo(LOCAL, tmp_path / "no.onnx", ROWS)
    with pytest.raises(UsageError, match="no input file"):
        measure_solo(LOCAL, path, tmp_path / "no.npz")
    with pytest.raises(UsageError, match="0 threads"):
        measure_solo(LOCAL, path, ROWS, session=SessionOptions(threads=0))
    with pytest.raises(UsageError, match="5 processes"):
        measure_pair(LOCAL, path, path, ROWS, ROWS, processes=5)


def test_a_file_that_is_no_model_ends_with_the_runtimes_own_words(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"this is no model")
    with pytest.raises(MpoError, match=r"broken\.onnx ended with code 1.*INVALID_PROTOBUF"):
        measure_solo(LOCAL, path, ROWS, processes=1)


@pytest.mark.case(31)
def test_a_child_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    path = chain(tmp_path / "slow.onnx", 2)
    with pytest.raises(MpoError, match=r"slow\.onnx did not end within 1 s"):
        measure_solo(LOCAL, path, ROWS, processes=1, seconds=60, timeout=1)


@pytest.mark.case(30)
def test_a_child_that_crashes_is_named_with_its_signal(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    with pytest.raises(MpoError, match=r"m\.onnx was ended by SIGSEGV"):
        LOCAL.run(Job("measured m.onnx", script, {}, timeout=20))


def test_a_child_without_an_answer_is_an_error(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text("import sys\nsys.stdin.read()\n")
    with pytest.raises(MpoError, match="gave no answer"):
        LOCAL.run(Job("measured m.onnx", script, {}, timeout=20))


class Scripted:
    """A target that answers from a function and keeps the jobs it was asked."""

    name, device = "scripted", "cpu"

    def __init__(self, answer: Callable[[Job], dict[str, Any]]) -> None:
        self.answer, self.jobs = answer, list[Job]()

    def run(self, job: Job) -> dict[str, Any]:
        """The function's answer."""
        self.jobs.append(job)
        return self.answer(job)

    def close(self) -> None:
        """Nothing to leave."""


def test_where_the_system_tells_no_peak_memory_that_is_said(tmp_path: Path) -> None:
    answer = {"samples_ms": [1.0], "load_ms": 1, "first_ms": 1, "steady": True}
    answer |= {"load_peak": None, "peak": None}
    with pytest.raises(MpoError, match="Peak memory is unavailable"):
        measure_solo(Scripted(lambda job: answer), chain(tmp_path / "m.onnx", 1), ROWS)


def test_solo_times_that_are_none_are_refused(tmp_path: Path) -> None:
    path = chain(tmp_path / "m.onnx", 1)
    for times in (None, [], ["1"], [0.0], [1.0, -3.0], [True]):
        answer = {"samples_ms": times, "load_ms": 1, "first_ms": 1, "steady": True}
        answer |= {"load_peak": 5, "peak": 7}
        target = Scripted(lambda job, answer=answer: answer)  # type: ignore[misc]
        with pytest.raises(RefusedError, match="latencies that are none"):
            measure_solo(target, path, ROWS)


def test_times_that_are_none_are_refused(tmp_path: Path) -> None:
    path = chain(tmp_path / "m.onnx", 1)
    for times in ([float("nan"), 1.0], [1.0, 0.0], [1.0]):
        target = Scripted(lambda job, times=times: {"p10_ms": times})  # type: ignore[misc]
        with pytest.raises(MpoError, match="times that are none"):
            measure_pair(target, path, path, ROWS, ROWS)


def test_the_child_gets_no_secret_and_a_fixed_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "secret")
    script = tmp_path / "tell.py"
    script.write_text(
        "import json, os, sys\nsys.stdin.read()\nprint(json.dumps(dict(os.environ)))\n"
    )
    found = LOCAL.run(Job("told", script, {}, environment=thread_counts(3)))
    assert "SOME_TOKEN" not in found
    assert found["OMP_NUM_THREADS"] == "3"


def test_one_kind_of_process_gives_latency_and_memory_with_the_session_that_was_asked_for(
    tmp_path: Path,
) -> None:
    answer = {"samples_ms": [1.0], "load_ms": 1, "first_ms": 1, "steady": True}
    target = Scripted(lambda job: answer | {"load_peak": 5, "peak": 7})
    session = SessionOptions(threads=3, arena=False, mmap_threshold_bytes=8192, prepacking=False)
    path = chain(tmp_path / "m.onnx", 1)
    measure_solo(target, path, ROWS, session=session, processes=2)
    assert len(target.jobs) == 2 + 3  # the baseline's are of the same kind
    for job in target.jobs:
        assert job.request["session"] == session.model_dump(mode="json")
        assert job.environment["MALLOC_MMAP_THRESHOLD_"] == "8192"
        assert job.environment["OMP_NUM_THREADS"] == "3"
    measure_solo(target, path, ROWS, session=session, processes=1)
    assert len(target.jobs) == 2 + 3 + 1  # the baseline is known now
    other = session.model_copy(update={"mmap_threshold_bytes": None})
    measure_solo(target, path, ROWS, session=other, processes=1)
    assert len(target.jobs) == 2 + 3 + 1 + 1 + 3
    assert "MALLOC_MMAP_THRESHOLD_" not in target.jobs[-1].environment


def test_pairs_run_with_the_session_that_was_asked_for_but_without_spinning(tmp_path: Path) -> None:
    target = Scripted(lambda job: {"p10_ms": [1.0, 1.0]})
    path, session = chain(tmp_path / "m.onnx", 1), SessionOptions(threads=2, arena=False)
    measure_pair(target, path, path, ROWS, ROWS, session=session)
    wanted = session.model_copy(update={"spinning": False}).model_dump(mode="json")
    assert all(job.request["session"] == wanted for job in target.jobs)


def test_the_same_session_gives_the_same_peak_in_three_processes(tmp_path: Path) -> None:
    path, inputs = hungry(tmp_path / "m.onnx"), {"shape": np.array([16 * MIB], np.int64)}
    session = SessionOptions(arena=False, mmap_threshold_bytes=131072)
    peaks = [
        measure_solo(LOCAL, path, inputs, session=session, processes=1, seconds=0).peak_memory_bytes
        for _ in range(3)
    ]
    assert max(peaks) <= 1.02 * min(peaks)
    assert min(peaks) > 60 * MIB


def test_neither_samples_nor_the_parents_memory_show_in_a_small_models_peak(tmp_path: Path) -> None:
    ballast = np.ones(600 * MIB // 8)
    path = chain(tmp_path / "m.onnx", 2)
    solo = measure_solo(LOCAL, path, ROWS, processes=1, seconds=0.5)
    assert len(solo.samples_ms) > 500
    assert solo.load_memory_bytes <= solo.peak_memory_bytes < 3 * MIB
    assert ballast[-1] == 1


def test_paired_models_take_turns_in_being_loaded_first(tmp_path: Path) -> None:
    def fake(job: Job) -> dict[str, Any]:
        names = [Path(path).stem for path in job.request["models"]]
        return {"p10_ms": [{"a": 2.0, "b": 1.0}[name] for name in names]}

    target = Scripted(fake)
    a, b = chain(tmp_path / "a.onnx", 1), chain(tmp_path / "b.onnx", 1)
    pair = measure_pair(target, a, b, ROWS, ROWS, processes=6)
    order = [Path(path).stem for job in target.jobs for path in job.request["models"]]
    assert order == list(itertools.chain(*[["a", "b"], ["b", "a"]] * 3))
    assert pair.p10_ms == ((2.0, 1.0),) * 6
    assert pair.ratio.ci95 == pytest.approx((0.5, 0.5))
