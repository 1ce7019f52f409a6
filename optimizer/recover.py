"""Recovery: fine-tune a pruned model, keep its best weights by validation, say how it went."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mpo.errors import UsageError
from mpo.optimizer.batches import Batch
from mpo.optimizer.objective import Objective
from mpo.optimizer.quality import drop
from mpo.optimizer.splits import Split
from mpo.records import Quality, Recovery

RATES = (2e-3, 4e-4, 8e-5)
RACE_STEPS, JUDGE_BATCHES = 12, 4
WARM_UP = 0.1
CLIP = 1.0
PATIENCE = 3
NORMS = (_BatchNorm,)
Progress = Callable[[str, int, int], None]
Judge = Callable[[nn.Module], Quality]


@dataclass(frozen=True)
class Schedule:
    """How a model is trained.

    Attributes:
        rate: the peak learning rate; None trains nothing.
        epochs: passes over the training data at most.
        seed: of everything random in training.
        max_steps: updates at most, when that is less.
    """

    rate: float | None
    epochs: int
    seed: int = 0
    max_steps: int | None = None

    def steps(self, epoch: int) -> int:
        """Updates in all, for this many in an epoch."""
        if self.rate is None:
            return 0
        total = self.epochs * epoch
        return total if self.max_steps is None else min(total, self.max_steps)


class Trainer:
    """AdamW with linear warm-up and cosine decay over `total` steps, gradients clipped to norm
    1."""

    def __init__(self, model: nn.Module, objective: Objective, rate: float, total: int) -> None:
        self.model, self.objective = model, objective
        self.parameters = trainable(model)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=rate, weight_decay=1e-4)
        warm = max(1, round(WARM_UP * total))

        def factor(step: int) -> float:
            if step < warm:
                return (step + 1) / warm
            return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))

        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)

    def step(self, batch: Batch) -> float:
        """One update; returns the loss before it. A loss that is not finite changes nothing."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.objective(self.model, batch)
        value = float(loss.detach())
        if math.isfinite(value):
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(self.parameters, CLIP)
            self.optimizer.step()
            self.schedule.step()
        return value


def endless(split: Split, model: nn.Module) -> Iterator[Batch]:
    """The split's batches again and again.

    BatchNorm cannot train on one example: for a model that has it such batches are left out.

    Raises:
        UsageError: BatchNorm, and not one batch of two.
    """
    smallest = 2 if any(isinstance(m, NORMS) for m in model.modules()) else 1
    while True:
        used = 0
        for batch in split:
            if batch.size >= smallest:
                used += 1
                yield batch
        if not used:
            raise UsageError(
                f"Every batch of the {split.name} split holds one example, and BatchNorm cannot "
                "train on one.",
                hint="Let data() yield larger batches.",
            )


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """What is trained: the parameters that ask for it; all of them when the model is frozen."""
    asking = [p for p in model.parameters() if p.requires_grad]
    if asking:
        return asking
    floating = [p for p in model.parameters() if p.is_floating_point()]
    for parameter in floating:
        parameter.requires_grad_(True)
    return floating


def choose_rate(
    model: nn.Module, objective: Objective, train: Split, held_out: Split, seed: int
) -> float:
    """The learning rate of RATES whose short training gives the least loss on held-out
    batches.

    No single rate serves both a residual CNN and a transformer; a race of a few steps is cheap and
    knows neither.
    """
    start = copy.deepcopy(model.state_dict())
    steps = min(RACE_STEPS, len(train))
    losses: dict[float, float] = {}
    for rate in RATES:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            trainer = Trainer(model, objective, rate, steps)
            for batch in _some(endless(train, model), steps):
                trainer.step(batch)
        losses[rate] = held_out_loss(model, objective, held_out)
        model.load_state_dict(start)
    return min(losses, key=lambda rate: (losses[rate], rate))


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


def recover(
    model: nn.Module,
    objective: Objective,
    train: Split,
    judge: Judge,
    original: Quality,
    schedule: Schedule,
    progress: Progress,
) -> Recovery:
    """Fine-tune `model` in place and leave it with the weights that validation liked best.

    Stops early after three epochs without a gain, or after two in a row that equal the original.

    Args:
        model: the pruned model; its weights change.
        objective: what is minimised.
        train: what it learns from.
        judge: gives a model's quality on validation.
        original: the quality of the original there.
        schedule: learning rate, epochs, steps and seed.
        progress: called with (what, done, total) after every step.
    """
    with torch.random.fork_rng():
        torch.manual_seed(schedule.seed)
        before = judge(model)
        best, kept, best_epoch = before, _weights(model), 0
        history: list[dict[str, float]] = []
        rate = schedule.rate
        note = "not trained" if not rate or not schedule.epochs else f"AdamW, rate {rate:g}"
        for epoch, loss in _epochs(model, objective, train, schedule, progress):
            if not math.isfinite(loss):
                note += f"; stopped in epoch {epoch}: the loss was {loss}"
                break
            now = judge(model)
            history.append({"epoch": float(epoch), "loss": loss, "quality": now.value})
            if drop(now, best) > 0 or (now.value == best.value and best_epoch):
                best, kept, best_epoch = now, _weights(model), epoch
            if _enough(history, best_epoch, original, epoch):
                break
        model.load_state_dict(kept)
        model.eval()
    return Recovery(
        epochs=len(history),
        best_epoch=best_epoch,
        before=before.value,
        after=best.value,
        original=original.value,
        history=tuple(history),
        note=note,
    )


def _epochs(
    model: nn.Module, objective: Objective, train: Split, schedule: Schedule, progress: Progress
) -> Iterator[tuple[int, float]]:
    length = len(train)
    total = schedule.steps(length)
    if total == 0 or schedule.rate is None:
        return
    trainer, done = Trainer(model, objective, schedule.rate, total), 0
    batches = endless(train, model)
    for epoch in range(1, math.ceil(total / length) + 1):
        losses: list[float] = []
        for batch in _some(batches, min(length, total - done)):
            losses.append(trainer.step(batch))
            done += 1
            progress("recovery", done, total)
            if not math.isfinite(losses[-1]):
                break
        yield epoch, sum(losses) / len(losses)


def _some(batches: Iterator[Batch], count: int) -> Iterator[Batch]:
    for _, batch in zip(range(count), batches, strict=False):
        yield batch


def _enough(
    history: list[dict[str, float]], best_epoch: int, original: Quality, epoch: int
) -> bool:
    if epoch - best_epoch >= PATIENCE:
        return True
    recent = [original.model_copy(update={"value": row["quality"]}) for row in history[-2:]]
    return len(recent) == 2 and all(drop(original, now) <= 0 for now in recent)


def _weights(model: nn.Module) -> dict[str, Any]:
    return copy.deepcopy(model.state_dict())
