"""An own loss beside the teacher's word, whatever its units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mpo.optimizer.blocks.activations import evaluation_mode
from mpo.optimizer.data.batches import Batch, forward, map_tensors
from mpo.optimizer.training.objective import Objective, distillation


def evened(objective: Objective, batches: Sequence[Batch]) -> Objective:
    """The objective with the subject's own loss in the units of the distillation.

    Cross-entropy and the distillation of logits are of one scale as they are (Hinton, Vinyals &
    Dean 2015, section 2). Of a subject's loss nothing is known: it may be a sum over the batch, or
    in squared metres, and drown the teacher or be drowned. What it costs to answer by chance is
    known: the outputs of the example before, in the place of an example's own. Both parts shall
    charge alike for that, above what the teacher's own outputs cost.
    """
    teacher = objective.teacher
    labelled = [batch for batch in batches if batch.targets is not None]
    if teacher is None or objective.usual or not labelled:
        return objective
    task = word = 0.0
    with torch.no_grad(), evaluation_mode(teacher):
        for batch in labelled:
            own = forward(teacher, batch)
            other = _of_the_one_before(own, batch.size)
            task += float(objective.task(other, batch.targets))
            task -= float(objective.task(own, batch.targets))
            word += float(distillation(other, own, batch.targets, objective.kind))
    factor = word / task if task > 0 else math.nan
    return replace(objective, task_scale=factor) if 0 < factor < math.inf else objective


def _of_the_one_before(outputs: Any, size: int) -> Any:
    """Outputs with each example's in the place of the next one's."""

    def rolled(tensor: Tensor) -> Tensor:
        return tensor.roll(1, 0) if tensor.dim() and len(tensor) == size else tensor

    return map_tensors(outputs, rolled)
