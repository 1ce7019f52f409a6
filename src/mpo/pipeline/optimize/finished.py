"""A plan's model, trained and judged: a part of the recovery stage, so that a killed run does not
train it again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mpo.optimizer.files.artifact import load_pruned, save_model
from mpo.pipeline.run.context import Context
from mpo.pipeline.run.saved import read, save
from mpo.records import PlanCandidate, Record, Recovery

WEIGHTS, ATTEMPT = "model.safetensors", "attempt.json"


class Attempt(Record):
    """What is kept of a trained plan beside its weights; `broken`: the contract that the recipe
    asks for, on validation; `cut`: what --time-limit kept from being done."""

    candidate: PlanCandidate
    story: Recovery
    broken: bool = False
    cut: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finished:
    """A trained model with what is told of it."""

    model: nn.Module
    attempt: Attempt

    @property
    def candidate(self) -> PlanCandidate:
        """The plan, with its quality and the guard's verdict."""
        return self.attempt.candidate


def write_finished(folder: Path, done: Finished) -> None:
    """Save a finished plan into a folder."""
    save_model(done.model, folder / WEIGHTS)
    save(done.attempt, folder / ATTEMPT)


def read_finished(context: Context, folder: Path) -> Finished:
    """A finished plan from its folder, its model in evaluation mode."""
    attempt = read(Attempt, folder / ATTEMPT)
    removed = attempt.candidate.removed
    model = load_pruned(context.subject.build, removed, folder / WEIGHTS)
    return Finished(model.eval(), attempt)


def finished(context: Context, name: str, key: Any, make: Callable[[], Finished]) -> Finished:
    """What `make` trains, made once and read back from disk, so that what follows is the same
    whether it was trained now or before a kill.

    Args:
        name: of the part.
        key: JSON-able; what it depends on beside the stage's own key.
    """
    folder = context.folder.part(name, key, lambda new: write_finished(new, make()))
    return read_finished(context, folder)
