"""A model as a plain function of tensors: nested inputs and outputs flat, with readable names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mpo.exporters.sharing import free_name

Path = tuple[str, ...]
EXPORT_BATCH = 2  # torch.export bakes an axis of 0 or 1 into the graph


def named_leaves(value: Any, path: Path = ()) -> list[tuple[Path, Tensor]]:
    """Every tensor inside nested mappings, tuples and lists, with the keys that lead to it."""
    if isinstance(value, Tensor):
        return [(path, value)]
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif hasattr(value, "_fields"):
        items = list(zip(value._fields, value, strict=True))
    elif isinstance(value, (tuple, list)):
        items = [(str(place), item) for place, item in enumerate(value)]
    elif is_dataclass(value) and not isinstance(value, type):
        items = [(field.name, getattr(value, field.name)) for field in fields(value)]
    else:
        return []
    return [leaf for key, item in items for leaf in named_leaves(item, (*path, key))]


def rebuild(value: Any, leaf: Callable[[Tensor], Any]) -> Any:
    """The same nesting with `leaf(tensor)` for every tensor, in the order of `named_leaves`."""
    if isinstance(value, Tensor):
        return leaf(value)
    if isinstance(value, Mapping):
        items = {key: rebuild(item, leaf) for key, item in value.items()}
        return items if type(value) is dict else type(value)(**items)  # e.g. a Hugging Face output
    if hasattr(value, "_fields"):
        return type(value)(*(rebuild(item, leaf) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(rebuild(item, leaf) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        own = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        return replace(value, **{name: rebuild(item, leaf) for name, item in own.items()})
    return value


class Flat(nn.Module):
    """`model` called with a flat list of tensors; what is no tensor is kept from the example.

    Args:
        model: the network; its parameters stay shared.
        args, kwargs: an example call that shows the nesting.
    """

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.call = (args, kwargs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the output tensors in order."""
        given = iter(tensors)
        args, kwargs = rebuild(self.call, lambda _: next(given))
        return tuple(leaf for _, leaf in named_leaves(self.model(*args, **kwargs)))


def input_names(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    """Names: "input" for a single positional tensor, else forward's parameters and keywords."""
    positional = named_leaves(args)
    if len(positional) == 1 and not kwargs:
        return ["input"]
    parameters = [
        name
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    names = []
    for path, _ in positional:
        place = int(path[0])
        first = parameters[place] if place < len(parameters) else f"input_{place}"
        names.append("_".join((first, *path[1:])))
    return unique(names + ["_".join(path) for path, _ in named_leaves(kwargs)])


def output_names(outputs: Any, taken: list[str]) -> list[str]:
    """Names: "output" for a single tensor; a mapping's keys; "output_0", "output_1" for a tuple."""
    leaves = named_leaves(outputs)
    if isinstance(outputs, Tensor) or (len(leaves) == 1 and leaves[0][0][0].isdigit()):
        names = ["output"]
    else:
        names = ["_".join(("output", *path) if path[0].isdigit() else path) for path, _ in leaves]
    return unique([f"output_{name}" if name in taken else name for name in names])


def foreign_outputs(outputs: Any) -> list[tuple[str, str]]:
    """Top-level outputs that hold something but no tensor that `named_leaves` finds, such as a
    cache object: name and type."""
    if isinstance(outputs, Mapping):
        items = [(str(key), item) for key, item in outputs.items()]
    elif isinstance(outputs, (tuple, list)):
        items = [(f"output_{place}", item) for place, item in enumerate(outputs)]
    else:
        return []
    plain = (type(None), bool, int, float, str, tuple, list, dict)
    return [
        (name, type(item).__name__)
        for name, item in items
        if not isinstance(item, plain) and not named_leaves(item)
    ]


def unique(names: list[str]) -> list[str]:
    """The names, a later one numbered when it repeats an earlier one."""
    taken = set[str]()
    return [free_name(name, taken) for name in names]


def batch_size(tensors: list[Tensor]) -> int:
    """The first axis of the first tensor that has one; 0 when none has."""
    return next((int(leaf.shape[0]) for leaf in tensors if leaf.dim()), 0)


def resized(tensors: list[Tensor], count: int) -> list[Tensor]:
    """Copies with `count` examples each, the example's own ones repeated or cut.

    Only tensors whose first axis is the batch size change. Made outside inference mode, whose
    tensors no exporter can trace.
    """
    size = batch_size(tensors)
    with torch.inference_mode(False), torch.no_grad():
        copies = [leaf.detach().clone() for leaf in tensors]
        rows = torch.arange(count) % max(size, 1)
        return [
            leaf[rows.to(leaf.device)] if leaf.dim() and leaf.shape[0] == size else leaf
            for leaf in copies
        ]
