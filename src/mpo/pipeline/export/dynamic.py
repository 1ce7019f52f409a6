"""Free axes of an exported file: what --dynamic says, and the sizes that engines are built for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mpo.errors import UsageError
from mpo.exporters.flatten import input_names, named_leaves
from mpo.exporters.shapes import Range, free_inputs
from mpo.pipeline.run.context import SEEN, Context
from mpo.pipeline.run.inputs import example
from mpo.recipe import nearest
from mpo.records import ExportAxis

NONE = "none"  # --dynamic none: every axis is fixed
LARGEST_BATCH = 32  # that engines take when nobody says more
_WRITE = "Write --dynamic input:0=batch[1:32], [1:8:32] with the most common size, or none."
_AXIS = re.compile(
    r"(?:(?P<input>[^:=\[\]]+):(?P<axis>\d+)(?:=(?P<name>\w+))?|(?P<known>\w+))"
    r"(?:\[(?P<sizes>\d+(?::\d+){0,2})\])?"
)
Seen = Mapping[tuple[str, int], Sequence[int]]


@dataclass(frozen=True)
class AskedAxis:
    """One --dynamic: `input` and `axis` leave an axis free under `name`; a name alone gives the
    range of an axis that is free anyway."""

    input: str
    axis: int
    name: str
    sizes: Range | None


def parse_dynamic(texts: Sequence[str]) -> tuple[AskedAxis, ...] | None:
    """Read every --dynamic; None for "none", which fixes every axis.

    Raises:
        UsageError: a text that is none, a range out of order.
    """
    if NONE in texts:
        if len(texts) > 1:
            raise UsageError("--dynamic none cannot stand beside another one.", hint=_WRITE)
        return None
    return tuple(_asked(text) for text in texts)


def _asked(text: str) -> AskedAxis:
    match = _AXIS.fullmatch(text.strip())
    if not match:
        raise UsageError(f"--dynamic {text!r} names no axis.", hint=_WRITE)
    sizes = None
    if match["sizes"]:
        given = [int(size) for size in match["sizes"].split(":")]
        low, high = given[0], given[-1]
        best = given[1] if len(given) == 3 else low
        if not 0 < low <= best <= high:
            raise UsageError(f"--dynamic {text!r} has sizes out of order.", hint=_WRITE)
        sizes = (low, best, high)
    if match["known"]:
        if sizes is None:
            raise UsageError(f"--dynamic {text!r} has neither an axis nor sizes.", hint=_WRITE)
        return AskedAxis("", -1, match["known"], sizes)
    return AskedAxis(match["input"], int(match["axis"]), match["name"] or "", sizes)


def wanted_axes(
    asked: Sequence[AskedAxis] | None, names: Sequence[str]
) -> list[dict[int, str]] | None:
    """What `export_onnx` takes as `axes`: None lets the data tell.

    Args:
        asked: as `parse_dynamic` read it.
        names: of the inputs.

    Raises:
        UsageError: an input that is not there.
    """
    if asked is None:
        return [{} for _ in names]
    placed = [one for one in asked if one.input]
    if not placed:
        return None
    axes: dict[str, dict[int, str]] = {name: {} for name in names}
    for one in placed:
        if one.input not in axes:
            raise _no_input(one.input, names)
        axes[one.input][one.axis] = one.name
    return list(axes.values())


def _no_input(name: str, known: Iterable[str]) -> UsageError:
    names = list(known)
    return UsageError(
        f"The model has no input {name!r}.{nearest(name, names)}",
        hint=f"Its inputs: {', '.join(names)}.",
    )


def seen_sizes(context: Context) -> dict[tuple[str, int], list[int]]:
    """The sizes of every axis of every input in leading batches of the data, by input and axis."""
    names = input_names(context.original, *example(context))
    found: dict[tuple[str, int], list[int]] = {}
    splits = context.splits()
    for batch in (*islice(splits.train, SEEN), *islice(splits.test, SEEN)):
        leaves = [leaf for _, leaf in named_leaves((batch.args, batch.kwargs))]
        for name, leaf in zip(names, leaves, strict=False):
            for axis, size in enumerate(leaf.shape):
                found.setdefault((name, axis), []).append(int(size))
    return found


def export_axes(
    path: Path, asked: Sequence[AskedAxis] | None, batch: int, seen: Seen
) -> tuple[ExportAxis, ...]:
    """Every free axis of the file with its range: the asked one; for the first axis 1 to 32; for
    another what the data showed, or half to twice its size.

    Raises:
        UsageError: a range for an axis that is not free, or an axis that was asked for and that
            the model fixes.
    """
    free = free_inputs(path)
    places: dict[str, list[tuple[str, int]]] = {}
    for name, sizes in free.items():
        for axis, size in enumerate(sizes):
            if isinstance(size, str):
                places.setdefault(f"{name}:{axis}" if size == "?" else size, []).append(
                    (name, axis)
                )
    wishes = {}
    for one in asked or ():
        name = one.name if not one.input else _name_at(free, one)
        if name not in places:
            raise UsageError(
                f"The file has no free axis {name!r}.{nearest(name, places)}",
                hint=f"Its free axes: {', '.join(places) or 'none'}.",
            )
        if one.sizes:
            wishes[name] = one.sizes
    return tuple(
        _axis(name, found, wishes.get(name), batch, seen) for name, found in places.items()
    )


def _name_at(free: Mapping[str, Sequence[str | int]], one: AskedAxis) -> str:
    if one.input not in free:
        raise _no_input(one.input, free)
    if one.axis >= len(free[one.input]):
        raise UsageError(
            f"Input {one.input} has {len(free[one.input])} axes; there is no axis {one.axis}.",
            hint="Axes are counted from 0; the batch is axis 0.",
        )
    size = free[one.input][one.axis]
    if isinstance(size, int):
        raise UsageError(
            f"Axis {one.axis} of input {one.input} cannot be free: this model takes {size} only.",
            hint="Leave that --dynamic out; reshape() and views to fixed sizes are usual causes.",
        )
    return f"{one.input}:{one.axis}" if size == "?" else size


def _axis(
    name: str, places: Sequence[tuple[str, int]], asked: Range | None, batch: int, seen: Seen
) -> ExportAxis:
    inputs = tuple(f"{given}:{axis}" for given, axis in places)
    if asked:
        low, best, high = asked
        return ExportAxis(name=name, inputs=inputs, low=low, best=best, high=high, source="asked")
    if places[0][1] == 0:
        high = max(LARGEST_BATCH, batch)
        return ExportAxis(name=name, inputs=inputs, low=1, best=batch, high=high, source="default")
    sizes = sorted(size for place in places for size in seen.get(place, ()))
    best = sizes[len(sizes) // 2] if sizes else 16
    if sizes and sizes[0] < sizes[-1]:
        low, high = sizes[0], sizes[-1]
        return ExportAxis(name=name, inputs=inputs, low=low, best=best, high=high, source="data")
    low, high = max(1, best // 2), 2 * best
    return ExportAxis(name=name, inputs=inputs, low=low, best=best, high=high, source="default")
