"""What `mpo bench` feeds a model: random values of the file's own shapes, a file, or real samples.

Shapes are written as everywhere in mpo: 1x3x224x224 for a single input, or NAME=1x16, with :int or
:int2 (integers below 2) after it.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpo.errors import UsageError
from mpo.pipeline.run.graphs import Wanted
from mpo.recipe import nearest
from mpo.records import BenchInput

Feeds = dict[str, NDArray[Any]]
SEED = 0
INTEGERS = 10  # few different ones, because an embedding may have few rows
LARGEST = 2**33  # bytes of one input: beyond it a typing error is likelier than a model
_SHAPE = re.compile(
    r"(?:(?P<name>.+)=)?(?P<shape>\d+(?:x\d+)*)(?::(?P<dtype>float|int)(?P<top>\d*))?"
)
_WRITE = "Write --input 1x3x224x224, --input NAME=1x16:int, or --input FILE.npz."


def make_feeds(wanted: Sequence[Wanted], given: Sequence[str], batch: int | None) -> Feeds:
    """Arrays by input name.

    Args:
        wanted: what the file asks for.
        given: shapes, or one path of an .npz with an array for every input.
        batch: size of the first axis where the file leaves it free (1 when None).

    Raises:
        UsageError: shapes that are missing, unknown or do not fit, no such file, or a batch that
            the file does not take.
    """
    if len(given) == 1 and given[0].endswith(".npz"):
        feeds = fitting(wanted, _from_file(Path(given[0])), given[0])
        if batch not in (None, batch_of(feeds)):
            raise UsageError(
                f"--batch {batch} differs from {given[0]}, which has batches of {batch_of(feeds)}.",
                hint="Leave --batch out.",
            )
        return feeds
    asked = _asked(wanted, given)
    random = np.random.default_rng(SEED)
    return {one.name: _random(one, asked.get(one.name), batch, random) for one in wanted}


def fitting(wanted: Sequence[Wanted], feeds: Mapping[str, NDArray[Any]], where: str) -> Feeds:
    """The arrays that the file asks for, in its order, when they fit.

    Raises:
        UsageError: one is missing, or has another rank, size or type.
    """
    found = {}
    for one in wanted:
        if one.name not in feeds:
            raise UsageError(
                f"{where} has no array {one.name!r}.{nearest(one.name, feeds)}",
                hint=f"The model takes {', '.join(_described(item) for item in wanted)}.",
            )
        array = feeds[one.name]
        sizes_fit = len(array.shape) == len(one.axes) and all(
            isinstance(axis, str) or axis == size
            for axis, size in zip(one.axes, array.shape, strict=False)
        )
        if not sizes_fit or str(array.dtype) != one.dtype:
            raise UsageError(
                f"{where} has {one.name!r} as {array.dtype} of shape {_times(array.shape)}.",
                hint=f"The model takes {_described(one)}.",
            )
        found[one.name] = np.asarray(array, order="C")
    return found


def described(feeds: Mapping[str, NDArray[Any]]) -> tuple[BenchInput, ...]:
    """Names, shapes and types, for the record."""
    return tuple(
        BenchInput(name=name, shape=tuple(array.shape), dtype=str(array.dtype))
        for name, array in feeds.items()
    )


def batch_of(feeds: Mapping[str, NDArray[Any]]) -> int:
    """The first axis of the first input that has one; 1 when none has."""
    return next((int(array.shape[0]) for array in feeds.values() if array.ndim), 1)


def _from_file(path: Path) -> Feeds:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"Cannot read {path} as an .npz of plain arrays: {str(error)[:200]}",
            hint="Write it with numpy.savez(FILE, NAME=array).",
        ) from error


def _asked(wanted: Sequence[Wanted], given: Sequence[str]) -> dict[str, tuple[list[int], int]]:
    """Shape and integer bound (0 for the file's own type) by input name."""
    asked: dict[str, tuple[list[int], int]] = {}
    names = [one.name for one in wanted]
    for text in given:
        match = _SHAPE.fullmatch(text)
        if not match:
            raise UsageError(f"{text!r} is no input shape.", hint=_WRITE)
        name = match["name"] or (names[0] if len(names) == 1 else "")
        if name not in names:
            raise UsageError(
                f"{text!r} names no input of the model.{nearest(name, names)}",
                hint=f"Its inputs: {', '.join(_described(one) for one in wanted)}.",
            )
        top = int(match["top"] or INTEGERS) if match["dtype"] == "int" else 0
        asked[name] = [int(size) for size in match["shape"].split("x")], top
    return asked


def _random(
    one: Wanted, asked: tuple[list[int], int] | None, batch: int | None, random: np.random.Generator
) -> NDArray[Any]:
    shape, top = asked or ([_size(one, place, batch) for place in range(len(one.axes))], 0)
    dtype = np.dtype(one.dtype)
    if np.prod(shape, dtype=np.float64) * dtype.itemsize > LARGEST:
        raise UsageError(f"Input {one.name!r} of shape {_times(shape)} is too large.", hint=_WRITE)
    if dtype.kind in "iu":
        made: NDArray[Any] = np.asarray(random.integers(0, top or INTEGERS, shape), dtype)
    elif dtype.kind == "b":
        made = np.ones(shape, dtype)
    elif dtype.kind == "f":
        made = np.asarray(random.standard_normal(shape), dtype)
    else:
        raise UsageError(
            f"No random values of type {one.dtype} can be made for input {one.name!r}.",
            hint="Give --input FILE.npz.",
        )
    fitted = fitting([one], {one.name: made}, "--input" if asked else "--batch")
    if asked and batch and made.ndim and isinstance(one.axes[0], str) and made.shape[0] != batch:
        raise UsageError(
            f"--batch {batch} and --input {_times(made.shape)} differ for input {one.name!r}.",
            hint="Leave one of them out.",
        )
    return fitted[one.name]


def _size(one: Wanted, place: int, batch: int | None) -> int:
    axis = one.axes[place]
    if isinstance(axis, int):
        if place == 0 and batch not in (None, axis):
            raise UsageError(
                f"The model takes batches of {axis} only, but --batch is {batch}.",
                hint="Leave --batch out, or export the model with a free batch axis.",
            )
        return axis
    if place == 0:
        return batch or 1
    raise UsageError(
        f"Input {one.name!r} has the free axis {axis!r} beside the batch.",
        hint=f"Say its size: --input {one.name}={_times([*_known(one, batch)])}",
    )


def _known(one: Wanted, batch: int | None) -> list[int]:
    """A shape to start from: free axes as the batch or 16."""
    return [
        axis if isinstance(axis, int) else (batch or 1) if place == 0 else 16
        for place, axis in enumerate(one.axes)
    ]


def _described(one: Wanted) -> str:
    return f"{one.name} {_times(one.axes)} {one.dtype}"


def _times(shape: Sequence[int | str]) -> str:
    return "x".join(map(str, shape)) or "scalar"
