"""Files for others to use: under their names they are whole, or not there, whenever mpo ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mpo.bundle.reader import open_bundle
from mpo.exporters.enginecache import EngineCache
from mpo.exporters.external import data_path, write_external
from mpo.files import write_atomic
from mpo.folders import new_folder
from tests.bundle import small
from tests.faults import disks

MOST = 100


def graph() -> onnx.ModelProto:
    """y = x @ w, with a weight that is large enough to lie beside the graph."""
    weight = numpy_helper.from_array(np.ones((32, 32), np.float32), "w")
    made = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 32])],
        [weight],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def every_stop(
    folder: Path,
    work: Callable[[Path], object],
    look: Callable[[Path], None],
    before: Callable[[Path], object] = lambda place: None,
) -> None:
    """`work` in a folder of its own, made ready by `before`, ends before and after each of its
    operations; `look` sees what there is then, and again when the work was done once more, which
    leaves what it always does."""
    (folder / "whole").mkdir()
    before(folder / "whole")
    work(folder / "whole")
    wanted = sorted(path.name for path in (folder / "whole").iterdir())
    for n in range(1, MOST):
        for when in ("before", "after"):
            place = folder / f"{n} {when}"
            place.mkdir()
            before(place)
            try:
                with disks.on(disks.Stopping(n, "before" if when == "before" else "after")):
                    work(place)
            except disks.Stopped:
                look(place)
            else:
                assert n > 3, "it goes through no operation"
                return
            for left in place.glob(".*.tmp"):  # the pid in its name is ours: of a living process
                left.unlink()
            work(place)
            look(place)
            assert sorted(path.name for path in place.iterdir()) == wanted
    raise AssertionError("it never ends")


@pytest.mark.case(5)
def test_an_export_that_is_killed_between_weights_and_graph_shows_no_half_model(
    tmp_path: Path,
) -> None:
    def look(place: Path) -> None:
        if (place / "model.onnx").exists():
            assert data_path(place / "model.onnx").is_file()
            session = onnxruntime.InferenceSession(place / "model.onnx")
            (found,) = session.run(None, {"x": np.ones((1, 32), np.float32)})
            assert np.asarray(found).sum() == 32 * 32

    every_stop(tmp_path, lambda place: write_external(graph(), place / "model.onnx"), look)


@pytest.mark.case(6)
def test_an_engine_that_is_being_kept_when_mpo_is_killed_is_there_whole_or_not_at_all(
    tmp_path: Path,
) -> None:
    key = tmp_path / "key" / "cache.key"
    (tmp_path / "work").mkdir()
    (tmp_path / "key").mkdir(mode=0o700)

    def work(place: Path) -> None:
        place.chmod(0o700)
        EngineCache(place, key).put("engine-1", b"native code" * 100)

    def look(place: Path) -> None:
        assert EngineCache(place, key).get("engine-1") in (None, b"native code" * 100)

    every_stop(tmp_path / "work", work, look)


@pytest.mark.case(8)
def test_a_bundle_that_is_being_written_when_mpo_is_killed_is_there_whole_or_not_at_all(
    tmp_path: Path,
) -> None:
    def look(place: Path) -> None:
        if (place / "b.mpo").exists():
            with open_bundle(place / "b.mpo") as bundle:
                bundle.verify()

    every_stop(tmp_path, lambda place: small.write_small(place / "b.mpo"), look)


@pytest.mark.case(8)
def test_a_bundle_replaces_an_older_one_only_when_it_is_whole(tmp_path: Path) -> None:
    def work(place: Path) -> None:
        small.write_small(place / "b.mpo", version="2.0.0")

    def look(place: Path) -> None:
        with open_bundle(place / "b.mpo") as bundle:
            bundle.verify()
            assert bundle.manifest.version in ("1.0.0", "2.0.0")

    every_stop(tmp_path, work, look, lambda place: small.write_small(place / "b.mpo"))


def test_a_folder_of_exports_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def work(place: Path) -> None:
        with new_folder(place / "out", "mark", overwrite=True) as folder:
            (folder / "mark").write_text("x")
            (folder / "model").write_text("y")

    def look(place: Path) -> None:
        if (place / "out").exists():
            assert {path.name for path in (place / "out").iterdir()} == {"mark", "model"}

    every_stop(tmp_path, work, look)


def test_what_a_killed_writer_of_the_same_file_left_goes_with_the_next(tmp_path: Path) -> None:
    gone = 2**22 - 2  # no process has it: above what Linux gives out, or ended long ago
    (tmp_path / f".f.{gone}.tmp").write_text("half")
    (tmp_path / ".f.1.tmp").write_text("of a living one")
    write_atomic(tmp_path / "f", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".f.1.tmp", "f"]
