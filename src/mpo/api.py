"""The verbs as Python functions: optimize, analyze, load, read_report."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from mpo.errors import UsageError
from mpo.optimizer.artifact import load_pruned
from mpo.optimizer.subject import Subject
from mpo.pipeline.analysis import measure_analysis
from mpo.pipeline.context import Context, Progress, subject_of
from mpo.pipeline.story import steady_torch, tell
from mpo.recipe import Recipe, make_recipe, read_recipe, to_toml
from mpo.records import Analysis, Plan, Report
from mpo.render.html import html
from mpo.render.markdown import markdown
from mpo.store import RECIPE, RunFolder, open_run, started_in


def silent(what: str, done: int, total: int) -> None:
    """A progress that shows nothing."""


def optimize(
    subject: str | Path | Subject,
    budget: str | Sequence[str] = (),
    *,
    output: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
    **options: Any,
) -> Report:
    """Make a model fit its budgets; the run folder holds the model, its ONNX file and the proof.

    Args:
        subject: a subject file, package.module:factory, hf:FOLDER, or `mpo.Subject` in memory.
        budget: a text like "50MB", "12ms", "params=60%", or several; all must hold.
        output: the run folder; runs/NAME when None.
        overwrite: replace a run of another recipe there.
        progress: called with (what, done, total).
        options: the recipe's other keys (method, max_drop, epochs, batch, threads, seed, ...).

    Returns:
        The report. Its `status` tells whether every budget holds within the quality floor.

    Raises:
        UsageError: bad input.
        InfeasibleError: no plan holds the budgets.
        RefusedError: unsafe weights.
    """
    held = subject if isinstance(subject, Subject) else None
    name = held.name if held else str(subject)
    texts = (budget,) if isinstance(budget, str) else tuple(budget)
    recipe = make_recipe(subject=name, budget=texts, **options)
    report, _ = run_recipe(
        recipe, Path(output) if output else None, held, overwrite=overwrite, progress=progress
    )
    return report


def run_recipe(
    recipe: Recipe,
    output: Path | None = None,
    subject: Subject | None = None,
    *,
    overwrite: bool = False,
    progress: Progress = silent,
) -> tuple[Report, Path]:
    """Run a recipe into its folder and return the report and the folder."""
    found = subject or subject_of(recipe)
    path = output or Path("runs") / slug(recipe.subject)
    with open_run(path, to_toml(recipe), overwrite=overwrite) as folder:
        report = tell(Context(recipe, found, folder, progress))
        write_report(report, folder)
    return report, path


def write_report(report: Report, folder: RunFolder) -> None:
    """The report as JSON, Markdown and HTML, with the figures and the device beside it."""
    record = report.model_dump(mode="json")
    bench = {key: record[key] for key in ("original", "optimized", "ratio", "environment")}
    folder.write("bench.json", json.dumps(bench, indent=1) + "\n")
    folder.write("device.json", json.dumps(record["environment"], indent=1) + "\n")
    folder.write("plan.json", json.dumps(record["plan"], indent=1) + "\n")
    folder.write("report.json", json.dumps(record, indent=1) + "\n")
    folder.write("report.md", markdown(report))
    folder.write("report.html", html(report))


def slug(subject: str) -> str:
    """A folder name for a subject: the parent for NAME/subject.py, else the name itself."""
    path = Path(subject.removeprefix("hf:"))
    stem = path.parent.name if path.stem in ("subject", "model") and path.parent.name else path.stem
    return re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "model"


def analyze(
    subject: str | Path | Subject, *, progress: Progress = silent, **options: Any
) -> Analysis:
    """Blocks of a model, their similarity, clusters and harm. Writes nothing.

    Args:
        subject: as `optimize` takes it.
        progress: called with (what, done, total).
        options: the recipe's keys (calibration, threshold, seed, weights, ...).

    Raises:
        UsageError: bad input.
    """
    held = subject if isinstance(subject, Subject) else None
    recipe = make_recipe(subject=held.name if held else str(subject), **options)
    return analyze_recipe(recipe, held, progress)


def analyze_recipe(
    recipe: Recipe, subject: Subject | None = None, progress: Progress = silent
) -> Analysis:
    """The analysis of a recipe's subject; writes nothing."""
    found = subject or subject_of(recipe)
    with (
        steady_torch(),
        tempfile.TemporaryDirectory(prefix="mpo-analyze-") as name,
        open_run(Path(name), to_toml(recipe)) as folder,
    ):
        context = Context(recipe, found, folder, progress)
        _ = context.outputs
        return measure_analysis(context)[0]


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


def load(run: str | Path, subject: Subject | None = None) -> nn.Module:
    """The pruned model of a run folder as a torch module in eval mode: factory + plan + weights.

    Args:
        run: a run folder.
        subject: the subject in memory, when the run was made from one.

    Raises:
        UsageError: no finished run there, or its subject is gone.
    """
    folder = Path(run)
    recipe = make_recipe(**read_recipe(folder / RECIPE))
    plan_file = folder / "plan.json"
    if not plan_file.is_file():
        raise UsageError(f"{folder} holds no plan.json.", hint="Name a finished run's folder.")
    plan = Plan.model_validate_json(plan_file.read_text(encoding="utf-8"))
    factory = (subject or _named_subject(recipe, folder)).build
    weights = folder / "model.safetensors"
    if not plan.removed and not weights.is_file():
        return factory()  # the original met the budget
    return load_pruned(factory, plan.removed, weights).eval()


def _named_subject(recipe: Recipe, folder: Path) -> Subject:
    try:
        return subject_of(recipe, started_in(folder))
    except UsageError as error:
        memory = "if it was made in memory, give it: mpo.load(run, subject)"
        raise UsageError(error.message, hint=f"{error.hint} Or, {memory}.") from error
