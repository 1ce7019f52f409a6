from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mpo.optimizer.data.batches import Batch
from mpo.optimizer.data.subject import Loss
from mpo.optimizer.data.tasks import cross_entropy
from mpo.optimizer.training.objective import Objective
from mpo.optimizer.training.shares import evened
from tests.optimizer.test_compensation import cut, rows
from tests.optimizer.test_cuts import Tower


def labelled(teacher: torch.nn.Module) -> list[Batch]:
    """Inputs with what the teacher says of them."""
    with torch.no_grad():
        return [replace(one, targets=teacher(*one.args)) for one in rows(3)]


def total(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss in other units: the sum over the batch, a thousand times too large."""
    return 1000 * F.mse_loss(outputs, targets, reduction="sum")


def objective(teacher: torch.nn.Module, loss: Loss) -> Objective:
    frozen = copy.deepcopy(teacher).eval().requires_grad_(False)
    return Objective(frozen, loss, kind="values")


@pytest.mark.parametrize("loss", [F.mse_loss, total])
def test_a_loss_of_any_units_charges_for_chance_what_the_teacher_does(loss: Loss) -> None:
    model, pruned, _ = cut(Tower(), ["blocks.1"], rows()[0])
    batches = labelled(model)
    found = evened(objective(model, loss), batches)
    # the labels are the teacher's outputs: the task is then the distillation, in its own units
    task, word = replace(found, task_share=1.0), replace(found, task_share=0.0)
    with torch.no_grad():
        losses = [sum(float(one(pruned, batch)) for batch in batches) for one in (task, word)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_a_loss_that_knows_no_better_than_chance_stays_as_it_is() -> None:
    model, _, _ = cut(Tower(), ["blocks.1"], rows()[0])
    found = evened(objective(model, lambda outputs, targets: outputs.sum() * 0.0), labelled(model))
    assert found.task_scale == 1.0


def test_cross_entropy_a_missing_teacher_and_missing_labels_change_nothing() -> None:
    model, _, _ = cut(Tower(), ["blocks.1"], rows()[0])
    for loss in (cross_entropy, F.cross_entropy):
        usual = objective(model, loss)
        assert evened(usual, labelled(model)) is usual
    alone = replace(objective(model, total), teacher=None)
    assert evened(alone, labelled(model)) is alone
    unlabelled = objective(model, total)
    assert evened(unlabelled, rows()) is unlabelled
