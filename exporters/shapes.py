"""Ranges of the free axes of an ONNX file, by the axes' own names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from mpo.errors import UsageError
from mpo.records import ShapeRange

Range = tuple[int, int, int]


def free_inputs(path: Path) -> dict[str, tuple[str | int, ...]]:
    """Every input of the file with its axes: a size, or the name of a free axis ("?" when it has
    none).

    Raises:
        UsageError: no ONNX file.
    """
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except (OSError, DecodeError) as error:
        raise UsageError(f"{path} is no ONNX file that can be read: {error}") from error
    weights = {weight.name for weight in graph.initializer}
    return {
        value.name: tuple(
            size.dim_value if size.HasField("dim_value") else size.dim_param or "?"
            for size in value.type.tensor_type.shape.dim
        )
        for value in graph.input
        if value.name not in weights
    }


def shape_ranges(path: Path, axes: Mapping[str, Range]) -> dict[str, ShapeRange]:
    """What an engine's optimization profile needs: the range of every input that has a free axis.

    Args:
        path: an ONNX file.
        axes: smallest, most common and largest size by the name of the axis in the file, such as
            "batch"; "input:0" names axis 0 of one input and goes before.

    Raises:
        UsageError: a free axis without a range, or a range that is none.
    """
    for name, (low, best, high) in axes.items():
        if not 0 < low <= best <= high:
            raise UsageError(
                f"Axis {name} cannot range over {low}, {best}, {high}.",
                hint="Give the smallest, the most common and the largest size, in this order.",
            )
    ranges = {}
    for name, sizes in free_inputs(path).items():
        if all(isinstance(size, int) for size in sizes):
            continue
        rows = [_axis(name, place, size, axes) for place, size in enumerate(sizes)]
        small, common, large = (tuple(row[part] for row in rows) for part in range(3))
        ranges[name] = ShapeRange(min=small, opt=common, max=large)
    return ranges


def _axis(name: str, place: int, size: str | int, axes: Mapping[str, Range]) -> Range:
    if isinstance(size, int):
        return size, size, size
    found = axes.get(f"{name}:{place}") or axes.get(size)
    if found is None:
        raise UsageError(
            f"Axis {place} of input {name}, {size!r}, is free and has no range.",
            hint=f"Say which sizes the engine shall take, as --dynamic {name}:{place}[1:8:32].",
        )
    return found
