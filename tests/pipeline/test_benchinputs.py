"""What a model is fed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mpo.errors import UsageError
from mpo.pipeline.bench.inputs import batch_of, described, make_feeds
from mpo.pipeline.run.graphs import Wanted

IMAGE = Wanted("x", ("batch", 3, 8, 8), "float32")
TOKENS = Wanted("ids", ("batch", "length"), "int64")
FIXED = Wanted("x", (2, 5), "float32")


def test_random_inputs_have_the_files_shapes_and_are_the_same_every_time() -> None:
    first, again = make_feeds([IMAGE], [], None), make_feeds([IMAGE], [], None)
    assert first["x"].shape == (1, 3, 8, 8)
    assert np.array_equal(first["x"], again["x"])
    assert make_feeds([IMAGE], [], 4)["x"].shape == (4, 3, 8, 8)
    assert make_feeds([FIXED], [], None)["x"].shape == (2, 5)


def test_free_axes_beside_the_batch_are_asked_for() -> None:
    with pytest.raises(UsageError, match="free axis 'length'") as found:
        make_feeds([TOKENS], [], 2)
    assert found.value.hint == "Say its size: --input ids=2x16"
    fed = make_feeds([TOKENS], ["ids=2x7:int2"], None)["ids"]
    assert (fed.shape, str(fed.dtype)) == ((2, 7), "int64")
    assert set(fed.ravel().tolist()) == {0, 1}
    assert batch_of({"ids": fed}) == 2


def test_other_types_are_made_as_the_file_has_them() -> None:
    wanted = [
        Wanted("h", (4,), "float16"),
        Wanted("mask", (4,), "bool"),
        Wanted("i", (50,), "int32"),
        Wanted("s", (), "float32"),
    ]
    fed = make_feeds(wanted, [], None)
    assert [str(array.dtype) for array in fed.values()] == ["float16", "bool", "int32", "float32"]
    assert set(fed["i"].tolist()) <= set(range(10))
    assert [one.shape for one in described(fed)] == [(4,), (4,), (50,), ()]
    with pytest.raises(UsageError, match="No random values of type object"):
        make_feeds([Wanted("text", (1,), "object")], [], None)


@pytest.mark.parametrize(
    ("given", "batch", "said"),
    [
        (["3x5"], None, "of shape 3x5"),
        (["2x5x1"], None, "of shape 2x5x1"),
        (["what"], None, "no input shape"),
        (["z=2x5"], None, "names no input"),
        ([], 3, "batches of 2 only"),
        (["99999x999999999"], None, "too large"),
    ],
)
def test_what_does_not_fit_says_so(given: list[str], batch: int | None, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make_feeds([FIXED], given, batch)


def test_a_batch_and_a_shape_that_differ_are_refused() -> None:
    with pytest.raises(UsageError, match="--batch 2 and --input 4x3x8x8 differ"):
        make_feeds([IMAGE], ["4x3x8x8"], 2)


def test_arrays_of_a_file_are_checked_and_taken(tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    np.savez(path, x=np.ones((4, 3, 8, 8), np.float32), other=np.ones(3))
    assert make_feeds([IMAGE], [str(path)], None)["x"].shape == (4, 3, 8, 8)
    with pytest.raises(UsageError, match="--batch 2"):
        make_feeds([IMAGE], [str(path)], 2)
    with pytest.raises(UsageError, match=r"no array 'ids'"):
        make_feeds([TOKENS], [str(path)], None)
    np.savez(path, x=np.ones((4, 3, 8, 8)))
    with pytest.raises(UsageError, match="float64"):
        make_feeds([IMAGE], [str(path)], None)


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04junk"])
def test_a_file_that_is_no_npz_is_bad_usage(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "in.npz"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"Cannot read .*in\.npz"):
        make_feeds([IMAGE], [str(path)], None)


def test_arrays_that_need_a_pickle_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    np.savez(path, x=np.array([{}], dtype=object))
    with pytest.raises(UsageError, match=r"Cannot read .*in\.npz"):
        make_feeds([IMAGE], [str(path)], None)
