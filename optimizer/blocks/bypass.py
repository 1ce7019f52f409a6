"""Blocks that stand aside: what a block would hand on if it did nothing, without running it.

A block's *template* says what it returns, as JSON: where its hidden state goes, which other
arguments it hands through untouched, and None for anything that it computes on the side.

    {"hidden": "args"}         the hidden state, the first floating tensor of the arguments
    {"hidden": "NAME"}         the hidden state, passed as the keyword NAME
    {"arg": 2} {"kwarg": "x"}  an argument that the block returns as it came
    {"value": null}            anything else: None in its place
    {"tuple": [...]} {"list": [...]} {"dict": {...}}   nests of these
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from mpo.errors import MpoError, UsageError
from mpo.optimizer.blocks.activations import evaluating
from mpo.optimizer.data.batches import leaves

Template = dict[str, Any]
# Under this key find_blocks notes on a block how it may go: plain JSON in the module's __dict__, so
# that copies of the model know it too and no state dict, parameter list or pickle depends on mpo.
NOTE = "_mpo_removal"


class Passthrough(nn.Module):
    """What takes the place of a removed block that is addressed by its attribute or position.

    It has no parameters and no buffers, and returns what the block would return if it did nothing.

    Args:
        template: the block's template; by default the block maps one tensor to one tensor.
    """

    def __init__(self, template: Template | None = None) -> None:
        super().__init__()
        self.template: Template = template or {"hidden": "args"}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the hidden state in the structure that the host expects."""
        return fill(self.template, args, kwargs)

    def extra_repr(self) -> str:
        """Say when it returns more than the hidden state."""
        return "" if "hidden" in self.template else f"template={self.template}"


def hidden_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[str, Tensor] | None:
    """Where a call's hidden state is ("args" or a keyword) and the state itself.

    It is the first floating tensor of the positional arguments, and only without one that of the
    keywords: a block that takes (x, skip) changes x, whatever shape the skip has.
    """
    for leaf in leaves(args):
        if leaf.is_floating_point():
            return "args", leaf
    for key, value in kwargs.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            return key, value
    return None


def fill(template: Template, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The template with the arguments of this call in it.

    Raises:
        MpoError: the call has no floating tensor to hand on.
    """
    (kind, value), *_ = template.items()
    if kind == "hidden":
        if value in kwargs:
            return kwargs[value]
        found = hidden_input(args, kwargs)
        if found is None:
            raise MpoError("A bypassed block was called without a floating tensor to hand on.")
        return found[1]
    if kind == "arg":
        return args[value] if value < len(args) else None
    if kind == "kwarg":
        return kwargs.get(value)
    if kind == "dict":
        return {key: fill(item, args, kwargs) for key, item in value.items()}
    if kind in {"tuple", "list"}:
        items = [fill(item, args, kwargs) for item in value]
        return tuple(items) if kind == "tuple" else items
    return None


def learn(output: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Template | None:
    """The template of a call that returned `output`; None when nothing floating went in or out."""
    found = hidden_input(args, kwargs)
    result = next((leaf for leaf in leaves(output) if leaf.is_floating_point()), None)
    if found is None or result is None:
        return None
    source, hidden = found

    def describe(value: Any) -> Template:
        if value is result:
            return {"hidden": source}
        if type(value) in {tuple, list}:
            return {type(value).__name__: [describe(item) for item in value]}
        if isinstance(value, Mapping):
            return {"dict": {str(key): describe(item) for key, item in value.items()}}
        if isinstance(value, Tensor) and value is not hidden:
            for index, item in enumerate(args):
                if item is value:
                    return {"arg": index}
            for key, item in kwargs.items():
                if item is value:
                    return {"kwarg": key}
        return {"value": None}

    return describe(output)


def find_named(model: nn.Module, names: Collection[str]) -> dict[str, nn.Module]:
    """The modules of these names.

    Raises:
        UsageError: the model has no module of that name; the nearest known one is named.
    """
    known = dict(model.named_modules())
    known.pop("", None)
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            guess = f"Did you mean {near[0]!r}?" if near else "Take the names from find_blocks."
            raise UsageError(f"The model has no block called {name!r}.", hint=guess)
    return {name: known[name] for name in names}


@contextmanager
def bypass(model: nn.Module, names: Collection[str]) -> Iterator[None]:
    """While active, each named block hands its hidden state on and computes nothing.

    May be nested, and always puts the blocks back. A block that find_blocks has not seen runs once,
    in evaluation mode, to learn what it returns.

    Raises:
        UsageError: the model has no block of that name.
    """
    blocks = find_named(model, names)
    with ExitStack() as stack:
        for block in blocks.values():
            stack.enter_context(_standing_aside(block))
        yield


@contextmanager
def standing_in(block: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """While active, the block runs `forward` in the place of its own."""
    before = vars(block).get("forward")
    block.forward = forward
    try:
        yield
    finally:
        if before is None:
            del block.forward
        else:
            block.forward = before


@contextmanager
def _standing_aside(block: nn.Module) -> Iterator[None]:
    forward: Callable[..., Any] = block.forward
    note = vars(block).get(NOTE)
    known: list[Template] = [note["template"]] if note else []

    def stand_in(*args: Any, **kwargs: Any) -> Any:
        if not known:
            known.append(_try_out(block, forward, args, kwargs))
        return fill(known[0], args, kwargs)

    with standing_in(block, stand_in):
        yield


def _try_out(
    block: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Template:
    # the block may write into its input, and must leave the generator as it is
    own_args = tuple(x.clone() if isinstance(x, Tensor) else x for x in args)
    own = {key: x.clone() if isinstance(x, Tensor) else x for key, x in kwargs.items()}
    with evaluating(block), torch.random.fork_rng(devices=[]):
        template = learn(forward(*own_args, **own), own_args, own)
    if template is None:
        raise MpoError(f"A {type(block).__name__} has no hidden state to hand on.")
    return template
