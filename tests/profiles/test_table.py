"""Cost tables: from a device whose times are known, and from this machine."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from mpo.errors import BaselineError, UsageError
from mpo.profiles.jobs import Job
from mpo.profiles.local import LocalTarget
from mpo.profiles.table import measure_table, require_fresh
from mpo.profiles.turns import AnchorFile, Effort, Unit
from mpo.records import CostTable, Metric, SessionOptions
from mpo.records.costs import EMPTY, FULL, MIDDLE

ROWS = {"x": np.ones((64, 64), np.float32)}
SESSION = SessionOptions(threads=1)
LATENCY: tuple[Metric, ...] = ("latency_p50_ms", "latency_p90_ms")
SIZE: tuple[Metric, ...] = ("size_bytes",)
MEMORY: tuple[Metric, ...] = ("memory_bytes",)
QUICK = Effort(seconds=0.05, rounds=10, solo_seconds=0.02)
NAMES = ("b0", "b1", "b2", "b3")
# What the scripted device takes, in ms; the launch is in everything.
TRUTH = {"small": 0.5, "large": 1.5, FULL: 6.0, EMPTY: 2.0, MIDDLE: 4.0, "launch": 0.01}


def chain(path: Path, layers: int) -> Path:
    """`layers` products with 64 x 64 matrices that no optimizer merges."""
    random, nodes, weights, last = np.random.default_rng(0), [], [], "x"
    for layer in range(layers):
        values = random.normal(0, 0.1, (64, 64)).astype(np.float32)
        weights.append(helper.make_tensor(f"w{layer}", TensorProto.FLOAT, [64, 64], values.ravel()))
        end = "y" if layer == layers - 1 else f"t{layer}"
        nodes += [
            helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"]),
            helper.make_node("Tanh", [f"m{layer}"], [end]),
        ]
        last = end
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])
    taken = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])
    graph = helper.make_graph(nodes, "g", [given], [taken], weights)
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def units(folder: Path, **changes: Any) -> list[Unit]:
    """Two small blocks and two large ones."""
    small, large = chain(folder / "small.onnx", 1), chain(folder / "large.onnx", 3)
    made = []
    for place, name in enumerate(NAMES):
        path = small if place < 2 else large
        size = 100 if place < 2 else 300
        made.append(Unit(name, path.stem, size, size, size, path=path, inputs=ROWS, **changes))
    return made


def anchors(folder: Path, known: bool = True) -> list[AnchorFile]:
    """The whole model with its figures, the empty one, and one with two blocks."""
    solo: dict[Metric, float] = {"latency_p50_ms": 6.6, "latency_p90_ms": 7.2} if known else {}
    return [
        AnchorFile(FULL, (), solo, chain(folder / f"{FULL}.onnx", 10), ROWS),
        AnchorFile(EMPTY, NAMES, {}, chain(folder / f"{EMPTY}.onnx", 2), ROWS),
        AnchorFile(MIDDLE, ("b1", "b3"), {}, chain(folder / f"{MIDDLE}.onnx", 6), ROWS),
    ]


class Device:
    """A target whose turns take what `time(file, process)` says."""

    name, device = "scripted", "cpu"

    def __init__(self, time: Callable[[str, int], float]) -> None:
        self.time, self.turns, self.solos = time, list[Job](), list[Job]()

    def run(self, job: Job) -> dict[str, Any]:
        """Times by file name, or solo figures."""
        stems = [Path(name).stem for name in job.request["models"]]
        if job.request["job"] == "turns":
            self.turns.append(job)
            return {"p10_ms": [self.time(stem, len(self.turns)) for stem in stems]}
        self.solos.append(job)
        milliseconds = 1.1 * TRUTH.get(stems[0], 1.0)
        return {"samples_ms": [milliseconds], "load_ms": 1, "first_ms": 1, "steady": True,
                "load_peak": 5 * 10**6, "peak": 7 * 10**6}  # fmt: skip

    def close(self) -> None:
        """Nothing to leave."""


def steady(stem: str, process: int) -> float:
    """Every process runs at its own speed, and everything in it alike."""
    return (TRUTH[stem] + (0.01 if stem in ("small", "large") else 0.0)) * (1 + process)


def made(device: Device, folder: Path, effort: Effort | None = None, **known: Any) -> CostTable:
    return measure_table(
        device, units(folder), anchors(folder, **known), SESSION, LATENCY,
        batch=1, fingerprint="f", effort=effort,
    )  # fmt: skip


def test_machine_drift_between_processes_cancels(tmp_path: Path) -> None:
    device = Device(steady)
    table = made(device, tmp_path)
    assert len(device.turns) == table.processes == 3
    assert [unit.share for unit in table.units] == pytest.approx(
        [0.5 / 6, 0.5 / 6, 1.5 / 6, 1.5 / 6]
    )
    assert table.uncalibrated == pytest.approx(1)
    assert table.additive
    assert table.warnings == ()
    assert table.predict(("b1", "b3"))["latency_p50_ms"] == pytest.approx(6.6 * 4 / 6)
    assert table.units[0].latency_ms == pytest.approx(6.6 * 0.5 / 6)
    assert table.fits["latency_p50_ms"].residual == pytest.approx(0)


def test_blocks_that_are_alike_are_measured_once(tmp_path: Path) -> None:
    device = Device(steady)
    table = made(device, tmp_path)
    assert len(device.turns[0].request["models"]) == 6  # three anchors, launch, two kinds
    assert [unit.how for unit in table.units] == ["measured", "like", "measured", "like"]
    assert [unit.like for unit in table.units] == ["", "b0", "", "b2"]


def test_models_take_turns_in_another_order_in_every_process_and_threads_do_not_spin(
    tmp_path: Path,
) -> None:
    device = Device(steady)
    made(device, tmp_path)
    assert len({tuple(job.request["models"]) for job in device.turns}) > 1
    assert not any(job.request["session"]["spinning"] for job in device.turns)
    assert all(job.request["session"]["spinning"] for job in device.solos)


def test_processes_that_disagree_are_followed_by_more(tmp_path: Path) -> None:
    def disturbed(stem: str, process: int) -> float:
        return steady(stem, process) * (1.3 if process == 2 and stem == EMPTY else 1.0)

    device = Device(disturbed)
    table = made(device, tmp_path)
    assert len(device.turns) == table.processes == 4
    assert table.anchors[1].share == pytest.approx(2 / 6)
    assert table.warnings == ()


def test_a_device_that_never_agrees_is_called_too_noisy_with_the_numbers(tmp_path: Path) -> None:
    def shaking(stem: str, process: int) -> float:
        return steady(stem, process) * (1 + 0.05 * process if stem == MIDDLE else 1.0)

    device = Device(shaking)
    table = made(device, tmp_path)
    assert len(device.turns) == 8
    assert "too noisy" in table.warnings[0]
    assert "middle 21.3%" in table.warnings[0]
    assert table.fits["latency_p50_ms"].margin > 0.15


def test_parts_that_do_not_add_up_are_said(tmp_path: Path) -> None:
    def launching(stem: str, process: int) -> float:
        return steady(stem, process) * (0.5 if stem in ("small", "large") else 1.0)

    table = made(Device(launching), tmp_path)
    assert not table.additive
    assert "sum up to 66%" in " ".join(table.warnings)
    assert table.predict(())["latency_p50_ms"] == pytest.approx(6.6)  # calibrated all the same


def test_solo_figures_that_tell_another_ratio_are_said(tmp_path: Path) -> None:
    full = {"small": 0.5, "large": 1.5, FULL: 6.0, EMPTY: 1.0, MIDDLE: 4.0, "launch": 0.01}
    table = made(Device(lambda stem, process: full[stem]), tmp_path)
    assert any("empty model takes 33.3%" in said for said in table.warnings)


def test_what_does_not_fit_into_one_process_goes_to_another_with_the_whole_model(
    tmp_path: Path,
) -> None:
    device = Device(steady)
    room = chain(tmp_path / "full.onnx", 10).stat().st_size * 2
    table = made(device, tmp_path, Effort(group_bytes=room))
    held = [{Path(name).stem for name in job.request["models"]} for job in device.turns]
    assert len({frozenset(group) for group in held}) > 1
    assert all({FULL, "launch"} <= group for group in held)
    assert table.predict(("b1", "b3"))["latency_p50_ms"] == pytest.approx(6.6 * 4 / 6)


def test_a_block_that_cannot_run_alone_is_shared_by_macs_and_says_why(tmp_path: Path) -> None:
    given = units(tmp_path)
    given[1] = Unit("b1", "odd", 100, 100, 100, reason="It needs its model.")
    table = measure_table(
        Device(steady), given, anchors(tmp_path), SESSION, LATENCY, batch=1, fingerprint="f"
    )
    assert (table.units[1].how, table.units[1].reason) == ("macs", "It needs its model.")
    assert table.units[1].share == pytest.approx(0.5 / 6, rel=0.01)


def test_counts_and_sizes_start_no_process(tmp_path: Path) -> None:
    device = Device(steady)
    sizes = {FULL: 1000.0, EMPTY: 120.0, MIDDLE: 560.0}
    given = [
        AnchorFile(one.name, one.removed, {"size_bytes": sizes[one.name]})
        for one in anchors(tmp_path)
    ]
    table = measure_table(device, units(tmp_path), given, SESSION, SIZE, batch=1, fingerprint="f")
    assert not device.turns + device.solos
    assert table.units[0].how == "counted"
    assert table.predict(("b0",))["size_bytes"] == pytest.approx(890)
    assert table.fits["size_bytes"].residual == pytest.approx(0)


def test_memory_takes_solo_processes_and_no_turns(tmp_path: Path) -> None:
    device = Device(steady)
    table = measure_table(
        device, units(tmp_path), anchors(tmp_path), SESSION, MEMORY,
        batch=1, fingerprint="f",
    )  # fmt: skip
    assert not device.turns
    assert {job.request["seconds"] for job in device.solos} == {0.0}
    assert set(table.fits) == {"memory_bytes"}


def test_known_figures_of_the_whole_model_are_not_measured_again(tmp_path: Path) -> None:
    device = Device(steady)
    made(device, tmp_path)
    assert FULL not in {Path(job.request["models"][0]).stem for job in device.solos}


def test_progress_counts_processes(tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    measure_table(
        Device(steady), units(tmp_path), anchors(tmp_path), SESSION, LATENCY,
        batch=1, fingerprint="f", progress=lambda now, total: done.append((now, total)),
    )  # fmt: skip
    assert done == [(1, 3), (2, 3), (3, 3)]


def test_a_table_needs_the_whole_model_and_its_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="full model"):
        measure_table(
            Device(steady), [], anchors(tmp_path)[1:], SESSION, LATENCY, batch=1, fingerprint="f"
        )
    bare = [AnchorFile(FULL, (), {})]
    with pytest.raises(UsageError, match="no ONNX file"):
        measure_table(
            Device(steady), units(tmp_path), bare, SESSION, LATENCY, batch=1, fingerprint="f"
        )


def test_another_device_s_table_is_refused(tmp_path: Path) -> None:
    table = made(Device(steady), tmp_path)
    require_fresh(table, "f")
    with pytest.raises(BaselineError, match="is of the device f, but scripted is other"):
        require_fresh(table, "other")


def test_this_machine_s_blocks_cost_what_they_are(tmp_path: Path) -> None:
    table = measure_table(
        LocalTarget(), units(tmp_path), anchors(tmp_path, known=False), SESSION,
        (*LATENCY, "memory_bytes"), batch=1, fingerprint="f", effort=QUICK,
    )  # fmt: skip
    small, large = table.units[0].share, table.units[2].share
    assert small is not None
    assert large is not None
    assert 2 < large / small < 5  # three layers against one, on a machine that may be busy
    full = table.anchors[0].figures
    assert table.predict(())["latency_p50_ms"] == pytest.approx(full["latency_p50_ms"])
    saved = [table.savings()[name]["latency_p50_ms"] for name in NAMES]
    assert all(one > 0 for one in saved)
    assert list(itertools.pairwise(saved))[1][0] < saved[2]
