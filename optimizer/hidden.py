"""Hidden states across the cuts: a second teacher beside the outputs.

What the pruned model hands on where blocks stood is drawn to what the original handed on there,

    loss = task and output distillation + w * mean over cuts of ||h - h_o||^2 / ||h_o||^2,

as FitNets do with hints (Romero et al. 2015, arXiv 1412.6550). The weight w is measured: at the
start the hidden term's gradient shall be a fixed share of the other one's, whatever the scales.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mpo.optimizer.activations import evaluation_mode
from mpo.optimizer.batches import Batch, forward
from mpo.optimizer.cuts import Cut, gap, states_at
from mpo.optimizer.objective import Objective
from mpo.optimizer.randomness import own_randomness
from mpo.optimizer.trainer import Trainer, trainable


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


def warm_start(
    student: nn.Module,
    objective: Across,
    batches: Sequence[Batch],
    *,
    rate: float,
    steps: int,
    seed: int = 0,
) -> tuple[float, float]:
    """Train only the modules before the cuts to hand on what the removed runs handed on.

    As LLM-Streamline (arXiv 2403.19135) trains a small network in the place of a run; here it is
    the block that is there already. Kept only when the hidden states come nearer.

    Args:
        batches: the last ones, a quarter, judge.

    Returns:
        The hidden term on the judging batches before and after.
    """
    alone = replace(objective, alone=True)
    held = max(1, len(batches) // 4)
    fit, judge = batches[:-held] or batches, batches[-held:]
    known = dict(student.named_modules())
    own = {id(p) for cut in alone.cuts if cut.trained for p in known[cut.student].parameters()}
    start, before = copy.deepcopy(student.state_dict()), _mean(alone, student, judge)
    asking = trainable(student)
    if not own:
        return before, before
    try:
        for parameter in asking:
            parameter.requires_grad_(id(parameter) in own)
        with own_randomness(seed):
            trainer = Trainer(student, alone, rate, steps)
            for step in range(steps):
                trainer.step(fit[step % len(fit)])
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
    after = _mean(alone, student, judge)
    if not after < before:
        student.load_state_dict(start)
        after = before
    student.eval()
    return before, after


def _mean(objective: Objective, student: nn.Module, batches: Sequence[Batch]) -> float:
    with evaluation_mode(student), torch.no_grad():
        return sum(float(objective(student, batch)) for batch in batches) / len(batches)
