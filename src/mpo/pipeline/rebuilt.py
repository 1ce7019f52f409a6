"""The pruned model of a run folder, rebuilt: factory + plan + weights."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from mpo.errors import UsageError
from mpo.optimizer.artifact import load_pruned
from mpo.optimizer.subject import Subject
from mpo.pipeline.context import asked_for, subject_of
from mpo.recipe import Recipe, make_recipe, read_recipe
from mpo.records import Plan
from mpo.store import MARKER, RECIPE, started_in


def is_run(path: Path) -> bool:
    """Whether this is a run folder."""
    return (path / MARKER).is_file()


def rebuild(run: Path, subject: Subject | None = None) -> nn.Module:
    """The pruned model of a run folder in eval mode; the original where nothing was removed.

    Args:
        subject: the subject in memory, when the run was made from one.

    Raises:
        UsageError: no finished run there, or its subject is gone.
    """
    plan_file = run / "plan.json"
    if not plan_file.is_file():
        raise UsageError(f"{run} holds no plan.json.", hint="Name a finished run's folder.")
    plan = Plan.model_validate_json(plan_file.read_text(encoding="utf-8"))
    found = subject_of_run(run) if subject is None else asked_for(subject, recipe_of_run(run))
    factory = found.build
    weights = run / "model.safetensors"
    if not plan.removed and not weights.is_file():
        return factory()  # the original met the budget
    return load_pruned(factory, plan.removed, weights).eval()


def recipe_of_run(run: Path) -> Recipe:
    """The recipe that a run was made by.

    Raises:
        UsageError: no recipe there, or one with unknown keys.
    """
    return make_recipe(**read_recipe(run / RECIPE))


def subject_of_run(run: Path) -> Subject:
    """The subject that a run was made from.

    Raises:
        UsageError: it is gone, or was made in memory.
    """
    try:
        return subject_of(recipe_of_run(run), started_in(run))
    except UsageError as error:
        memory = "if it was made in memory, give it: mpo.load(run, subject)"
        raise UsageError(error.message, hint=f"{error.hint} Or, {memory}.") from error
