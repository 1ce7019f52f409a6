from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mpo.optimizer.data.tasks import cross_entropy
from mpo.optimizer.training.hidden import Across, across, balanced
from mpo.optimizer.training.objective import Objective
from mpo.optimizer.training.trainer import trainable
from tests.optimizer.test_compensation import cut, rows
from tests.optimizer.test_cuts import Tower


def objective(teacher: nn.Module) -> Objective:
    frozen = copy.deepcopy(teacher).eval().requires_grad_(False)
    return Objective(frozen, cross_entropy, kind="values")


def norm(one: Objective, model: nn.Module) -> float:
    grads = torch.autograd.grad(
        one(model, rows()[0]), trainable(model), allow_unused=True, materialize_grads=True
    )
    return sum(float(g.square().sum()) for g in grads) ** 0.5


def test_the_hidden_term_adds_to_the_loss_what_its_weight_says() -> None:
    model, pruned, cuts = cut(Tower(), ["blocks.1"], rows()[0])
    batch, found = rows()[0], across(objective(model), cuts, 3.0)
    alone = Across(**{**vars(found), "alone": True})
    with torch.no_grad():
        parts = float(objective(model)(pruned, batch)) + 3 * float(alone(pruned, batch))
        assert float(found(pruned, batch)) == pytest.approx(parts)
        assert float(alone(pruned, batch)) > 0


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_the_weight_makes_the_hidden_gradient_a_fixed_share_of_the_rest(share: float) -> None:
    model, pruned, cuts = cut(Tower(), ["blocks.1"], rows()[0])
    found = balanced(across(objective(model), cuts), pruned, rows()[:1], share)
    hidden = Across(**{**vars(found), "alone": True})
    rest = Across(**{**vars(found), "cuts": ()})
    assert found.weight * norm(hidden, pruned) == pytest.approx(share * norm(rest, pruned))
