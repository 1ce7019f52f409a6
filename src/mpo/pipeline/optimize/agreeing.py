"""What several processes must be told alike while they train: quality, and when to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from torch import nn

from mpo.optimizer.ground.distributed import Crew
from mpo.optimizer.training.recover import Judge, Schedule
from mpo.records import Quality


def agreed_judge(judge: Judge, crew: Crew) -> Judge:
    """The first process's judgement, for all; the others do not judge."""
    if crew.size == 1:
        return judge

    def told(model: nn.Module) -> Quality:
        own = judge(model).model_dump(mode="json") if crew.rank == 0 else None
        return Quality.model_validate(crew.tell(own))

    return told


def agreed_schedule(schedule: Schedule, crew: Crew) -> Schedule:
    """The schedule whose end the first process decides, for all."""
    stop = schedule.stop
    if crew.size == 1 or stop is None:
        return schedule
    return replace(schedule, stop=lambda: bool(crew.tell(stop() if crew.rank == 0 else None)))


def as_words(schedule: Schedule) -> dict[str, Any]:
    """A schedule as JSON; of `stop` only whether there is one, as something that may be called."""
    plain = {one.name: getattr(schedule, one.name) for one in fields(schedule)}
    return {**plain, "stop": schedule.stop is not None}


def from_words(words: dict[str, Any]) -> Schedule:
    """A schedule that another process told."""
    stop: Callable[[], bool] | None = (lambda: False) if words["stop"] else None
    return Schedule(**{**words, "stop": stop})
