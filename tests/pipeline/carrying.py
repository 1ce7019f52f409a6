"""A run's recovery stage without the rest of the run: a small trained network and plans for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mpo.optimizer.data.quality import evaluate, predictor
from mpo.optimizer.data.subject import Subject
from mpo.pipeline.run.context import Context
from mpo.recipe import make_recipe, to_toml
from mpo.records import Plan, PlanCandidate, Quality
from mpo.store import open_run
from mpo.timing import Deadline
from tests.subjects import tiny

MODEL = tiny.model()  # trained once


@contextlib.contextmanager
def context_in(
    folder: Path, *, data: Any = None, seconds: float | None = None, **options: Any
) -> Iterator[Context]:
    """A context of the tiny residual network in a run folder."""
    keys = {"epochs": 2, "max_drop": "5%", "budget": ("params=60%",), **options}
    recipe = make_recipe(subject="tiny", **keys)
    subject = Subject(MODEL, data or tiny.data(), name="tiny")
    with open_run(folder, to_toml(recipe)) as run:
        yield Context(recipe, subject, run, lambda *step: None, (), Deadline(seconds))


def original_of(context: Context) -> Quality:
    """The original's quality on validation."""
    predict = predictor(context.original)
    return evaluate(predict, context.subject, context.splits().validation, predict)


def plan_of(*removed: tuple[str, ...]) -> Plan:
    """A plan whose candidates remove these blocks, the least harmful first."""
    found = tuple(
        PlanCandidate(removed=names, harm=float(number)) for number, names in enumerate(removed)
    )
    return Plan(
        method="mpruner", subject="tiny", seed=0, removed=found[0].removed, harm=0.0,
        alternatives=found,
    )  # fmt: skip
