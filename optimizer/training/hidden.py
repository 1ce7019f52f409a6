"""Hidden states across the cuts: a second teacher beside the outputs.

What the pruned model hands on where blocks stood is drawn to what the original handed on there,

    loss = task and output distillation + w * mean over cuts of ||h - h_o||^2 / ||h_o||^2,

as FitNets do with hints (Romero et al. 2015, arXiv 1412.6550). The weight w is measured: at the
start the hidden term's gradient shall be a fixed share of the other one's, whatever the scales.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mpo.optimizer.blocks.activations import evaluation_mode
from mpo.optimizer.blocks.cuts import Cut, gap, states_at
from mpo.optimizer.data.batches import Batch, forward
from mpo.optimizer.training.objective import Objective
from mpo.optimizer.training.trainer import trainable


@dataclass(frozen=True)
class Across(Objective):
    """An objective with the hidden states at the cuts in it.

    Attributes:
        cuts: where blocks were taken out.
        weight: of the hidden term.
        alone: minimise the hidden term only.
    """

    cuts: tuple[Cut, ...] = ()
    weight: float = 0.0
    alone: bool = False

    def __call__(self, student: nn.Module, batch: Batch) -> Tensor:
        """The loss of one batch, with the student's graph."""
        if self.teacher is None or not self.cuts:
            return super().__call__(student, batch)
        with states_at(self.cuts, student, self.teacher) as held:
            if self.alone:
                forward(student, batch)
                with torch.no_grad():
                    forward(self.teacher, batch)
            else:
                loss = super().__call__(student, batch)
        gaps = [gap(ours, theirs, batch) for _, ours, theirs in held.pairs()]
        hidden = torch.stack(gaps).mean() if gaps else next(student.parameters()).sum() * 0.0
        return hidden if self.alone else loss + self.weight * hidden


def across(objective: Objective, cuts: tuple[Cut, ...], weight: float = 0.0) -> Across:
    """The objective with the hidden states at these cuts."""
    return Across(**vars(objective), cuts=cuts, weight=weight)


def balanced(
    objective: Across, student: nn.Module, batches: Sequence[Batch], share: float
) -> Across:
    """The objective with the weight at which the hidden term's gradient is `share` of the rest's,
    by norm over all trained parameters, averaged over the batches."""
    rest = replace(objective, cuts=())
    alone = replace(objective, alone=True)
    ratios = []
    with evaluation_mode(student):
        for batch in batches:
            ours, theirs = (_norm(one, student, batch) for one in (rest, alone))
            if theirs > 0:
                ratios.append(ours / theirs)
    weight = share * sum(ratios) / len(ratios) if ratios else 0.0
    return replace(objective, weight=weight)


def _norm(objective: Objective, student: nn.Module, batch: Batch) -> float:
    parameters = trainable(student)
    grads = torch.autograd.grad(objective(student, batch), parameters, allow_unused=True)
    given: list[Tensor | None] = list(grads)
    return math.sqrt(sum(float(grad.square().sum()) for grad in given if grad is not None))
