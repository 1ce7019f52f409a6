"""Recovery: fine-tune a pruned model, keep its best weights by validation, say how it went."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mpo.optimizer.feed import endless, some
from mpo.optimizer.objective import Objective
from mpo.optimizer.quality import drop
from mpo.optimizer.splits import Split
from mpo.optimizer.trainer import Trainer
from mpo.records import Quality, Recovery

PATIENCE = 3
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
        stop: asked after every update; when true, training ends with the best weights so far.
    """

    rate: float | None
    epochs: int
    seed: int = 0
    max_steps: int | None = None
    stop: Callable[[], bool] | None = None

    def over(self) -> bool:
        """Whether training shall end now."""
        return self.stop is not None and self.stop()

    def steps(self, epoch: int) -> int:
        """Updates in all, for this many in an epoch."""
        if self.rate is None:
            return 0
        total = self.epochs * epoch
        return total if self.max_steps is None else min(total, self.max_steps)


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

    Stops early after three epochs without a gain, or after two in a row that equal the original;
    told to stop, it judges what it has and ends.

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
            if schedule.over():
                note += f"; told to stop in epoch {epoch}"
                break
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
        for batch in some(batches, min(length, total - done)):
            losses.append(trainer.step(batch))
            done += 1
            progress("recovery", done, total)
            if not math.isfinite(losses[-1]) or schedule.over():
                break
        yield epoch, sum(losses) / len(losses)


def _enough(
    history: list[dict[str, float]], best_epoch: int, original: Quality, epoch: int
) -> bool:
    if epoch - best_epoch >= PATIENCE:
        return True
    recent = [original.model_copy(update={"value": row["quality"]}) for row in history[-2:]]
    return len(recent) == 2 and all(drop(original, now) <= 0 for now in recent)


def _weights(model: nn.Module) -> dict[str, Any]:
    return copy.deepcopy(model.state_dict())
