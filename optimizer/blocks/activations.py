"""What a block lets out, as one row of features an example: the raw material of CKA and branch
ratios.

How a block's hidden tensor becomes rows (the choice that the figures depend on):

* [B, T, D] beside an attention mask [B, T]: the mean over the valid tokens, the first and the last
  valid token, side by side (3 D wide). Padding never counts, and the width does not depend on the
  padded length.
* everything else (images, vectors, sequences without a mask): flattened; when wider than `width`,
  every s-th coordinate from a seeded offset, s coprime with the length so that channels and
  positions are both covered.

The linear kernel of a uniform subset of coordinates estimates that of all of them up to a factor,
which CKA ignores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mpo.errors import UsageError
from mpo.optimizer.data.batches import Batch, leaves, take

Visitor = Callable[[int, Tensor], None]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; every module's own mode is put back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The same without gradients.

    `no_grad` rather than `inference_mode`: a buffer that the model fills lazily must stay usable in
    training.
    """
    with evaluation_mode(model), torch.no_grad():
        yield


def find_modules(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """The modules of these names, in the same order.

    Raises:
        UsageError: the model has no module of that name.
    """
    known = dict(model.named_modules())
    missing = [name for name in names if name not in known]
    if missing:
        raise UsageError(
            f"The model has no module called {missing[0]!r} ({len(missing)} unknown names).",
            hint="Take the names from find_blocks on this very model.",
        )
    return [known[name] for name in names]


@contextmanager
def watching(
    model: nn.Module, names: Sequence[str], enter: Visitor, leave: Visitor
) -> Iterator[None]:
    """While active, every call of a named block hands its tensor to `enter` before and to `leave`
    after it runs.

    Both get (position in names, first floating tensor of the arguments or of the outputs); calls
    without one are passed over. The tensors are live: take what you need at once, since later
    modules may write in place.
    """

    def before(position: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            tensor = first_floating((args, kwargs))
            if tensor is not None:
                enter(position, tensor)

        return hook

    def after(position: int) -> Callable[..., None]:
        def hook(_: nn.Module, __: tuple[Any, ...], outputs: Any) -> None:
            tensor = first_floating(outputs)
            if tensor is not None:
                leave(position, tensor)

        return hook

    with ExitStack() as stack:
        for position, module in enumerate(find_modules(model, names)):
            entering = module.register_forward_pre_hook(before(position), with_kwargs=True)
            stack.callback(entering.remove)
            stack.callback(module.register_forward_hook(after(position)).remove)
        yield


def leading(batches: Iterable[Batch], examples: int) -> Iterator[Batch]:
    """The first `examples` examples, one batch at a time, the last one cut to fit."""
    left = examples
    for batch in batches:
        size = batch.size
        yield batch if size <= left else take(batch, left)
        left -= size
        if left <= 0:
            return


def first_floating(value: Any) -> Tensor | None:
    """The first floating tensor inside a nest: the hidden state of blocks that return tuples."""
    return next((leaf for leaf in leaves(value) if leaf.is_floating_point()), None)


def flatten(hidden: Tensor, mask: Tensor | None, width: int, seed: int) -> Tensor:
    """[B, ...] to [B, at most `width`]: masked tokens zeroed, every s-th coordinate when wider."""
    return thin(blank(hidden, mask).flatten(1), width, seed)


def find_mask(batch: Batch) -> Tensor | None:
    """The keyword argument that looks like an attention mask, as bool [B, T], or None."""
    for key, value in batch.kwargs.items():
        if key.endswith("mask") and isinstance(value, Tensor) and value.dim() == 2:
            return value.bool()
    return None


def batch_first(hidden: Tensor, examples: int) -> Tensor | None:
    """The tensor with one row an example ([B, ...]); None when no axis can be the batch.

    Sequence-first tensors are turned; [B * T, D] is split into B rows.
    """
    if hidden.dim() == 0 or hidden.numel() == 0:
        return None
    if hidden.shape[0] == examples:
        return hidden
    axes = [axis for axis, length in enumerate(hidden.shape) if length == examples]
    if len(axes) == 1:
        return hidden.movedim(axes[0], 0)
    return hidden.reshape(examples, -1) if hidden.shape[0] % examples == 0 else None


def fits_mask(hidden: Tensor, mask: Tensor | None) -> bool:
    """Whether [B, T, D] and a mask [B, T] speak of the same tokens."""
    return mask is not None and hidden.dim() == 3 and hidden.shape[:2] == mask.shape


def blank(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """[B, T, D] with zeros at the tokens that the mask leaves out; anything else unchanged."""
    if mask is not None and fits_mask(hidden, mask):
        return hidden.masked_fill(~mask.unsqueeze(-1).to(hidden.device), 0)
    return hidden


def pool_tokens(hidden: Tensor, mask: Tensor | None, flat: Tensor) -> Tensor:
    """[B, T, D] under a mask [B, T] to [B, 3 D]: mean, first, last valid token; else `flat`."""
    if mask is None or not fits_mask(hidden, mask):
        return flat
    mask = mask.to(hidden.device)
    valid = mask.unsqueeze(-1)
    mean = hidden.masked_fill(~valid, 0).sum(1) / valid.sum(1).clamp(min=1)
    rows = torch.arange(len(hidden), device=hidden.device)
    first = mask.int().argmax(1)
    last = mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
    return torch.cat([mean, hidden[rows, first], hidden[rows, last]], dim=1)


def thin(flat: Tensor, width: int, seed: int) -> Tensor:
    """[B, P] to at most `width` evenly spread columns; the same columns for the same P and seed."""
    length = flat.shape[1]
    if length <= width:
        return flat
    stride = -(-length // width)
    while math.gcd(stride, length) > 1:
        stride += 1
    return flat[:, seed % stride :: stride]
