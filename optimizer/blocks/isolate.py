"""Blocks as modules of their own: each with the inputs that it really gets inside the model.

One forward pass is watched; what a block is called with is copied, and the block is run alone on
the copy. Only when that gives the numbers that it gave inside the model is the block isolated.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mpo.optimizer.blocks.bypass import NOTE, find_named
from mpo.optimizer.blocks.proof import FAILURES, first_line
from mpo.optimizer.data.batches import Batch, forward, leaves, map_tensors

_OWN = {*vars(nn.Module()), NOTE, "training"}  # what every module holds; says nothing of its work
_PLACE = re.compile(r"^_?(layer|block)?_?(idx|id|index|number)$")  # where in the model, not what
_PLAIN = (bool, int, str, type(None), torch.dtype)
_DEPTH = 3
RELATIVE = 1e-4


@dataclass(frozen=True)
class Isolated:
    """A block and a call of it.

    Attributes:
        name: of the block in its model.
        module: the block itself, not a copy.
        args, kwargs: what it was called with first, tensors copied.
        calls: how often one forward pass calls it.
        key: the same for blocks of the same structure that take inputs of the same shapes: they
            do the same work on other numbers.
        reason: why it cannot run alone; empty when it can.
    """

    name: str
    module: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    calls: int = 0
    key: str = ""
    reason: str = ""


@dataclass
class _Seen:
    """The first call of a block: copies of what it took and of what it returned."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    calls: int = 1
    outputs: list[Tensor] = field(default_factory=list)


def isolate(model: nn.Module, names: Collection[str], batch: Batch) -> dict[str, Isolated]:
    """The named blocks as modules of their own, or the reason why one cannot run alone.

    Objects that are neither tensors nor plain values (a key-value cache that the model makes for
    this one pass) are replaced by None where the block gives the same numbers without them.

    Args:
        model: in evaluation mode; left as it was.
        batch: example inputs; the blocks get what this batch brings to them.

    Raises:
        UsageError: the model has no block of that name.
    """
    blocks = find_named(model, names)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it hands nested tensors from block to block
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            seen = _watch(model, blocks, batch)
            return {name: _alone(name, block, seen.get(name)) for name, block in blocks.items()}
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _watch(model: nn.Module, blocks: Mapping[str, nn.Module], batch: Batch) -> dict[str, _Seen]:
    seen: dict[str, _Seen] = {}

    def entering(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if name in seen:
                seen[name].calls += 1
            else:
                seen[name] = _Seen(_copied(args), _copied(kwargs))

        return hook

    def leaving(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if seen[name].calls == 1:
                seen[name].outputs = [leaf.clone() for leaf in leaves(output)]

        return hook

    with ExitStack() as stack:
        for name, block in blocks.items():
            before = block.register_forward_pre_hook(entering(name), with_kwargs=True)
            stack.callback(before.remove)
            stack.callback(block.register_forward_hook(leaving(name)).remove)
        forward(model, batch)
    return seen


def _copied(value: Any) -> Any:
    return _mapped(map_tensors(value, lambda leaf: leaf.detach().clone()), _twin)


def _twin(item: Any) -> Any:
    """A copy of an object that the model may write into later; the object where none can be."""
    try:
        return copy.deepcopy(item)
    except (TypeError, RuntimeError):
        return item


def _alone(name: str, block: nn.Module, seen: _Seen | None) -> Isolated:
    if seen is None:
        return Isolated(name, block, reason="It was not called in the forward pass.")
    reason = ""
    for args, kwargs in _ways(seen):
        try:
            # copies again: a block may write into its inputs
            outputs = leaves(block(*_copied(args), **_copied(kwargs)))
        except FAILURES as error:
            reason = reason or f"Run alone it fails: {first_line(error)}."
            continue
        if _same(seen.outputs, outputs):
            return Isolated(name, block, args, kwargs, seen.calls, _key(block, args, kwargs))
        reason = reason or "Run alone it gives other numbers than inside the model."
    return Isolated(name, block, calls=seen.calls, reason=reason)


def _ways(seen: _Seen) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The call without its opaque objects when it has any, and as it was."""
    found: list[Any] = []
    bare = _mapped((seen.args, seen.kwargs), found.append)
    if found:
        yield bare
    yield seen.args, seen.kwargs


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same nesting with `change(object)` for whatever is neither tensor, plain nor nest."""
    if isinstance(value, (Tensor, float, *_PLAIN)):
        return value
    if type(value) is dict:
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(item, change) for item in value))
    if type(value) in {tuple, list}:
        return type(value)(_mapped(item, change) for item in value)
    if is_dataclass(value) and not isinstance(value, type) and leaves(value):
        return value
    return change(value)


def _same(wanted: list[Tensor], found: list[Tensor]) -> bool:
    """Whether all floating outputs agree up to rounding; a cache that is left out is no output."""
    if not found or len(found) > len(wanted):
        return False
    for want, got in zip(wanted, found, strict=False):
        if want.shape != got.shape or want.dtype != got.dtype:
            return False
        scale = float(want.abs().max()) if want.is_floating_point() and want.numel() else 0.0
        if not torch.allclose(
            want.double(), got.double(), rtol=RELATIVE, atol=RELATIVE * scale, equal_nan=True
        ):
            return False
    return True


def _key(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """A digest of classes, settings and shapes; of no weight, and of no place in the model."""
    rows = [f"{_told(args, 0)} {sorted((k, _told(v, 0)) for k, v in kwargs.items())}"]
    for name, module in block.named_modules():
        held = {**module._parameters, **module._buffers}
        shapes = [(key, _told(tensor, 0)) for key, tensor in held.items()]
        settings = [
            (key, _told(value, 0))
            for key, value in sorted(vars(module).items())
            if key not in _OWN and not _PLACE.match(key)
        ]
        rows.append(f"{name} {_class(module)} {shapes} {settings}")
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]


def _told(value: Any, depth: int) -> str:
    """A value as text that equal work has in common: fractions change numbers, not work."""
    if isinstance(value, Tensor):
        return f"{value.dtype}{tuple(value.shape)}"
    if isinstance(value, float):
        return "fraction"
    if isinstance(value, _PLAIN):
        return repr(value)
    if depth < _DEPTH:
        if isinstance(value, Mapping):
            return str(sorted((str(k), _told(item, depth + 1)) for k, item in value.items()))
        if isinstance(value, (tuple, list)):
            return str([_told(item, depth + 1) for item in value])
        if hasattr(value, "__dict__") and not isinstance(value, (nn.Module, type)):
            own = _told(vars(value), depth + 1)
            return f"{_class(value)} {getattr(value, '__qualname__', '')} {own}"
    return _class(value)


def _class(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
