"""The verbs around a run folder as Python functions: optimize, plan, analyze, load."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from mpo.api.quiet import silent
from mpo.errors import InfeasibleError, UsageError
from mpo.folders import slug
from mpo.optimizer.data.subject import Subject
from mpo.optimizer.ground.distributed import ALONE, Crew
from mpo.pipeline.contract.guard import check_terms
from mpo.pipeline.optimize.story import prepare, tell
from mpo.pipeline.plan.dryrun import dry_run, read_original
from mpo.pipeline.plan.helping import with_precisions
from mpo.pipeline.run.analysis import measure_analysis
from mpo.pipeline.run.context import Context, Progress, asked_for, subject_of
from mpo.pipeline.run.places import places_of
from mpo.pipeline.run.rebuilt import is_run, rebuild
from mpo.pipeline.run.remembering import Remembering
from mpo.pipeline.run.room import require_room
from mpo.pipeline.run.steady import steady_torch
from mpo.profiles.targets import opened
from mpo.recipe import Recipe, make_recipe, recipe_of_run, to_toml
from mpo.records import Analysis, Plan, Report
from mpo.render.html import html
from mpo.render.markdown import markdown
from mpo.runfolder import RunFolder
from mpo.store import open_run, require_place
from mpo.timing import Deadline


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
        subject: a subject file, package.module:factory, hf:FOLDER, timm:NAME, or `mpo.Subject`
            in memory.
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
    crew: Crew = ALONE,
) -> tuple[Report, Path]:
    """Run a recipe into its folder and return the report and the folder.

    Args:
        crew: the processes that follow this one.
    """
    path = output or Path("runs") / slug(recipe.subject)
    with under_way(
        recipe, path, subject, overwrite=overwrite, progress=progress, crew=crew
    ) as context:
        report = tell(context)
        write_report(report, context.folder)
    return report, path


@contextlib.contextmanager
def under_way(
    recipe: Recipe,
    path: Path,
    subject: Subject | None,
    *,
    overwrite: bool,
    progress: Progress,
    crew: Crew = ALONE,
) -> Iterator[Context]:
    """A run whose targets have answered and whose folder is locked; both are let go at the end."""
    check_terms(recipe)
    deadline = Deadline(recipe.seconds_allowed())
    require_place(path, to_toml(recipe), overwrite=overwrite)
    found = asked_for(subject, recipe) if subject else subject_of(recipe)
    with opened(recipe.target) as targets:
        places = places_of(recipe, targets)
        with open_run(path, to_toml(recipe), overwrite=overwrite) as folder:
            kept = tuple(replace(one, target=Remembering(one.target, folder)) for one in places)
            context = Context(recipe, found, folder, progress, kept, deadline, crew)
            require_room(context)
            try:
                yield context
            except InfeasibleError:  # an answer too: the closest plan is there
                folder.settle()
                raise
            folder.settle()


def plan(
    subject: str | Path | Subject,
    budget: str | Sequence[str],
    *,
    output: str | Path | None = None,
    explain: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
    **options: Any,
) -> Plan:
    """What would be removed for a budget, predicted: nothing is trained.

    Args:
        subject: a run folder, which answers in seconds from what it keeps; or whatever `optimize`
            takes, measured first into the run folder `output`.
        budget: as `optimize` takes it.
        explain: say for each block why it goes and not its neighbour (`Plan.reasons`).
        options: the recipe's other keys; none with a run folder.

    Raises:
        UsageError: bad input, or a run folder without the stages that a plan needs.
        InfeasibleError: no plan is predicted to hold the budgets.
    """
    texts = (budget,) if isinstance(budget, str) else tuple(budget)
    if not isinstance(subject, Subject) and is_run(Path(subject)):
        if options:
            raise UsageError(
                f"A run folder takes no {', '.join(options)}: its tables were measured already.",
                hint="Name the subject in the place of the folder to measure anew.",
            )
        return plan_run(Path(subject), texts, explain=explain)
    held = subject if isinstance(subject, Subject) else None
    recipe = make_recipe(subject=held.name if held else str(subject), budget=texts, **options)
    folder = Path(output) if output else None
    return plan_recipe(
        recipe, folder, held, explain=explain, overwrite=overwrite, progress=progress
    )


def plan_run(run: Path, budget: Sequence[str], *, explain: bool = False) -> Plan:
    """The plan that a run folder's saved stages give for these budgets."""
    recipe = recipe_of_run(run)
    wanted = recipe.model_copy(update={"budget": tuple(budget) or recipe.budget})
    return dry_run(run, wanted, explain=explain)


def plan_recipe(
    recipe: Recipe,
    output: Path | None = None,
    subject: Subject | None = None,
    *,
    explain: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Plan:
    """Measure a recipe's subject into its run folder and plan; what is there already is kept."""
    if not recipe.budget:
        raise UsageError("No budget is given.", hint="Add --budget 50MB (or 12ms, 50%).")
    path = output or Path("runs") / slug(recipe.subject)
    with under_way(recipe, path, subject, overwrite=overwrite, progress=progress) as context:
        prepare(context)
        context.folder.settle()
        try:
            return dry_run(path, recipe, explain=explain)
        except InfeasibleError as error:
            raise with_precisions(context, error, read_original(path)) from error


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
    found = asked_for(subject, recipe) if subject else subject_of(recipe)
    with (
        steady_torch(),
        tempfile.TemporaryDirectory(prefix="mpo-analyze-") as name,
        open_run(Path(name), to_toml(recipe)) as folder,
    ):
        context = Context(recipe, found, folder, progress, places=())
        _ = context.outputs
        return measure_analysis(context)[0]


def load(run: str | Path, subject: Subject | None = None) -> nn.Module:
    """The pruned model of a run folder as a torch module in eval mode: factory + plan + weights.

    Args:
        run: a run folder.
        subject: the subject in memory, when the run was made from one.

    Raises:
        UsageError: no finished run there, or its subject is gone.
    """
    return rebuild(Path(run), subject).model
