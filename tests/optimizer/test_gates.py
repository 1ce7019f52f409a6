"""Learned gates on blocks of which it is known who is needed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from mpo.errors import UsageError
from mpo.optimizer.blocks.finding import bypass
from mpo.optimizer.data.batches import Batch, forward
from mpo.optimizer.training.gates import OPEN, chance, drawn, gated, learn_gates

NAMES = ("body.0", "body.1", "body.2", "body.3")


class Turn(nn.Module):
    """x + amount * (a fixed mixing of x)."""

    def __init__(self, amount: float, seed: int) -> None:
        super().__init__()
        made = torch.randn(4, 4, generator=torch.Generator().manual_seed(seed))
        self.mix, self.amount = nn.Parameter(made), amount

    def forward(self, x: Tensor) -> Tensor:
        return x + self.amount * torch.tanh(x @ self.mix)


class Network(nn.Module):
    """Blocks 1 and 3 matter; 0 and 2 hardly do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*(Turn(a, i) for i, a in enumerate((0.01, 2.0, 0.01, 2.0))))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def data() -> list[Batch]:
    drawn = torch.randn(128, 4, generator=torch.Generator().manual_seed(9))
    return [Batch((part,), {}) for part in drawn.split(64)]


def test_an_open_gate_is_the_block_and_a_shut_one_its_bypass() -> None:
    model, batch = Network().eval(), data()[0]
    whole = forward(model, batch)
    with gated(model, NAMES, torch.ones(4)):
        assert torch.allclose(forward(model, batch), whole)
    with gated(model, NAMES, torch.tensor([1.0, 0.0, 1.0, 1.0])):
        shut = forward(model, batch)
    with bypass(model, ["body.1"]):
        assert torch.allclose(forward(model, batch), shut)
    assert torch.equal(forward(model, batch), whole)


def test_draws_are_exactly_zero_as_often_as_the_formula_says() -> None:
    random = torch.Generator().manual_seed(0)
    openness = torch.full((200_000,), -0.5)
    found = drawn(openness, random)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert float((found > 0).float().mean()) == pytest.approx(float(chance(openness[:1])), abs=5e-3)
    assert float(chance(torch.tensor(OPEN))) > 0.9


def test_the_blocks_that_matter_stay_open_and_the_model_is_left_as_it_was() -> None:
    model = Network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gates = learn_gates(model, dict.fromkeys(NAMES, 1.0), data(), target=0.5, steps=120)
    assert gates.removed(dict.fromkeys(NAMES, 1.0), 2.0) == ("body.0", "body.2")
    assert min(gates.open["body.1"], gates.open["body.3"]) > max(
        gates.open["body.0"], gates.open["body.2"]
    )
    assert gates.harm("body.1") > gates.harm("body.0") >= 0
    assert gates.kept < 0.8
    assert all(math.isfinite(loss) for loss in gates.losses)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_same_seed_learns_the_same_gates() -> None:
    costs = dict.fromkeys(NAMES, 1.0)
    first, second = (learn_gates(Network(), costs, data(), steps=10, seed=3) for _ in range(2))
    assert first == second


def test_without_blocks_or_batches_nothing_is_learned() -> None:
    with pytest.raises(UsageError, match="0 blocks"):
        learn_gates(Network(), {}, data())
    with pytest.raises(UsageError, match="0 batches"):
        learn_gates(Network(), {"body.0": 1.0}, [])
