"""A finished run as a bundle needs it: its report, its model's files, the runtime's options.

What leaves the building says nothing of the people and machines behind it: absolute paths and the
names of hosts are taken out of the records.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto

from mpo.errors import InfeasibleError, RefusedError, UsageError
from mpo.files import sha256
from mpo.pipeline.run.graphs import data_files, read_model
from mpo.pipeline.run.proof import OPTIMIZED
from mpo.pipeline.run.rebuilt import read_report
from mpo.pipeline.run.saved import read
from mpo.pipeline.run.sessions import SessionChoices
from mpo.profiles.sessions import THRESHOLD, described
from mpo.profiles.targets import named_target
from mpo.recipe import Recipe, recipe_of_run
from mpo.records import Report, SessionOptions
from mpo.store import started_in

SESSIONS = Path("stages", "session", "sessions.json")


@dataclass(frozen=True)
class FinishedRun:
    """A run folder whose story is over.

    Attributes:
        path: of the folder.
        report: without the names of paths and hosts.
        recipe: as it was asked.
        model: the ONNX file's path; `weights` lie beside it.
        graph: read, without weights.
        session: the options that the report's latency and memory hold for.
        original_sha256: of the ONNX file before anything was removed.
    """

    path: Path
    report: Report
    recipe: Recipe
    model: Path
    weights: tuple[Path, ...]
    graph: ModelProto
    session: SessionOptions
    original_sha256: str | None


def finished_run(path: Path, *, unmet: bool = False) -> FinishedRun:
    """Read a run folder.

    Args:
        unmet: take a run whose budgets do not hold, too.

    Raises:
        UsageError: no finished run, or one whose runtime options are not known.
        InfeasibleError: its budgets do not hold.
        RefusedError: a file that is not the one that the report is about.
    """
    report = read_report(path)
    if not report.met and not unmet:
        raise InfeasibleError(
            f"{path} does not hold its budgets ({report.status}); a bundle would promise it.",
            hint="Optimize again, or package it all the same with --unmet: the bundle says so.",
        )
    model = path / OPTIMIZED
    listed = {artifact.path: artifact.sha256 for artifact in report.artifacts}
    _require_same(model, listed)
    graph = read_model(model)
    weights = data_files(model, graph)
    for file in weights:
        _require_same(file, listed)
    recipe = recipe_of_run(path)
    return FinishedRun(
        path=path,
        report=without_names(report, recipe, path),
        recipe=recipe,
        model=model,
        weights=weights,
        graph=graph,
        session=_session(path, report),
        original_sha256=listed.get("original.onnx"),
    )


def _require_same(file: Path, listed: dict[str, str]) -> None:
    if not file.is_file() or listed.get(file.name) != sha256(file):
        raise RefusedError(
            f"{file} is not the file that the report is about.",
            hint="It was changed since; run `mpo optimize` again.",
        )


def _session(path: Path, report: Report) -> SessionOptions:
    """The first target's options: those that were chosen for memory, or the defaults."""
    told = report.environment
    found = SessionOptions(
        device=named_target(report.target).device,
        threads=told.threads,
        mmap_threshold_bytes=THRESHOLD,
    )
    if (path / SESSIONS).is_file():
        choices = [choice.session for choice in read(SessionChoices, path / SESSIONS).choices]
        beside = any(one.external_weights for one in choices)
        threshold = choices[0].mmap_threshold_bytes or THRESHOLD
        more = {"external_weights": beside, "mmap_threshold_bytes": threshold}
        found = choices[0].model_copy(update=more)
    if described(found) != told.options or found.threads != told.threads:
        raise UsageError(
            f"The runtime's options that {path} was measured with are not known.",
            hint="Its stages are gone, or another version made it: run `mpo optimize` again.",
        )
    return found


def without_names(report: Report, recipe: Recipe, path: Path) -> Report:
    """The report with absolute paths cut to their ends and devices counted in the place of hosts'
    names."""
    hosts = [name for name in dict.fromkeys(recipe.target) if name.startswith("ssh://")]
    changes = {name: f"ssh device {place}" for place, name in enumerate(hosts, 1)}
    for folder in (started_in(path), path.resolve(), Path.home()):
        changes[f"{folder}/"] = ""
    subject = Path(report.subject.removeprefix("hf:"))
    if subject.is_absolute():
        changes[f"{subject.parent}/"] = ""

    def change(value: Any) -> Any:
        if isinstance(value, str):
            for old, new in changes.items():
                value = value.replace(old, new)
        elif isinstance(value, list):
            value = [change(item) for item in value]
        elif isinstance(value, dict):
            value = {key: change(item) for key, item in value.items()}
        return value

    return Report.model_validate_json(json.dumps(change(report.model_dump(mode="json"))))
