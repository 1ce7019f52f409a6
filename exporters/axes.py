"""Which input axes of an ONNX file are free: the batch, and those that differ between batches."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from onnx import ModelProto
from torch import Tensor

from mpo.exporters.flatten import named_leaves

BATCH_AXIS = "batch"
Axes = list[dict[int, Any]]


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
    """What torch.export is told of each input: one shared batch, other axes as they come out.

    Args:
        tensors: the example's inputs, `batch` examples each.
        batch: examples in the example.
        varying: per input its other free axes; empty when there are none.
    """
    axes: Axes = []
    for place, tensor in enumerate(tensors):
        own: dict[int, Any] = {}
        if tensor.dim() and len(tensor) == batch:
            own[0] = torch.export.Dim(BATCH_AXIS)
        others = varying[place] if place < len(varying) else ()
        own |= {axis: torch.export.Dim.AUTO for axis in others}
        axes.append(own)
    return axes


def batch_is_free(proto: ModelProto, axes: Axes) -> bool:
    """Whether every batch axis came out symbolic: torch fixes one without a word if it must."""
    pairs = zip(proto.graph.input, axes, strict=True)
    return all(_sizes(value)[0].dim_param == BATCH_AXIS for value, own in pairs if 0 in own)


def fixed_axes(proto: ModelProto, axes: Axes) -> list[str]:
    """Inputs and axes that were to be free and are not: "input_ids axis 1"."""
    return [
        f"{value.name} axis {axis}"
        for value, own in zip(proto.graph.input, axes, strict=True)
        for axis in own
        if not _sizes(value)[axis].dim_param
    ]


def name_axes(proto: ModelProto) -> None:
    """Give free axes readable names, by the first input that has them: "input_ids_1"."""
    names: dict[str, str] = {}
    for value in proto.graph.input:
        for axis, size in enumerate(_sizes(value)):
            if size.dim_param and size.dim_param != BATCH_AXIS:
                names.setdefault(size.dim_param, f"{value.name}_{axis}")
    for value in (*proto.graph.input, *proto.graph.output):
        for size in _sizes(value):
            if size.dim_param in names:
                size.dim_param = names[size.dim_param]


def _sizes(value: Any) -> Any:
    return value.type.tensor_type.shape.dim
