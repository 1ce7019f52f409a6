"""The search over joint harm, against brute force on harms that do not add up."""

from __future__ import annotations

import random
from collections.abc import Collection
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from mpo.optimizer.analysis.harm import HarmMeter, measure_harm
from mpo.optimizer.data.batches import Batch
from mpo.optimizer.planning.planner import Item, Limit, holds, predict, solutions
from mpo.optimizer.planning.search import refine


class Quadratic:
    """Joint harm |sum of the removed blocks' effects|^2: cross terms make it far from additive."""

    def __init__(self, blocks: int, seed: int) -> None:
        rng = random.Random(seed)
        self.effects = {
            f"b{i}": [rng.gauss(0, 1) * (0.3 + rng.random()) for _ in range(4)]
            for i in range(blocks)
        }
        self.asked: list[frozenset[str]] = []

    def kl(self, removed: Collection[str]) -> float:
        self.asked.append(frozenset(removed))
        totals = (sum(self.effects[name][d] for name in removed) for d in range(4))
        return sum(total * total for total in totals)

    def items(self) -> list[Item]:
        rng = random.Random(len(self.effects))
        items = [
            Item(name, self.kl([name]), {"params": rng.choice([100, 400]), "macs": 10})
            for name in self.effects
        ]
        self.asked.clear()
        return items


def brute(meter: Quadratic, items: list[Item], limits: list[Limit]) -> list[float]:
    names = [item.name for item in items if not item.fixed]
    return sorted(
        meter.kl(chosen)
        for size in range(len(names) + 1)
        for chosen in combinations(names, size)
        if holds(predict(items, limits, chosen), limits)
    )


def half(items: list[Item]) -> list[Limit]:
    full = sum(item.savings["params"] for item in items)
    return [Limit("params", full, full / 2)]


def test_it_mostly_finds_the_best_of_all_sets_and_always_one_of_the_best_tenth() -> None:
    ranks = []
    for seed in range(10):
        meter = Quadratic(9, seed)
        items = meter.items()
        plans = refine(meter, items, half(items))
        assert len(meter.asked) <= 200
        every = brute(meter, items, half(items))
        best = plans[0].joint_kl
        assert best is not None
        ranks.append(sum(kl < best - 1e-9 for kl in every) / len(every))
    assert max(ranks) < 0.1
    assert ranks.count(0) >= len(ranks) / 2


def test_no_plan_is_worse_than_the_additive_proposal() -> None:
    for seed in range(10):
        meter = Quadratic(9, seed)
        items = meter.items()
        proposed = solutions(items, half(items), count=1)
        assert isinstance(proposed, tuple)
        assert (refine(meter, items, half(items))[0].joint_kl or 0) <= meter.kl(proposed[0].removed)


def test_plans_hold_the_budgets_differ_and_come_in_order() -> None:
    meter = Quadratic(10, 0)
    items = [*meter.items()]
    limits = [*half(items), Limit("macs", 100, 60)]
    plans = refine(meter, items, limits, count=4, distance=4)
    assert len(plans) > 1
    assert [plan.joint_kl for plan in plans] == sorted(plan.joint_kl or 0 for plan in plans)
    for plan in plans:
        assert plan.costs == predict(items, limits, plan.removed)
        assert holds(plan.costs, limits)
        assert plan.joint_kl == pytest.approx(meter.kl(plan.removed))
    for one, other in combinations(plans, 2):
        assert len(set(one.removed) ^ set(other.removed)) >= 4


def test_it_asks_no_more_than_allowed_and_still_answers() -> None:
    meter = Quadratic(12, 1)
    items = meter.items()
    plans = refine(meter, items, half(items), max_evaluations=5)
    assert len(meter.asked) == len(set(meter.asked)) == 5
    assert plans
    assert holds(plans[0].costs, half(items))


def test_fixed_blocks_stay_even_when_a_start_removes_them() -> None:
    meter = Quadratic(6, 2)
    items = [
        Item(item.name, item.harm, item.savings, fixed=item.name == "b0") for item in meter.items()
    ]
    plans = refine(meter, items, half(items), [["b0", "b1"]])
    assert plans
    assert not any("b0" in plan.removed for plan in plans)


def test_without_budgets_it_removes_at_least_as_many_as_the_largest_start() -> None:
    meter = Quadratic(8, 3)
    items = meter.items()
    plans = refine(meter, items, [], [["b0"], ["b1", "b2", "b3"]])
    assert min(len(plan.removed) for plan in plans) >= 3
    assert (plans[0].joint_kl or 0) <= meter.kl(["b1", "b2", "b3"])
    assert plans[0].costs == {}


def test_a_budget_that_holds_already_removes_nothing() -> None:
    meter = Quadratic(4, 0)
    plans = refine(meter, meter.items(), [Limit("params", 100, 100)])
    assert (plans[0].removed, plans[0].joint_kl) == ((), 0.0)


def test_an_impossible_budget_has_no_plan_and_costs_no_evaluation() -> None:
    meter = Quadratic(4, 0)
    assert refine(meter, meter.items(), [Limit("params", 10**6, 1)]) == ()
    assert meter.asked == []


def test_the_same_inputs_give_the_same_plans() -> None:
    one, other = Quadratic(9, 5), Quadratic(9, 5)
    items = one.items()
    assert refine(one, items, half(items)) == refine(other, items, half(items))
    assert one.asked == other.asked


class Block(nn.Module):
    """A residual block; opposite signs nearly cancel."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * torch.sin(3 * x)


def test_on_a_real_network_it_finds_one_of_the_three_best_sets() -> None:
    torch.manual_seed(0)
    scales = (0.5, -0.5, 0.25, 0.3, -0.4, 0.2)
    model = nn.Sequential(nn.Linear(6, 16), *(Block(s) for s in scales), nn.Linear(16, 5))
    names = [str(place) for place in range(1, 7)]
    data = [Batch((torch.randn(64, 6),), {})]
    meter = HarmMeter(model, data)
    harms = measure_harm(model, names, [], {}, meter=meter)
    items = [Item(harm.name, harm.kl, {"macs": 1.0}) for harm in harms]
    plans = refine(meter, items, [Limit("macs", 6, 4)])
    every = [meter.kl(chosen) for size in range(2, 7) for chosen in combinations(names, size)]
    assert plans[0].joint_kl is not None
    assert sum(kl < plans[0].joint_kl for kl in every) <= 2
    additive = solutions(items, [Limit("macs", 6, 4)], count=1)
    assert isinstance(additive, tuple)
    assert plans[0].joint_kl <= meter.kl(additive[0].removed)
