"""How much each part of an objective pulls: measured by its gradient, whatever its units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, autograd, nn

from mpo.optimizer.blocks.activations import evaluation_mode
from mpo.optimizer.data.batches import Batch
from mpo.optimizer.training.objective import Objective
from mpo.optimizer.training.trainer import trainable


def evened(objective: Objective, student: nn.Module, batches: Sequence[Batch]) -> Objective:
    """The objective with the task's own loss scaled to pull as much as the teacher's word does.

    Cross-entropy and the distillation of logits are of one scale as they are (Hinton, Vinyals &
    Dean 2015, section 2). Of a subject's loss nothing is known: it may be a sum over the batch, or
    in squared metres, and drown the teacher or be drowned.
    """
    labelled = [batch for batch in batches if batch.targets is not None]
    if objective.teacher is None or objective.usual or not labelled:
        return objective
    task, word = replace(objective, teacher=None), replace(objective, task_share=0.0)
    factor = ratio(word, task, student, labelled)
    return replace(objective, task_scale=factor) if factor > 0 else objective


def ratio(one: Objective, other: Objective, student: nn.Module, batches: Sequence[Batch]) -> float:
    """The first objective's gradient over the second's, by norm over all trained parameters,
    averaged over the batches; 0 where the second has none."""
    found = []
    with evaluation_mode(student):
        for batch in batches:
            ours, theirs = (_norm(x, student, batch) for x in (one, other))
            if theirs > 0 and math.isfinite(ours / theirs):
                found.append(ours / theirs)
    return sum(found) / len(found) if found else 0.0


def _norm(objective: Objective, student: nn.Module, batch: Batch) -> float:
    parameters = trainable(student)
    grads = autograd.grad(objective(student, batch), parameters, allow_unused=True)
    given: list[Tensor | None] = list(grads)
    return math.sqrt(sum(float(grad.square().sum()) for grad in given if grad is not None))
