"""Facts in the ONNX file: written whole, read back, the graph untouched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from mpo.errors import UsageError
from mpo.exporters.converted import run, write_graph
from mpo.exporters.metadata import facts, read_stamp, stamp
from mpo.files import sha256
from tests.exporters import pocket


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A small model."""
    write_graph(pocket.chain(1.0, 1.0), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_version_plan_labels_and_preprocessing_are_read_back(path: Path) -> None:
    before = next(run(path, pocket.vectors(1)))["y"]
    known = facts(
        "1.2.3",
        plan_sha256="ab" * 32,
        labels=["cat", "Hund"],
        preprocessing={"mean": [0.5], "size": [28, 28]},
    )
    digest = stamp(path, known)
    assert digest == sha256(path)
    assert read_stamp(path) == {
        "mpo.version": "1.2.3",
        "mpo.plan_sha256": "ab" * 32,
        "mpo.labels": ["cat", "Hund"],
        "mpo.preprocessing": {"mean": [0.5], "size": [28, 28]},
    }
    np.testing.assert_array_equal(next(run(path, pocket.vectors(1)))["y"], before)


def test_the_runtime_sees_them(path: Path) -> None:
    import onnxruntime

    stamp(path, {"mpo.version": "1.2.3"})
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == {"mpo.version": "1.2.3"}


def test_what_is_not_known_is_left_out() -> None:
    assert facts("1.0") == {"mpo.version": "1.0"}


def test_other_keys_stay_and_none_takes_one_away(path: Path) -> None:
    stamp(path, {"author": "someone", "mpo.version": "1"})
    stamp(path, {"mpo.version": None, "task": "vectors"})
    assert read_stamp(path) == {"author": "someone", "task": "vectors"}


def test_equal_facts_give_equal_bytes(path: Path) -> None:
    first = stamp(path, {"b": "1", "a": "2"})
    assert stamp(path, {"a": "2", "b": "1"}) == first


def test_external_data_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save_model(
        pocket.chain(1.0, 1.0, width=32), path, save_as_external_data=True, location="model.data"
    )
    before = sha256(tmp_path / "model.data")
    wanted = next(run(path, pocket.vectors(1, width=32)))["y"]
    stamp(path, {"mpo.version": "1"})
    assert sha256(tmp_path / "model.data") == before
    np.testing.assert_array_equal(next(run(path, pocket.vectors(1, width=32)))["y"], wanted)


def test_text_that_only_looks_like_json_stays_text(path: Path) -> None:
    stamp(path, {"mpo.labels": "{not json", "note": "[1]"})
    assert read_stamp(path) == {"mpo.labels": "{not json", "note": "[1]"}


def test_a_value_that_is_no_json_is_refused_and_nothing_is_written(path: Path) -> None:
    before = sha256(path)
    for value in (object(), float("nan")):
        with pytest.raises(UsageError, match=r"'mpo\.odd' cannot be written"):
            stamp(path, {"mpo.odd": value})
    assert sha256(path) == before


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(UsageError, match="Cannot read"):
        stamp(path, {"a": "b"})
    path.write_bytes(b"\xff" * 64)
    with pytest.raises(UsageError, match="Cannot read"):
        read_stamp(path)
