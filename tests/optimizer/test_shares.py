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
from mpo.optimizer.training.shares import evened, ratio
from tests.optimizer.test_compensation import cut, rows
from tests.optimizer.test_cuts import Tower


def labelled(count: int = 3) -> list[Batch]:
    make = torch.Generator().manual_seed(3)
    return [
        replace(one, targets=torch.randn(len(one.args[0]), 3, generator=make))
        for one in rows(count)
    ]


def total(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss in other units: the sum over the batch, a thousand times too large."""
    return 1000 * F.mse_loss(outputs, targets, reduction="sum")


def objective(teacher: torch.nn.Module, loss: Loss) -> Objective:
    frozen = copy.deepcopy(teacher).eval().requires_grad_(False)
    return Objective(frozen, loss, kind="values")


def test_a_loss_of_any_units_pulls_as_much_as_the_teacher() -> None:
    model, pruned, _ = cut(Tower(), ["blocks.1"], rows()[0])
    batches = labelled()
    for loss in (F.mse_loss, total):
        found = evened(objective(model, loss), pruned, batches[:1])
        task = replace(found, teacher=None)
        word = replace(found, task_share=0.0)
        assert found.task_scale * ratio(task, word, pruned, batches[:1]) == pytest.approx(1)
    plain, large = (evened(objective(model, one), pruned, batches) for one in (F.mse_loss, total))
    with torch.no_grad():
        losses = [float(one(pruned, batches[0])) for one in (plain, large)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_cross_entropy_a_missing_teacher_and_missing_labels_change_nothing() -> None:
    model, pruned, _ = cut(Tower(), ["blocks.1"], rows()[0])
    usual = objective(model, cross_entropy)
    assert evened(usual, pruned, labelled()) is usual
    alone = replace(objective(model, total), teacher=None)
    assert evened(alone, pruned, labelled()) is alone
    unlabelled = objective(model, total)
    assert evened(unlabelled, pruned, rows()) is unlabelled
