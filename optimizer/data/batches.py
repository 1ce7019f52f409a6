"""One batch as a model takes it, and the handful of things that are done with batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mpo.errors import UsageError


@dataclass(frozen=True)
class Batch:
    """What one call of the model gets, and the targets when there are any.

    Attributes:
        args: positional arguments; tensors carry the batch in their first axis.
        kwargs: keyword arguments, as Hugging Face models take them.
        targets: whatever the subject's loss and metric take; None for bare inputs.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    targets: Any | None = None

    @property
    def size(self) -> int:
        """Examples in the batch: the first axis of the first tensor that has one."""
        for leaf in leaves((self.args, self.kwargs)):
            if leaf.dim() > 0:
                return int(leaf.shape[0])
        raise UsageError(
            "A batch holds no tensor with a batch axis.",
            hint="Let data() yield (inputs, targets), inputs being a tensor, a tuple or a dict.",
        )


def leaves(value: Any) -> list[Tensor]:
    """Every tensor inside nested tuples, lists, mappings, dataclasses and model outputs, in
    order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in leaves(item)]
    if is_dataclass(value) and not isinstance(value, type):
        return [leaf for field in fields(value) for leaf in leaves(getattr(value, field.name))]
    return []


def forward(model: nn.Module, batch: Batch) -> Any:
    """Call the model on the batch's inputs."""
    return model(*batch.args, **batch.kwargs)


def primary(outputs: Any) -> Tensor:
    """The tensor that decides: the output itself, `logits`, or the first floating tensor inside.

    Raises:
        UsageError: the outputs hold no floating tensor.
    """
    if isinstance(outputs, Tensor):
        return outputs
    held = outputs.get if isinstance(outputs, Mapping) else lambda name: getattr(outputs, name, 0)
    logits = held("logits")
    if isinstance(logits, Tensor):
        return logits
    for leaf in leaves(outputs):
        if leaf.is_floating_point():
            return leaf
    raise UsageError(
        f"The model returned {type(outputs).__name__} with no floating tensor in it.",
        hint="mpo compares models by a tensor of logits or embeddings: let the model return one.",
    )


def map_tensors(value: Any, change: Any) -> Any:
    """The same nesting with `change(tensor)` in the place of every tensor."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return _alike(value, {key: map_tensors(item, change) for key, item in value.items()})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(item, change) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(item, change) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        own = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        return replace(value, **{name: map_tensors(item, change) for name, item in own.items()})
    return value


def rows(batch: Batch, chosen: Tensor) -> Batch:
    """The examples with these indices [n], in this order.

    Only tensors whose first axis is the batch axis are cut; anything else is kept whole.
    """
    size = batch.size

    def cut(tensor: Tensor) -> Tensor:
        own = tensor.dim() > 0 and tensor.shape[0] == size
        return tensor[chosen.to(tensor.device)] if own else tensor

    targets = map_tensors(batch.targets, cut)
    return Batch(map_tensors(batch.args, cut), map_tensors(batch.kwargs, cut), targets)


def take(batch: Batch, count: int) -> Batch:
    """The first `count` examples; repeats the batch's own examples when it holds fewer."""
    return rows(batch, torch.arange(count) % batch.size)


def concatenate(parts: Sequence[Any]) -> Any:
    """Outputs or targets of many batches as one: tensors joined, nests joined leaf by leaf.

    Tensors that differ beyond the batch axis (padded sequences) come back as a plain list.
    """
    first = parts[0]
    if isinstance(first, Tensor):
        if first.dim() == 0:
            return torch.stack(list(parts))
        if len({part.shape[1:] for part in parts}) > 1:
            return list(parts)
        return torch.cat(list(parts))
    if isinstance(first, Mapping):
        return _alike(first, {key: concatenate([part[key] for part in parts]) for key in first})
    if isinstance(first, (tuple, list)):
        joined = [concatenate([part[i] for part in parts]) for i in range(len(first))]
        return tuple(joined) if isinstance(first, tuple) else joined
    if is_dataclass(first) and not isinstance(first, type):
        names = [field.name for field in fields(first) if field.init]
        joined_fields = {n: concatenate([getattr(part, n) for part in parts]) for n in names}
        return replace(first, **joined_fields)
    return list(parts)


def _alike(value: Mapping[Any, Any], items: dict[Any, Any]) -> Any:
    """A plain dict for a dict; a model output (outputs.logits) stays what it is."""
    if type(value) is dict or not is_dataclass(value):
        return items
    return type(value)(**items)


def limit(batches: Iterable[Batch], examples: int) -> list[Batch]:
    """The leading batches that hold at most `examples`, the last one cut to fit."""
    chosen: list[Batch] = []
    left = examples
    for batch in batches:
        if left <= 0:
            break
        chosen.append(batch if batch.size <= left else take(batch, left))
        left -= chosen[-1].size
    return chosen
