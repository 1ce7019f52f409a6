"""One training under way: what it has reached, and how it goes on after a kill or a bad step."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from mpo.errors import MpoError
from mpo.optimizer.data.quality import drop
from mpo.optimizer.files.snapshots import Snapshot, grouped
from mpo.optimizer.ground.distributed import ALONE, Crew
from mpo.optimizer.ground.randomness import States, restore, states
from mpo.optimizer.training.feed import Feed
from mpo.optimizer.training.ladder import Ladder
from mpo.optimizer.training.objective import Objective
from mpo.optimizer.training.trainer import Trainer
from mpo.records import Quality

HALF = 0.5


class Session:
    """A model in training, with its best weights so far.

    Args:
        model: what is trained, in place.
        objective: what is minimised.
        rate: the peak learning rate; 0 when nothing is trained.
        span: updates at most, and in an epoch.
        feed: the batches.
        crew: the processes that share each batch.

    Attributes:
        before: validation quality at the start.
        best: the best validation quality, of the weights in `kept`.
        best_epoch: its epoch; 0 is the start.
        history: one row a finished epoch.
        losses: of the updates since the last finished epoch.
        events: what did not go as planned, in words.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        rate: float,
        span: tuple[int, int],
        feed: Feed,
        crew: Crew = ALONE,
    ) -> None:
        self.model, self.objective, self.feed = model, objective, feed
        self.total, self.pace = span
        self.ladder, self.crew = Ladder(model), crew
        self.trainer = self._trainer(rate)
        self.best_epoch, self.steps, self.halved, self.finished = 0, 0, False, False
        self.history: list[dict[str, float]] = []
        self.losses: list[float] = []
        self.events: list[str] = []

    def _trainer(self, rate: float) -> Trainer:
        return Trainer(self.model, self.objective, rate, self.total, self.ladder, self.crew)

    def begin(self, before: Quality) -> None:
        """Start from the model as it is, of this quality."""
        self.before = self.best = before
        self.kept = weights(self.model)

    @property
    def epoch(self) -> int:
        """The epoch under way, or just ended; the first one is 1."""
        return -(-self.steps // max(1, self.pace))

    def goes_on(self) -> bool:
        """Whether there is an update left to make."""
        return not self.finished and self.steps < self.total

    def update(self, batches: int) -> None:
        """Train on the next batches.

        A loss, a gradient or a weight that is not finite takes training back, once, to the best
        weights so far at half the rate.

        Raises:
            MpoError: the same again, before any epoch was finished.
        """
        value = self.trainer.step(*self.feed.take(batches))
        self.steps += 1
        if math.isfinite(value):
            self.losses.append(value)
        else:
            self._roll_back(f"the loss or its gradient was not finite in update {self.steps}")

    def judged(self, now: Quality) -> None:
        """End an epoch with this validation quality."""
        epoch = self.epoch
        loss = sum(self.losses) / max(1, len(self.losses))
        self.history.append({"epoch": float(epoch), "loss": loss, "quality": now.value})
        self.losses = []
        if drop(now, self.best) > 0 or (now.value == self.best.value and self.best_epoch):
            self.best, self.kept, self.best_epoch = now, weights(self.model), epoch

    def sound(self) -> bool:
        """Whether every weight is finite; if not, the model goes back to the best weights."""
        if finite(self.model):
            return True
        self._roll_back(f"weights were not finite after update {self.steps}")
        return False

    def _roll_back(self, why: str) -> None:
        self.model.load_state_dict(self.kept)
        self.losses = []
        if self.halved:
            self.events.append(f"{why}, again: training ended with the best weights so far")
            self.finished = True
            if not self.history:
                raise MpoError(
                    f"Training failed twice: {why}, also at half the learning rate.",
                    hint="Check the data and the loss for values that are not finite, or prune "
                    "without training.",
                )
            return
        rate = self.trainer.rate * HALF
        done = self.trainer.updates
        self.trainer = self._trainer(rate)
        self.trainer.updates = done
        self.halved = True
        self.events.append(f"{why}: back to the best weights so far, at half the rate ({rate:g})")

    def snapshot(self) -> Snapshot:
        """All that is needed to go on from here; only the result once training is finished."""
        now = states()
        groups: dict[str, dict[str, Any]] = {"best": self.kept}
        if not self.finished:
            devices = {str(i): one for i, one in enumerate(now.devices)}
            groups["weights"] = self.model.state_dict()
            groups["optimizer"] = self.trainer.tensors()
            groups["random"] = {"cpu": now.torch, **devices}
        facts = {
            "before": self.before.model_dump(mode="json"),
            "best": self.best.model_dump(mode="json"),
            "best_epoch": self.best_epoch,
            "history": self.history,
            "losses": self.losses,
            "events": self.events,
            "halved": self.halved,
            "finished": self.finished,
            "rate": self.trainer.rate,
            "updates": self.trainer.updates,
            "drawn": self.feed.drawn,
            "ladder": self.ladder.facts(),
            "scaler": self.trainer.scaler.state_dict(),
            "random": now.facts,
        }
        return Snapshot(self.steps, grouped(groups), facts)

    def resume(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot: the batches used are read again, without training on them."""
        facts = snapshot.facts
        self.begin(Quality.model_validate(facts["before"]))
        self.best = Quality.model_validate(facts["best"])
        self.best_epoch, self.steps = int(facts["best_epoch"]), snapshot.step
        self.history, self.losses = list(facts["history"]), list(facts["losses"])
        self.events, self.halved = list(facts["events"]), bool(facts["halved"])
        self.finished = bool(facts["finished"])
        self.ladder.restore(facts["ladder"])
        self.kept = self.kept | snapshot.group("best")
        if self.finished:
            return
        self.model.load_state_dict(self.model.state_dict() | snapshot.group("weights"))
        self.trainer = self._trainer(float(facts["rate"]))
        self.trainer.load(snapshot.group("optimizer"), int(facts["updates"]))
        if facts["scaler"]:
            self.trainer.scaler.load_state_dict(facts["scaler"])
        self.feed.skip(int(facts["drawn"]))
        random = snapshot.group("random")
        devices = tuple(random[str(i)] for i in range(len(random) - 1))
        restore(States(random["cpu"], devices, facts["random"]))


def weights(model: nn.Module) -> dict[str, Any]:
    """A copy of a model's state."""
    return copy.deepcopy(model.state_dict())


def finite(model: nn.Module) -> bool:
    """Whether every floating weight and buffer is finite."""
    held: list[Tensor] = [t for t in model.state_dict().values() if isinstance(t, Tensor)]
    return all(bool(torch.isfinite(one).all()) for one in held if one.is_floating_point())
