"""Folding what is missing behind a cut into the last affine layer before it, by least squares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from mpo.optimizer.blocks.activations import evaluating, first_floating
from mpo.optimizer.blocks.cuts import Cut, counted, states_at
from mpo.optimizer.data.batches import Batch, forward

LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm)  # channels lie on the last axis
SECOND = (_ConvNd, _BatchNorm, nn.GroupNorm)  # on the second one
RIDGE, TINY = 1e-3, 1e-8
MIXED_ROWS = 4  # positions a channel, for a full map to be more than noise
Change = Callable[[], None]


class Sums:
    """Sums over all positions of all batches, for least squares of what is missing, r = theirs -
    ours, on a layer's output F; all of C channels.

    Attributes:
        count: positions.
        ours: sum of |ours|.
        theirs: sum of |theirs|.
    """

    def __init__(self) -> None:
        self.count = 0
        self.ours = self.theirs = 0.0
        self._ff: Tensor | float = 0.0
        self._fr: Tensor | float = 0.0

    def add(self, f: Tensor, ours: Tensor, theirs: Tensor) -> None:
        """Take in [N, C] of each."""
        f, ours, theirs = f.double(), ours.double(), theirs.double()
        wide = torch.cat([f, torch.ones_like(f[:, :1])], dim=1)
        self._ff = self._ff + wide.T @ wide
        self._fr = self._fr + wide.T @ (theirs - ours)
        self.count += len(f)
        self.ours += float(ours.abs().sum())
        self.theirs += float(theirs.abs().sum())

    def by_channel(self, *, bias: bool) -> tuple[Tensor, Tensor]:
        """(slope [C], shift [C]): slope F + shift comes nearest to r, each channel by itself;
        without a bias the shift is 0."""
        ff, fr = torch.as_tensor(self._ff), torch.as_tensor(self._fr)
        squares, products = ff.diagonal()[:-1] / self.count, fr[:-1].diagonal() / self.count
        if not bias:
            return products / squares.clamp_min(TINY), torch.zeros_like(squares)
        mean_f, mean_r = ff[-1, :-1] / self.count, fr[-1] / self.count
        spread = squares - mean_f.square()
        slope = (products - mean_f * mean_r) / spread.clamp_min(TINY)
        slope = torch.where(spread > TINY, slope, torch.zeros_like(slope))
        return slope, mean_r - slope * mean_f

    def mixed(self, *, bias: bool) -> tuple[Tensor, Tensor]:
        """(slope [C, C], shift [C]): F slope^T + shift comes nearest to r, with a small ridge."""
        ff, fr = torch.as_tensor(self._ff), torch.as_tensor(self._fr)
        if not bias:
            ff, fr = ff[:-1, :-1], fr[:-1]
        ridge = RIDGE * ff.diagonal().mean() * torch.eye(len(ff), dtype=ff.dtype)
        solved = torch.linalg.solve(ff + ridge, fr)
        if not bias:
            return solved.T, torch.zeros(solved.shape[1], dtype=solved.dtype)
        return solved[:-1].T, solved[-1]


def corrections(
    original: nn.Module, model: nn.Module, cut: Cut, batches: Sequence[Batch]
) -> Iterator[Change]:
    """What could be folded in at a cut, the richest first; none when there is no layer for it."""
    layer = last_affine(model, cut, batches[0])
    sums = Sums() if layer is None else gather(original, model, cut, layer, batches)
    if layer is None or not sums.count:
        return
    bias = layer.bias is not None
    if mixes(layer) and sums.count > MIXED_ROWS * layer.weight.shape[0]:
        yield lambda: fold(layer, *sums.mixed(bias=bias))
    yield lambda: fold(layer, *sums.by_channel(bias=bias))


def mixes(layer: nn.Module) -> bool:
    """Whether any linear map of a layer's outputs can be folded into it."""
    plain = isinstance(layer, nn.Linear) or (isinstance(layer, _ConvNd) and layer.groups == 1)
    return plain and not getattr(layer, "transposed", False)


def last_affine(model: nn.Module, cut: Cut, batch: Batch) -> Any | None:
    """The last affine layer that runs in the module before a cut, with outputs shaped as the hidden
    state; None without one, when it runs twice, or when another layer shares its weight."""
    if not cut.trained:
        return None
    called: list[tuple[nn.Module, torch.Size]] = []
    block = dict(model.named_modules())[cut.student]

    def note(module: nn.Module, _: Any, output: Any) -> None:
        found = first_floating(output)
        if found is not None:
            called.append((module, found.shape))

    with ExitStack() as stack:
        for module in block.modules():
            if isinstance(module, (*LAST, *SECOND)) or module is block:
                stack.callback(module.register_forward_hook(note).remove)
        with evaluating(model):
            forward(model, batch)
    shape = next((size for module, size in called if module is block), None)
    layers = [module for module, size in called if module is not block and size == shape]
    if not layers or layers.count(layers[-1]) > 1 or not _own(model, layers[-1]):
        return None
    return layers[-1]


def _own(model: nn.Module, layer: nn.Module) -> bool:
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or (
        not isinstance(layer, (nn.Linear, _ConvNd)) and weight.dim() != 1
    ):
        return False
    held = [p for m in model.modules() for p in m.parameters(recurse=False)]
    return sum(p is weight for p in held) == 1


@contextmanager
def _output_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    held: list[Tensor] = []

    def note(_: nn.Module, __: Any, output: Tensor) -> None:
        held[:] = [output.clone()]

    handle = layer.register_forward_hook(note)
    try:
        yield held
    finally:
        handle.remove()


def gather(
    original: nn.Module, model: nn.Module, cut: Cut, layer: nn.Module, batches: Sequence[Batch]
) -> Sums:
    """The layer's output, and both models' hidden states at a cut, over all batches."""
    sums = Sums()
    with evaluating(model), evaluating(original), _output_of(layer) as put_out:
        for batch in batches:
            with states_at((cut,), model, original) as held:
                forward(model, batch)
                forward(original, batch)
            for _, ours, theirs in held.pairs():
                if put_out[0].shape == ours.shape:
                    sums.add(*(_channels(one, layer, batch) for one in (put_out[0], ours, theirs)))
    return sums


def _channels(state: Tensor, layer: nn.Module, batch: Batch) -> Tensor:
    """[N, C] with the layer's channels last; masked tokens left out."""
    kept = state.movedim(1, -1) if isinstance(layer, SECOND) else counted(state, batch)
    return kept.reshape(-1, kept.shape[-1])


@torch.no_grad()
def fold(layer: Any, slope: Tensor, shift: Tensor) -> None:
    """Let an affine layer put out F + slope F + shift in the place of F.

    Args:
        slope: one number, or [C], or [C, C] where `mixes`; a layer without a bias takes no shift.
    """
    weight: Tensor = layer.weight
    bias: Tensor | None = layer.bias
    slope, shift = slope.to(weight), shift.to(weight)
    if slope.dim() == 2:
        weight.add_((slope @ weight.flatten(1)).reshape(weight.shape))
        if bias is not None:
            bias.add_(slope @ bias + shift)
        return
    wide = slope
    if weight.dim() > 1 and slope.dim():
        shape = [1, -1] if getattr(layer, "transposed", False) else [-1, 1]
        wide = slope.reshape(shape + [1] * (weight.dim() - 2))
    weight.mul_(1 + wide)
    if bias is not None:
        bias.mul_(1 + slope).add_(shift)
