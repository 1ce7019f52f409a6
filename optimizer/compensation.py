"""Compensation without training: what a removal did to the hidden state is made up for in weights
that are there already.

*Folding.* Where a run of blocks went, the pruned model hands on h in the place of the original's
h_o. The last affine layer of the block before the cut puts out F; per channel the correction
d F + c that comes nearest to h_o - h (least squares) is folded into that layer: weights times
1 + d, XX

*BatchNorm.* Running statistics are taken anew, as plain averages over the calibration inputs.

Each step is kept only when it lowers the output's harm on calibration batches that were not used to
find it. The model stays the plain network that it was: nothing is added.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from mpo.optimizer.activations import evaluating, first_floating
from mpo.optimizer.batches import Batch, forward, rows
from mpo.optimizer.cuts import Cut, counted, states_at
from mpo.optimizer.harm import HarmMeter, Kind
from mpo.optimizer.quality import predictor
from mpo.records import Compensation

LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm)  # channels lie on the last axis
SECOND = (_ConvNd, _BatchNorm, nn.GroupNorm)  # on the second one
Change = Callable[[], None]


def compensate(
    original: nn.Module,
    model: nn.Module,
    cuts: tuple[Cut, ...],
    batches: Sequence[Batch],
    kind: Kind,
    *,
    folding: bool = True,
    recalibrate: bool = True,
) -> Compensation:
    """Compensate in place for what was removed, as far as it helps the outputs.

    Args:
        original: in evaluation mode.
        model: the pruned model.
        cuts: where blocks went.
        batches: calibration data; every other batch only judges.
        kind: of the outputs.
        folding: whether to fold corrections in.
        recalibrate: whether to take BatchNorm's statistics anew.
    """
    fit, held = halves(batches)
    meter = HarmMeter(original, held, kind)
    before = now = meter.judge(predictor(model)).kl
    done: list[str] = []

    def attempt(told: str, change: Change) -> None:
        nonlocal now
        start = copy.deepcopy(model.state_dict())
        change()
        found = meter.judge(predictor(model)).kl
        if found < now:
            done.append(f"{told}: harm {now:.4g} -> {found:.4g}")
            now = found
        else:
            model.load_state_dict(start)

    if recalibrate and has_batchnorm(model):
        attempt("BatchNorm statistics taken anew", lambda: recalibrate_batchnorm(model, fit))
    for cut in cuts if folding else ():
        change = corrected(original, model, cut, fit)
        if change is not None:
            attempt(f"what {cut.run} did folded into {cut.student}", change)
    model.eval()
    return Compensation(steps=tuple(done), harm_before=before, harm_after=now)


def halves(batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Batches to fit on and batches to judge on; one batch alone is cut in two by examples."""
    if len(batches) > 1:
        return list(batches[::2]), list(batches[1::2])
    only = batches[0]
    order = torch.arange(only.size)
    if only.size < 2:
        return [only], [only]
    return [rows(only, order[::2])], [rows(only, order[1::2])]


def has_batchnorm(model: nn.Module) -> bool:
    """Whether a layer keeps running statistics."""
    return any(isinstance(m, _BatchNorm) and m.track_running_stats for m in model.modules())


def recalibrate_batchnorm(model: nn.Module, batches: Sequence[Batch]) -> None:
    """Take running means and variances anew: plain averages over the batches (momentum None).

    Batches of one example say nothing of variance and are left out; without any other the old
    statistics stay.
    """
    usable = [batch for batch in batches if batch.size > 1]
    if not usable:
        return
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [layer.momentum for layer in layers]
    with evaluating(model):
        try:
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = None
                layer.train()
            for batch in usable:
                forward(model, batch)
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum


@dataclass
class Sums:
    """Sums over all positions of all batches, per channel [C]: for least squares of r = theirs -
    ours on F. `ours` and `theirs` add up magnitudes."""

    count: float = 0.0
    f: Tensor | float = 0.0
    ff: Tensor | float = 0.0
    r: Tensor | float = 0.0
    fr: Tensor | float = 0.0
    ours: float = 0.0
    theirs: float = 0.0

    def add(self, f: Tensor, ours: Tensor, theirs: Tensor) -> None:
        """Take in [N, C] of each."""
        f, ours, theirs = f.double(), ours.double(), theirs.double()
        r = theirs - ours
        self.count += len(f)
        self.f, self.ff = self.f + f.sum(0), self.ff + f.square().sum(0)
        self.r, self.fr = self.r + r.sum(0), self.fr + (f * r).sum(0)
        self.ours += float(ours.abs().sum())
        self.theirs += float(theirs.abs().sum())

    def correction(self, *, bias: bool) -> tuple[Tensor, Tensor]:
        """(slope, shift) per channel that bring slope F + shift nearest to r; without a bias the
        shift is 0."""
        f, r = torch.as_tensor(self.f), torch.as_tensor(self.r)
        ff, fr = torch.as_tensor(self.ff), torch.as_tensor(self.fr)
        if not bias:
            return fr / ff.clamp_min(1e-12), torch.zeros_like(f)
        mean_f, mean_r = f / self.count, r / self.count
        spread = ff / self.count - mean_f.square()
        slope = (fr / self.count - mean_f * mean_r) / spread.clamp_min(1e-8)
        slope = torch.where(spread > 1e-8, slope, torch.zeros_like(slope))
        return slope, mean_r - slope * mean_f


def corrected(
    original: nn.Module, model: nn.Module, cut: Cut, batches: Sequence[Batch]
) -> Change | None:
    """How to fold in what is missing at a cut; None when there is nothing to fold it into."""
    layer = last_affine(model, cut, batches[0])
    if layer is None:
        return None
    sums = gather(original, model, cut, layer, batches)
    if not sums.count:
        return None
    slope, shift = sums.correction(bias=layer.bias is not None)
    return lambda: fold(layer, slope, shift)


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
    """Let an affine layer put out (1 + slope) F + shift in the place of F; both are [C] or one
    number, and a layer without a bias is only scaled."""
    weight: Tensor = layer.weight
    factor = (1 + slope).to(weight)
    transposed = getattr(layer, "transposed", False)
    shape = [1, -1] if transposed else [-1, 1]
    wide = (
        factor.reshape(shape + [1] * (weight.dim() - 2))
        if weight.dim() > 1 and factor.dim()
        else factor
    )
    weight.mul_(wide)
    if layer.bias is not None:
        layer.bias.mul_(factor).add_(shift.to(weight))
