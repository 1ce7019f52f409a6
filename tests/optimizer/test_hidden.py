from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mpo.optimizer.hidden import Across, across, balanced, warm_start
from mpo.optimizer.objective import Objective
from mpo.optimizer.tasks import cross_entropy
from mpo.optimizer.trainer import trainable
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


def test_the_warm_start_trains_only_the_block_before_the_cut() -> None:
    model, pruned, cuts = cut(Tower(), ["blocks.1", "blocks.2"], rows()[0])
    before = copy.deepcopy(pruned.state_dict())
    gap, nearer = warm_start(
        pruned, across(objective(model), cuts), rows(), rate=1e-2, steps=30, seed=1
    )
    assert nearer < 0.9 * gap
    changed = {
        key for key, value in pruned.state_dict().items() if not torch.equal(before[key], value)
    }
    assert changed
    assert all(key.startswith("blocks.0.") for key in changed)
    assert all(parameter.requires_grad for parameter in pruned.parameters())


def test_a_warm_start_that_brings_nothing_nearer_is_taken_back() -> None:
    model, pruned, cuts = cut(Tower(), ["blocks.1"], rows()[0])
    before = copy.deepcopy(pruned.state_dict())
    gap, after = warm_start(pruned, across(objective(model), cuts), rows(), rate=1e4, steps=2)
    assert after == gap
    assert all(torch.equal(before[key], value) for key, value in pruned.state_dict().items())
