"""Options that lower the peak: they reach the runtime, and the choice among them is measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mpo.errors import RefusedError, UsageError
from mpo.profiles.jobs import Job
from mpo.profiles.local import LocalTarget
from mpo.profiles.measure import measure_solo
from mpo.profiles.modeljobs import model_job
from mpo.profiles.sessions import ALLOWED, by_peak, candidates, choose_session, described
from mpo.records import SessionOptions, SessionTrial

MIB = 2**20
LOCAL = LocalTarget()
WIDTH, LAYERS = 1024, 8
ROW = {"x": np.ones((1, WIDTH), np.float32)}


def products(path: Path, *, external: bool = False) -> Path:
    """Eight products with matrices of 4 MiB each, inside the file or in NAME.data beside it."""
    random = np.random.default_rng(0)
    nodes, weights = [], []
    for layer in range(LAYERS):
        values = random.normal(0, 0.03, (WIDTH, WIDTH)).astype(np.float32)
        weights.append(onnx.numpy_helper.from_array(values, f"w{layer}"))
        last = "x" if layer == 0 else f"t{layer - 1}"
        end = "y" if layer == LAYERS - 1 else f"t{layer}"
        nodes += [
            helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"]),
            helper.make_node("Tanh", [f"m{layer}"], [end]),
        ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, WIDTH]) for name in ("x", "y")
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if external:
        data = f"{path.name}.data"
        onnx.save_model(model, path, save_as_external_data=True, location=data, size_threshold=0)
    else:
        onnx.save_model(model, path)
    return path


def waves(path: Path) -> Path:
    """Holds blocks of growing size one after the other (the runtime begins with the last): an arena
    keeps them all."""
    nodes = []
    for step in range(6):
        nodes += [
            helper.make_node("Mul", ["n", f"c{step}"], [f"s{step}"]),
            helper.make_node("ConstantOfShape", [f"s{step}"], [f"f{step}"]),
            helper.make_node("ReduceMax", [f"f{step}"], [f"r{step}"], keepdims=0),
        ]
    nodes.append(helper.make_node("Sum", [f"r{step}" for step in range(6)], ["y"]))
    sizes = [
        helper.make_tensor(f"c{step}", TensorProto.INT64, [1], [6 - step]) for step in range(6)
    ]
    given = helper.make_tensor_value_info("n", TensorProto.INT64, [1])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [given], [output], sizes)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save_model(model, path)
    return path


def solo(path: Path, inputs: dict[str, Any], **options: Any) -> tuple[float, float]:
    """Load peak and run peak in MiB."""
    session = SessionOptions(**options)
    found = measure_solo(LOCAL, path, inputs, session=session, processes=1, seconds=0)
    return found.load_memory_bytes / MIB, found.peak_memory_bytes / MIB


def test_the_arena_reaches_the_runtime(tmp_path: Path) -> None:
    path, inputs = waves(tmp_path / "m.onnx"), {"n": np.array([3 * MIB], np.int64)}
    on = solo(path, inputs, mmap_threshold_bytes=131072)
    off = solo(path, inputs, mmap_threshold_bytes=131072, arena=False)
    assert 70 < off[1] < 90  # the largest block, 72 MiB, and a small one
    assert on[1] > 1.3 * off[1]


def test_mapped_weights_and_no_prepacking_load_almost_nothing(tmp_path: Path) -> None:
    inside = products(tmp_path / "in.onnx")
    mapped = products(tmp_path / "out.onnx", external=True)
    weights = LAYERS * 4
    load, peak = solo(inside, ROW)
    assert weights < load <= peak
    copied = solo(mapped, ROW, external_weights=True)  # each is packed, one after the other
    assert copied[1] < 0.9 * peak
    packed_not = solo(mapped, ROW, external_weights=True, prepacking=False)
    assert packed_not[0] < 0.2 * weights
    assert weights < packed_not[1] < 1.3 * weights  # read once, they count: pages of the file


def test_weights_that_were_moved_away_are_named(tmp_path: Path) -> None:
    path = products(tmp_path / "m.onnx", external=True)
    job = model_job([path], [ROW], tmp_path, SessionOptions(), 10)
    assert job.files["model0/m.onnx.data"] == tmp_path / "m.onnx.data"
    (tmp_path / "m.onnx.data").rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"weights in m\.onnx\.data, which is not beside it"):
        measure_solo(LOCAL, path, ROW)


@pytest.mark.parametrize("place", ["../secret", "/etc/passwd", "a/../../b"])
def test_weights_of_another_folder_are_refused(tmp_path: Path, place: str) -> None:
    path = products(tmp_path / "m.onnx", external=True)
    graph = onnx.load(path, load_external_data=False)
    for tensor in graph.graph.initializer:
        tensor.external_data[0].value = place
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(RefusedError, match="outside of its own folder"):
        measure_solo(LOCAL, path, ROW)


class Device:
    """A target whose peaks and times follow from the options by a rule."""

    name, device = "ruled", "cpu"

    def __init__(self, slow: Sequence[str]) -> None:
        self.slow, self.jobs = slow, list[Job]()

    def run(self, job: Job) -> dict[str, Any]:
        """100 MB; mapped weights and each further option take some of it off."""
        self.jobs.append(job)
        if job.request["job"] == "turns":
            return {"p10_ms": [self.time(one) for one in job.request["sessions"]]}
        peak = 30_000_000 if "empty" in job.what else self.peak(job.request["session"])
        figures = {"load_peak": peak - 1_000_000, "peak": peak, "samples_ms": [1.0]}
        return figures | {"load_ms": 1, "first_ms": 1, "steady": True}

    def peak(self, session: dict[str, Any]) -> int:
        """Bytes of a process with these options."""
        off = 30 * session["external_weights"] + 10 * (session["mmap_threshold_bytes"] is not None)
        off += 15 * (session["optimization"] == "extended") + 5 * (not session["arena"])
        return (130 - off) * 1_000_000

    def time(self, session: dict[str, Any]) -> float:
        """1 ms, and twice as much with an option that is slow here."""
        default = SessionOptions(spinning=False).model_dump(mode="json")
        return 1.0 + any(session[name] != default[name] for name in self.slow)

    def close(self) -> None:
        """Nothing to leave."""


def pair_of_files(folder: Path) -> tuple[Path, Path]:
    inside = products(folder / "in.onnx")
    return inside, products(folder / "out.onnx", external=True)


def test_without_a_memory_budget_the_defaults_stand_unmeasured(tmp_path: Path) -> None:
    device = Device([])
    choice = choose_session(device, tmp_path / "no.onnx", ROW, threads=2, wants_memory=False)
    assert choice.session == choice.leanest == SessionOptions(threads=2)
    assert (choice.trials, choice.rule, device.jobs) == ((), "", [])


@pytest.mark.parametrize(
    ("slow", "peak"),
    [([], 40), (["arena"], 45), (["arena", "optimization"], 60), (["external_weights"], 100)],
)
def test_the_lowest_peak_whose_latency_is_within_the_bound_is_chosen(
    tmp_path: Path, slow: list[str], peak: int
) -> None:
    path, mapped = pair_of_files(tmp_path)
    device = Device(slow)
    choice = choose_session(device, path, ROW, threads=1, wants_memory=True, mapped=mapped)
    again = choose_session(device, path, ROW, threads=1, wants_memory=True, mapped=mapped)
    assert choice == again
    found = next(trial for trial in choice.trials if trial.session == choice.session)
    assert found.peak_memory_bytes == peak * 1_000_000
    assert choice.session == choice.trials[0].session or found.latency is not None
    rejected = [one for one in choice.trials if one.latency and one.latency.estimate > ALLOWED]
    assert all(trial.peak_memory_bytes < found.peak_memory_bytes for trial in rejected)
    assert choice.leanest.external_weights
    assert not choice.leanest.arena
    assert choice.leanest.prepacking  # without it the peak is the same, so it stays as it is


def test_without_a_second_file_no_option_needs_one(tmp_path: Path) -> None:
    choice = choose_session(
        Device([]), pair_of_files(tmp_path)[0], ROW, threads=1, wants_memory=True
    )
    assert not any(trial.session.external_weights for trial in choice.trials)
    assert choice.session.mmap_threshold_bytes


def test_options_that_gain_less_than_one_per_cent_are_left_out() -> None:
    options = candidates(SessionOptions(), mapped=False)
    trials = [
        SessionTrial(session=one, peak_memory_bytes=100_000_000 - place, load_memory_bytes=0)
        for place, one in enumerate(options)
    ]
    assert by_peak(trials) == [0]


def test_a_real_choice_lowers_the_real_peak(tmp_path: Path) -> None:
    path, mapped = pair_of_files(tmp_path)
    choice = choose_session(
        LOCAL, path, ROW, threads=1, wants_memory=True, mapped=mapped, seconds=0.1
    )
    before, after = choice.trials[0], {trial.session: trial for trial in choice.trials}
    lean = after[choice.leanest]
    assert lean.peak_memory_bytes < 0.8 * before.peak_memory_bytes
    assert choice.leanest.external_weights
    again = measure_solo(LOCAL, mapped, ROW, session=choice.leanest, processes=1, seconds=0.1)
    assert again.peak_memory_bytes == pytest.approx(lean.peak_memory_bytes, rel=0.05)


def test_the_options_are_told_in_words() -> None:
    told = described(SessionOptions(arena=False, external_weights=True, mmap_threshold_bytes=8192))
    assert told["arena"] == "off"
    assert told["weights"].startswith("mapped")
    assert told["MALLOC_MMAP_THRESHOLD_"] == "8192"
    assert described(SessionOptions())["MALLOC_MMAP_THRESHOLD_"] == "unset"
