"""Weights, harm and distillation along the decision boundary."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from mpo.errors import UsageError
from mpo.optimizer.analysis.boundary import boundary_harm, emphasis, tau_of, weights
from mpo.optimizer.analysis.harm import HarmMeter
from mpo.optimizer.data.batches import Batch
from mpo.optimizer.training.objective import distillation


def logits(*gaps: float) -> Tensor:
    """Two classes whose logits differ by these gaps."""
    return torch.tensor([[gap, 0.0] for gap in gaps])


def test_a_decision_on_the_boundary_weighs_one_and_falls_by_the_margin() -> None:
    found = weights(logits(0.0, 2.0, -2.0), 2.0)
    assert found.tolist() == pytest.approx([1.0, math.exp(-1), math.exp(-1)])
    assert tau_of([logits(1, 2), logits(3, 4, 5)]) == 2.0
    assert tau_of([logits(0, 0)]) > 0


def test_the_same_turn_harms_more_near_the_boundary() -> None:
    before = [logits(0.1, 1.0, 4.0, 8.0)]
    near, far = before[0].clone(), before[0].clone()
    near[0] = torch.tensor([-0.1, 0.0])
    far[3] = torch.tensor([-0.1, 0.0])
    assert boundary_harm(before, before) == (0.0, 1.0)
    near_harm, near_equal = boundary_harm(before, [near])
    far_harm, far_equal = boundary_harm(before, [far])
    assert near_harm > 10 * far_harm > 0
    assert near_equal < far_equal < 1


class Shift(nn.Module):
    """Moves the gap between two logits where the third column, the gap in the end, is small; or
    where it is not."""

    def __init__(self, near: bool) -> None:
        super().__init__()
        self.near = near

    def forward(self, x: Tensor) -> Tensor:
        close = x[:, 2].abs() < 0.5
        moved = torch.where(close if self.near else ~close, 0.6, 0.0)
        return x + moved[:, None] * torch.tensor([-1.0, 1.0, 0.0])


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleList([Shift(near=True), Shift(near=False)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.body:
            x = block(x)
        return x[:, :2]


def test_the_meter_ranks_blocks_by_what_they_do_along_the_boundary() -> None:
    gaps = torch.linspace(-4, 4, 80)
    data = [Batch((torch.stack([gaps / 2 + 0.6, -gaps / 2 - 0.6, gaps], 1),), {})]
    near = HarmMeter(Blocks(), data, boundary=True)
    plain = HarmMeter(Blocks(), data)
    assert near.kl(["body.0"]) / near.kl(["body.1"]) > plain.kl(["body.0"]) / plain.kl(["body.1"])
    assert near.agreement(["body.0"]) < plain.agreement(["body.0"]) < 1


def test_harm_along_the_boundary_of_values_is_refused() -> None:
    with pytest.raises(UsageError, match="class logits"):
        HarmMeter(nn.Linear(2, 1), [Batch((torch.zeros(3, 2),), {})], "values", boundary=True)


def test_distillation_counts_the_boundary_most_and_as_much_in_all() -> None:
    teacher = logits(0.0, 1.0, 3.0, 9.0)
    counts = emphasis(teacher)
    assert counts.mean().item() == pytest.approx(1.0)
    assert counts.tolist() == sorted(counts.tolist(), reverse=True)
    student = teacher + torch.tensor([1.0, 0.0])
    plain = distillation(student, teacher, None)
    assert distillation(student, teacher, None, boundary=True) > plain
    assert distillation(teacher, teacher, None, boundary=True).item() == pytest.approx(0, abs=1e-6)
