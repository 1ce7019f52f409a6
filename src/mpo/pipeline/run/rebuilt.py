"""A finished run read back: its recipe, its subject, and the pruned model as factory + plan +
weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from torch import nn

from mpo.errors import UsageError
from mpo.optimizer.data.subject import Subject
from mpo.optimizer.files.artifact import load_pruned
from mpo.pipeline.run.context import asked_for, subject_of
from mpo.pipeline.run.proof import OPTIMIZED
from mpo.recipe import Recipe, recipe_of_run
from mpo.records import Plan, Report
from mpo.replacing import MARKER
from mpo.runfolder import fingerprint
from mpo.store import started_in


@dataclass(frozen=True)
class RebuiltRun:
    """What a run folder's model is made of.

    Attributes:
        recipe: as it was run.
        subject: that it was run on.
        plan: what was removed.
        model: the pruned one in eval mode; the original when nothing was removed.
    """

    recipe: Recipe
    subject: Subject
    plan: Plan
    model: nn.Module


def is_run(path: Path) -> bool:
    """Whether a path is a run folder."""
    return (path / MARKER).is_file()


def plan_digest(plan: Plan) -> str:
    """What names a plan inside the files made from it: the fingerprint of its record."""
    return fingerprint(plan.model_dump(mode="json"))


def rebuild(run: Path, subject: Subject | None = None) -> RebuiltRun:
    """Read a run folder.

    Args:
        run: its folder.
        subject: in memory, when the run was made from one.

    Raises:
        UsageError: no finished run there, or its subject is gone.
    """
    recipe, plan = recipe_of_run(run), plan_of_run(run)
    found = subject_of_run(run) if subject is None else asked_for(subject, recipe)
    weights = run / "model.safetensors"
    if not weights.is_file() and (plan.removed or not (run / OPTIMIZED).is_file()):
        raise UsageError(
            f"{run} holds a plan, but no model: that run did not finish. {' '.join(plan.notes)}",
            hint="Run it again with a budget that can be met, or name its subject.",
        )
    if not weights.is_file():
        model = found.build()  # the original met the budget
    else:
        model = load_pruned(found.build, plan.removed, weights).eval()
    return RebuiltRun(recipe, found, plan, model)


def plan_of_run(run: Path) -> Plan:
    """The plan that a run ended with.

    Raises:
        UsageError: there is none.
    """
    plan_file = run / "plan.json"
    if not plan_file.is_file():
        raise UsageError(f"{run} holds no plan.json.", hint="Name a finished run's folder.")
    return Plan.model_validate_json(plan_file.read_text(encoding="utf-8"))


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


def read_report(run: Path) -> Report:
    """The report of a run folder.

    Raises:
        UsageError: no report there, or one that this version cannot read.
    """
    path = run / "report.json"
    if not path.is_file():
        raise UsageError(f"{run} holds no report.json.", hint="Name a finished run's folder.")
    try:
        return Report.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} is no mpo.report/1 record.", hint="Run `mpo optimize` again to rewrite it."
        ) from error
