"""Recovery: fine-tune a pruned model, keep its best weights by validation, say how it went."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mpo.optimizer.batches import Batch
from mpo.optimizer.objective import Objective
from mpo.optimizer.quality import drop
from mpo.optimizer.subject import Split
from mpo.records import Quality, Recovery

RATES = (2e-3, 4e-4, 8e-5)
RACE_STEPS, JUDGE_BATCHES = 12, 4
WARM_UP = 0.1
CLIP = 1.0
PATIENCE = 3
Progress = Callable[[str, int, int], None]
Judge = Callable[[nn.Module], Quality]


@dataclass(frozen=True)
class Limits:
    """How long a recovery may take: passes over the training data, and steps when that is less."""

    epochs: int
    seed: int = 0
    max_steps: int | None = None


class Trainer:
    """AdamW with linear warm-up and cosine decay over `total` steps, gradients clipped to norm
    1."""

    def __init__(self, model: nn.Module, objective: Objective, rate: float, total: int) -> None:
        self.model, self.objective = model, objective
        trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=1e-4)
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
            nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
            self.optimizer.step()
            self.schedule.step()
        return value


def endless(split: Split) -> Iterator[Batch]:
    """The split's batches again and again; batches of one example are left out (BatchNorm cannot
    train on one)."""
    while True:
        seen = 0
        for batch in split:
            seen += 1
            if batch.size > 1:
                yield batch
        if seen == 0:
            return


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
            for batch in _some(endless(train), steps):
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
    limits: Limits,
    progress: Progress,
    rate: float | None,
) -> Recovery:
    """Fine-tune `model` in place and leave it with the weights that validation liked best.

    Stops early after three epochs without a gain, or after two in a row that equal the original.

    Args:
        model: the pruned model; its weights change.
        objective: what is minimised.
        train: what it learns from.
        judge: gives a model's quality on validation.
        original: the quality of the original there.
        limits: epochs, steps and seed.
        progress: called with (what, done, total) after every step.
        rate: the peak learning rate; None trains nothing.
    """
    with torch.random.fork_rng():
        torch.manual_seed(limits.seed)
        before = judge(model)
        best, kept, best_epoch = before, _weights(model), 0
        history: list[dict[str, float]] = []
        note = f"AdamW, learning rate {rate:g}" if rate else "not trained"
        for epoch, loss in _epochs(model, objective, train, limits, progress, rate):
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
    model: nn.Module,
    objective: Objective,
    train: Split,
    limits: Limits,
    progress: Progress,
    rate: float | None,
) -> Iterator[tuple[int, float]]:
    length = len(train)
    total = limits.epochs * length
    if limits.max_steps is not None:
        total = min(total, limits.max_steps)
    if total == 0 or rate is None:
        return
    trainer, batches, done = Trainer(model, objective, rate, total), endless(train), 0
    for epoch in range(1, math.ceil(total / length) + 1):
        losses: list[float] = []
        for batch in _some(batches, min(length, total - done)):
            losses.append(trainer.step(batch))
            done += 1
            progress("recovery", done, total)
            if not math.isfinite(losses[-1]):
                break
        if not losses:
            return
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
