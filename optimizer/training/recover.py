"""Recovery: fine-tune a pruned model, keep its best weights by validation, say how it went."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from mpo.optimizer.data.quality import drop
from mpo.optimizer.data.splits import Split
from mpo.optimizer.files.snapshots import Keeper
from mpo.optimizer.ground.distributed import ALONE, Crew
from mpo.optimizer.ground.randomness import own_randomness
from mpo.optimizer.training.feed import Feed
from mpo.optimizer.training.objective import Objective
from mpo.optimizer.training.session import Session
from mpo.records import Quality, Recovery
from mpo.timing import Stopwatch

PATIENCE = 3
KEEP_SECONDS = 60.0  # within an epoch, a snapshot so often at most
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
        accumulate: batches whose gradients make one update.
        stop: asked after every update; when true, training ends with the best weights so far.
    """

    rate: float | None
    epochs: int
    seed: int = 0
    max_steps: int | None = None
    accumulate: int = 1
    stop: Callable[[], bool] | None = None

    def over(self) -> bool:
        """Whether training shall end now."""
        return self.stop is not None and self.stop()

    def per_epoch(self, batches: int) -> int:
        """Updates in an epoch of so many batches."""
        return math.ceil(batches / self.accumulate)

    def steps(self, batches: int) -> int:
        """Updates in all, for so many batches in an epoch."""
        if self.rate is None:
            return 0
        total = self.epochs * self.per_epoch(batches)
        return total if self.max_steps is None else min(total, self.max_steps)


def recover(
    model: nn.Module,
    objective: Objective,
    train: Split,
    judge: Judge,
    original: Quality,
    schedule: Schedule,
    progress: Progress,
    keeper: Keeper | None = None,
    crew: Crew = ALONE,
) -> Recovery:
    """Fine-tune `model` in place and leave it with the weights that validation liked best.

    Stops early after three epochs without a gain, or after two in a row that equal the original;
    told to stop, it judges what it has and ends. With a keeper it goes on from the newest snapshot,
    to the same weights bit for bit on a CPU.

    Args:
        model: the pruned model; its weights change.
        objective: what is minimised.
        train: what it learns from.
        judge: gives a model's quality on validation.
        original: the quality of the original there.
        schedule: learning rate, epochs, steps and seed.
        progress: called with (what, done, total) after every step.
        keeper: where snapshots go, at each epoch's end and once a minute within it.
        crew: the processes that share each batch; all must call this alike, with a judge and a
            schedule that tell all of them the same.

    Raises:
        MpoError: the loss was not finite twice before an epoch was done, or memory ran out for
            good.
    """
    with own_randomness(schedule.seed):
        length = len(train)
        total, pace = schedule.steps(length), schedule.per_epoch(length)
        feed = Feed(train, model, schedule.seed)
        session = Session(model, objective, schedule.rate or 0.0, (total, pace), feed, crew)
        known = keeper.newest() if keeper else None
        if known is None:
            session.begin(judge(model))
        else:
            session.resume(known)
        watch = Stopwatch()
        while session.goes_on():
            session.update(schedule.accumulate)
            progress("recovery", session.steps, total)
            told = schedule.over()
            if told or session.steps == total or session.steps % pace == 0:
                _end_epoch(session, judge, original, told=told)
            elif watch.seconds < KEEP_SECONDS:
                continue
            if keeper and session.goes_on():
                keeper.keep(session.snapshot())
            watch = Stopwatch()
        if keeper and not (known and known.facts["finished"]):
            session.finished = True
            keeper.keep(session.snapshot())
        model.load_state_dict(session.kept)
        model.eval()
    return _story(session, schedule, original, keeper)


def _end_epoch(session: Session, judge: Judge, original: Quality, *, told: bool) -> None:
    if session.losses and session.sound():
        session.judged(judge(session.model))
    if told:
        session.events.append(f"told to stop in epoch {session.epoch}")
    if told or _enough(session.history, session.best_epoch, original, session.epoch):
        session.finished = True


def _story(
    session: Session, schedule: Schedule, original: Quality, keeper: Keeper | None
) -> Recovery:
    rate = schedule.rate
    trained = rate and schedule.epochs
    note = f"AdamW, rate {rate:g}" if trained else "not trained"
    warnings = keeper.warnings if keeper else []
    return Recovery(
        epochs=len(session.history),
        best_epoch=session.best_epoch,
        before=session.before.value,
        after=session.best.value,
        original=original.value,
        history=tuple(session.history),
        note="; ".join([note, *session.events, *warnings]),
        events=(*session.events, *session.ladder.taken, *warnings),
    )


def _enough(
    history: list[dict[str, float]], best_epoch: int, original: Quality, epoch: int
) -> bool:
    if epoch - best_epoch >= PATIENCE:
        return True
    recent = [original.model_copy(update={"value": row["quality"]}) for row in history[-2:]]
    return len(recent) == 2 and all(drop(original, now) <= 0 for now in recent)
