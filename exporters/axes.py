"""Which input axes of an ONNX file are free: the batch, and those that differ between batches."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from onnx import ModelProto
from torch import Tensor

from mpo.errors import UsageError
from mpo.exporters.flatten import named_leaves

BATCH_AXIS = "batch"


@dataclass(frozen=True)
class Free:
    """The free axes of one input.

    Attributes:
        dims: what torch.export is told of each.
        names: the name that each gets in the file; "" to have one made.
    """

    dims: dict[int, Any] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)


Axes = list[Free]


def varying_axes(calls: Sequence[tuple[tuple[Any, ...], dict[str, Any]]]) -> list[set[int]]:
    """Per input tensor the axes, the first one aside, whose size is not the same in all calls.

    Data padded to the longest of each batch varies in its length; images of one size in nothing.
    """
    shapes = [[tuple(leaf.shape) for _, leaf in named_leaves(call)] for call in calls]
    if not shapes or len({len(row) for row in shapes}) > 1:
        return []
    found: list[set[int]] = []
    for seen in zip(*shapes, strict=True):
        ranks = {len(shape) for shape in seen}
        rank = ranks.pop() if len(ranks) == 1 else 0
        found.append({a for a in range(1, rank) if len({shape[a] for shape in seen}) > 1})
    return found


def free_axes(tensors: Sequence[Tensor], batch: int, varying: Sequence[Collection[int]]) -> Axes:
    """One shared batch, other axes as they come out.

    Args:
        tensors: the example's inputs, `batch` examples each.
        batch: examples in the example.
        varying: per input its other free axes; empty when there are none.
    """
    axes: Axes = []
    for place, tensor in enumerate(tensors):
        names = dict.fromkeys(varying[place] if place < len(varying) else (), "")
        if tensor.dim() and len(tensor) == batch:
            names[0] = BATCH_AXIS
        axes.append(_free(names))
    return axes


def asked_axes(tensors: Sequence[Tensor], asked: Sequence[Mapping[int, str]]) -> Axes:
    """The axes that a user named, and no others.

    Args:
        tensors: the example's inputs.
        asked: per input the names by axis; "" for a name to be made.

    Raises:
        UsageError: an axis that an input does not have.
    """
    for place, (tensor, names) in enumerate(zip(tensors, asked, strict=True)):
        for axis in names:
            if not 0 <= axis < tensor.dim():
                raise UsageError(
                    f"Input {place} has {tensor.dim()} axes; axis {axis} cannot be left free.",
                    hint="Axes are counted from 0; the batch is axis 0.",
                )
    return [_free(names) for names in asked]


def _free(names: Mapping[int, str]) -> Free:
    """The batch is one dimension that all share; others torch finds out to be equal or not."""
    dims = {
        axis: torch.export.Dim(BATCH_AXIS) if name == BATCH_AXIS else torch.export.Dim.AUTO
        for axis, name in sorted(names.items())
    }
    return Free(dims, dict(names))


def batch_is_free(proto: ModelProto, axes: Axes) -> bool:
    """Whether every batch axis came out symbolic: torch fixes one without a word if it must."""
    return all(
        _sizes(value)[axis].dim_param
        for value, own in zip(proto.graph.input, axes, strict=True)
        for axis, name in own.names.items()
        if name == BATCH_AXIS
    )


def fixed_axes(proto: ModelProto, axes: Axes) -> list[str]:
    """Inputs and axes that were to be free and are not: "input_ids axis 1"."""
    return [
        f"{value.name} axis {axis}"
        for value, own in zip(proto.graph.input, axes, strict=True)
        for axis in own.dims
        if not _sizes(value)[axis].dim_param
    ]


def script_axes(inputs: list[str], outputs: list[str], axes: Axes) -> dict[str, dict[int, str]]:
    """What the TorchScript exporter is told: names by input and axis. Free axes of outputs it
    finds by itself, but for the batch."""
    found = {
        name: {axis: own.names[axis] or f"{name}_{axis}" for axis in own.dims}
        for name, own in zip(inputs, axes, strict=True)
    }
    if any(BATCH_AXIS in names.values() for names in found.values()):
        found |= {name: {0: BATCH_AXIS} for name in outputs}
    return found


def name_axes(proto: ModelProto, axes: Axes) -> None:
    """Give free axes readable names: the asked one, or one by the first input that has them, as
    "input_ids_1"."""
    names: dict[str, str] = {}
    for asked in (True, False):
        for value, own in zip(proto.graph.input, axes, strict=False):
            for axis, size in enumerate(_sizes(value)):
                wanted = own.names.get(axis, "") if asked else f"{value.name}_{axis}"
                if size.dim_param and size.dim_param != BATCH_AXIS and wanted:
                    names.setdefault(size.dim_param, wanted)
    for value in (*proto.graph.input, *proto.graph.output):
        for size in _sizes(value):
            if size.dim_param in names:
                size.dim_param = names[size.dim_param]


def _sizes(value: Any) -> Any:
    return value.type.tensor_type.shape.dim
