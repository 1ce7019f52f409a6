"""The learning rate, and whether a further teacher helps: races of short trainings."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from mpo.optimizer.data.splits import Split
from mpo.optimizer.ground.randomness import own_randomness
from mpo.optimizer.training.feed import Feed
from mpo.optimizer.training.objective import Objective
from mpo.optimizer.training.trainer import Trainer

RATES = (2e-3, 4e-4, 8e-5)
RACE_STEPS, RACE_SHARE, RACE_MOST, JUDGE_BATCHES = 12, 4, 100, 4


def choose_rate(
    model: nn.Module, objective: Objective, train: Split, held_out: Split, seed: int
) -> float:
    """The learning rate of RATES whose short training gives the least loss on held-out
    batches.

    No single rate serves both a residual CNN and a transformer; a race of a few steps is cheap and
    knows neither.
    """
    losses = {
        rate: _raced(model, objective, objective, rate, train, held_out, seed) for rate in RATES
    }
    return min(losses, key=lambda rate: (losses[rate], rate))


def helps(
    model: nn.Module,
    objective: Objective,
    other: Objective,
    rate: float,
    train: Split,
    held_out: Split,
    seed: int,
    steps: int,
) -> bool:
    """Whether a short training by the other objective leaves less of this one on held-out batches
    than a short training by this one itself; the model stays as it was.

    Args:
        steps: of the training that it shall help. The race has a quarter of them, a hundred at
            most: a further teacher pays late, and a race of twelve turned down what then won.
    """
    length = max(RACE_STEPS, min(steps // RACE_SHARE, RACE_MOST))

    def left(asked: Objective) -> float:
        return _raced(model, asked, objective, rate, train, held_out, seed, length)

    return left(other) < left(objective)


def _raced(
    model: nn.Module,
    objective: Objective,
    judge: Objective,
    rate: float,
    train: Split,
    held_out: Split,
    seed: int,
    most: int = RACE_STEPS,
) -> float:
    """The judging objective on held-out batches after a short training by the other one."""
    start = copy.deepcopy(model.state_dict())
    steps = min(most, len(train))
    with own_randomness(seed):
        trainer, feed = Trainer(model, objective, rate, steps), Feed(train, model, seed)
        for _ in range(steps):
            trainer.step(*feed.take(1))
    loss = held_out_loss(model, judge, held_out)
    model.load_state_dict(start)
    return loss


def held_out_loss(model: nn.Module, objective: Objective, split: Split) -> float:
    """Mean loss over the leading batches of a split; infinity when it is not finite."""
    model.eval()
    with torch.no_grad():
        values = [
            float(objective(model, batch))
            for _, batch in zip(range(JUDGE_BATCHES), split, strict=False)
        ]
    mean = sum(values) / max(1, len(values))
    return mean if math.isfinite(mean) else math.inf
