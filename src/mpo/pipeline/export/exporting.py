"""`mpo export`: a subject, a run or an ONNX file in the formats that were asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from mpo import __version__
from mpo.errors import UsageError
from mpo.exporters.backends import artifact
from mpo.exporters.external import data_path
from mpo.folders import new_folder, require_free
from mpo.optimizer.data.subject import Subject
from mpo.pipeline.export.dynamic import AskedAxis, parse_dynamic
from mpo.pipeline.export.formats import (
    ONNX,
    FormatJob,
    Progress,
    make_formats,
    require_formats,
    require_options,
)
from mpo.pipeline.export.onnxfile import RECORD, TAKES, export_file
from mpo.pipeline.export.trunk import Exporting, make_trunk
from mpo.pipeline.run.context import Context, subject_of
from mpo.pipeline.run.inputs import feeds_of_all
from mpo.pipeline.run.rebuilt import is_run, plan_digest, rebuild
from mpo.pipeline.run.saved import save
from mpo.pipeline.run.steady import steady_torch
from mpo.recipe import Recipe, make_recipe, to_toml
from mpo.records import Artifact, Export, Exported, Plan, Precision, Trunk
from mpo.store import open_run
from mpo.timing import Stages

STEM = "model"
FEEDS = 4  # batches that other formats are compared on


@dataclass(frozen=True)
class ExportAsked:
    """What `mpo export` is asked.

    Attributes:
        subject: a run folder, or whatever `mpo optimize` takes.
        output: the folder to write.
        formats: names of exporters; the ONNX file is made in any case.
        precision: of every file; a run's own, and fp32 of anything else, when None.
        dynamic: every --dynamic.
        options: by format, the format's own.
        overwrite: replace an earlier export there.
        held: the subject in memory, when there is one.
        recipe: further keys of a recipe: batch, opset, seed, weights, data, input, max_drop.
    """

    subject: str
    output: Path
    formats: tuple[str, ...] = (ONNX,)
    precision: Precision | None = None
    dynamic: tuple[str, ...] = ()
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    overwrite: bool = False
    held: Subject | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Source:
    """The model that is exported and where it comes from."""

    recipe: Recipe
    subject: Subject
    model: Callable[[], nn.Module]
    plan: Plan | None = None


def export(asked: ExportAsked, progress: Progress) -> Export:
    """Make every format; the folder appears whole, with its record, or not at all.

    Raises:
        UsageError: nothing of that name, an unknown format, option, axis or precision, or a folder
            that holds something else.
        MpoError: no export, or one that is not in parity with its model.
    """
    formats = require_formats(asked.formats)
    axes = parse_dynamic(asked.dynamic)
    require_options(asked.options, formats)
    require_free(asked.output, RECORD, overwrite=asked.overwrite)
    if asked.subject.endswith(".onnx") and asked.held is None:
        return _from_file(asked, formats, axes, progress)
    source = _source(asked)
    with (
        steady_torch(),
        tempfile.TemporaryDirectory(prefix="mpo-export-") as scratch,
        open_run(Path(scratch) / "run", to_toml(source.recipe)) as run,
        new_folder(asked.output, RECORD, overwrite=asked.overwrite) as folder,
    ):
        context = Context(source.recipe, source.subject, run, progress, places=())
        record = _exported(asked, formats, axes, source, context, folder)
        save(record, folder / RECORD)
    return record


def _from_file(
    asked: ExportAsked,
    formats: tuple[str, ...],
    axes: tuple[AskedAxis, ...] | None,
    progress: Progress,
) -> Export:
    strange = sorted(set(asked.recipe) - TAKES)
    if strange:
        raise UsageError(
            f"An ONNX file takes no --{strange[0].replace('_', '-')}.",
            hint="Name the subject that it was made from.",
        )
    if axes is None:
        raise UsageError(
            "--dynamic none is for a model that is traced; an ONNX file has the axes it has.",
            hint="Name the subject that it was made from, or give sizes: --dynamic batch[1:8:32].",
        )
    with new_folder(asked.output, RECORD, overwrite=asked.overwrite) as folder:
        record = export_file(
            Path(asked.subject),
            formats,
            folder,
            progress,
            precision=asked.precision or "fp32",
            axes=axes,
            options=asked.options,
            inputs=tuple(asked.recipe.get("input", ())),
            batch=asked.recipe.get("batch"),
        )
        save(record, folder / RECORD)
    return record


def _source(asked: ExportAsked) -> _Source:
    run = Path(asked.subject)
    if is_run(run):
        strange = sorted(set(asked.recipe) - {"batch", "opset", "max_drop"})
        if strange:
            raise UsageError(
                f"A run folder takes no --{strange[0].replace('_', '-')}: it has its subject.",
                hint="Name the subject in the place of the folder.",
            )
        found = rebuild(run, asked.held)
        recipe = make_recipe(**{**found.recipe.model_dump(), **asked.recipe})
        return _Source(recipe, found.subject, lambda: found.model, found.plan)
    recipe = make_recipe(subject=asked.held.name if asked.held else asked.subject, **asked.recipe)
    subject = asked.held or subject_of(recipe)
    return _Source(recipe, subject, subject.build)


def _exported(
    asked: ExportAsked,
    formats: tuple[str, ...],
    axes: tuple[AskedAxis, ...] | None,
    source: _Source,
    context: Context,
    folder: Path,
) -> Export:
    """The whole record, its files in `folder`."""
    stages = Stages()
    precision = asked.precision or (source.plan.precision if source.plan else "fp32")
    with stages.timed("model"):
        _ = context.outputs  # a broken model, or data, is told of before anything is made
        model = source.model()
    plan = source.plan
    planned = plan is not None and (plan.removed or plan.precision != "fp32")
    digest = plan_digest(plan) if plan is not None and planned else ""
    metadata = context.facts(digest)
    with tempfile.TemporaryDirectory(prefix="mpo-trunk-") as scratch:
        exporting = Exporting(context, model, axes, metadata, Path(scratch))
        with stages.timed("onnx"):
            trunk, made, plain = make_trunk(exporting, folder / f"{STEM}.onnx", precision)
        job = FormatJob(
            source=exporting.source(plain, precision),
            folder=folder,
            stem=STEM,
            axes=trunk.axes,
            feeds=feeds_of_all(plain, exporting.calls(plain)[:FEEDS]),
            options=asked.options,
            precision=precision,
        )
        with stages.timed("formats"):
            others = make_formats(job, [one for one in formats if one != ONNX], context.progress)
        conversions = exporting.conversions.values()
    found = {one.format: one for one in (onnx_format(folder, trunk), *others)}
    told = [*context.splits().notes, *context.converted, *made.warnings]
    told += [text for one in conversions for text in one.warnings]
    results = tuple(found[name] for name in dict.fromkeys((*formats, ONNX)))
    record = _record(source, trunk, results, stages.seconds)
    return record.model_copy(update={"plan_sha256": digest, "warnings": tuple(dict.fromkeys(told))})


def _record(
    source: _Source, trunk: Trunk, results: tuple[Exported, ...], seconds: dict[str, float]
) -> Export:
    return Export(
        tool={"name": "mpo", "version": __version__},
        subject=source.subject.name,
        kind="run" if source.plan else "subject",
        removed=source.plan.removed if source.plan else (),
        trunk=trunk,
        formats=results,
        artifacts=tuple(file for one in results for file in one.files),
        status=_status(trunk, results, source.recipe.allowed_drop()),
        seconds=seconds,
    )


def onnx_format(folder: Path, trunk: Trunk, stem: str = STEM) -> Exported:
    """The trunk as one of the formats."""
    graph = folder / f"{stem}.onnx"
    files = [(graph, "onnx"), (data_path(graph), "onnx-data")]
    return Exported(
        format=ONNX,
        ok=True,
        files=tuple(_named(path, kind, trunk.precision) for path, kind in files if path.is_file()),
        ran=True,
        parity=trunk.reduced or trunk.parity,
    )


def _named(path: Path, kind: str, precision: Precision) -> Artifact:
    return artifact(path, kind, precision).model_copy(update={"path": path.name})


def _status(trunk: Trunk, results: tuple[Exported, ...], allowed: float) -> Any:
    if not all(one.ok for one in results):
        return "partial"
    return "below-floor" if (trunk.dropped or 0.0) > allowed else "complete"
