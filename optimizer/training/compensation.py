"""Compensation without training: what a removal did to the hidden state is made up for in weights
that are there already.

*Folding.* Where a run of blocks went, the pruned model hands on h in the place of the original's
h_o. The last affine layer of the block before the cut puts out F; the correction D F + c that
comes nearest to h_o - h (least squares) is folded into that layer: weights W + D W, bias
b + D b + c. D is a full map of the channels where the layer can take one, else diagonal.

*BatchNorm.* Running statistics are taken anew, as plain averages over the calibration inputs.

Each step is kept only when it lowers the output's harm on calibration batches that were not used to
find it. The model stays the plain network that it was: nothing is added.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mpo.optimizer.analysis.harm import HarmMeter, Kind
from mpo.optimizer.blocks.activations import evaluating
from mpo.optimizer.blocks.cuts import Cut
from mpo.optimizer.data.batches import Batch, forward, rows
from mpo.optimizer.data.quality import drop, predictor
from mpo.optimizer.training.folding import Change, corrections
from mpo.records import Compensation, Quality


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

    Which comes first, BatchNorm or folding, is tried both ways.

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
    work = _Work(original, model, cuts, fit, HarmMeter(original, held, kind))
    steps = [work.fold] if folding else []
    orders = [steps]
    if recalibrate and has_batchnorm(model):
        orders = [[work.recalibrate, *steps]]
        orders += [[*steps, work.recalibrate]] if steps and cuts else []
    start = copy.deepcopy(model.state_dict())
    found: list[tuple[float, int, Compensation, dict[str, Any]]] = []
    for order in orders:
        model.load_state_dict(start)
        told = work.through(order)
        found.append((told.harm_after, len(found), told, copy.deepcopy(model.state_dict())))
    _, _, best, state = min(found, key=lambda one: one[:2])
    model.load_state_dict(state)
    model.eval()
    return best


def taken_back_where_worse(
    model: nn.Module, judge: Callable[[nn.Module], Quality], change: Callable[[], Compensation]
) -> Compensation:
    """Compensate, and take it back where it lowers the quality: outputs that are nearer to the
    original's are mostly, not always, better ones.

    Args:
        judge: gives a model's quality on validation data.
        change: compensates the model in place.
    """
    bare = copy.deepcopy(model.state_dict())
    told = change()
    if not told.steps:
        return told
    after = judge(model)
    made_up = copy.deepcopy(model.state_dict())
    model.load_state_dict(bare)
    before = judge(model)
    kept = drop(before, after) <= 0
    if kept:
        model.load_state_dict(made_up)
    known = {"quality_before": before.value, "quality_after": after.value, "kept": kept}
    return told.model_copy(update=known)


class _Work:
    """Attempts on one model, each kept only when it lowers the harm."""

    def __init__(
        self,
        original: nn.Module,
        model: nn.Module,
        cuts: tuple[Cut, ...],
        fit: list[Batch],
        meter: HarmMeter,
    ) -> None:
        self.original, self.model, self.cuts, self.fit = original, model, cuts, fit
        self.meter, self.harm = meter, 0.0
        self.done: list[str] = []

    def through(self, order: Sequence[Change]) -> Compensation:
        """Take these steps, one after the other."""
        self.done = []
        before = self.harm = self.meter.judge(predictor(self.model)).kl
        for step in order:
            step()
        return Compensation(steps=tuple(self.done), harm_before=before, harm_after=self.harm)

    def attempt(self, told: str, change: Change) -> bool:
        """Make a change, and take it back when it helps nothing."""
        start = copy.deepcopy(self.model.state_dict())
        change()
        found = self.meter.judge(predictor(self.model)).kl
        if not found < self.harm:
            self.model.load_state_dict(start)
            return False
        self.done.append(f"{told}: harm {self.harm:.4g} -> {found:.4g}")
        self.harm = found
        return True

    def recalibrate(self) -> None:
        """BatchNorm's statistics."""
        self.attempt(
            "BatchNorm statistics taken anew", lambda: recalibrate_batchnorm(self.model, self.fit)
        )

    def fold(self) -> None:
        """What the runs did, folded in, the first cut first."""
        for cut in self.cuts:
            for change in corrections(self.original, self.model, cut, self.fit):
                if self.attempt(f"what {cut.run} did folded into {cut.student}", change):
                    break


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
