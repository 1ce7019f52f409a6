"""The last stage of a run: its ONNX file in the formats of --export."""

from __future__ import annotations

from pathlib import Path

from mpo.errors import UsageError
from mpo.files import sha256
from mpo.pipeline.export.dynamic import export_axes, seen_sizes
from mpo.pipeline.export.formats import ONNX, FormatJob, make_formats, require_formats
from mpo.pipeline.run.context import Context
from mpo.pipeline.run.inputs import feeds_of_all, parity_calls
from mpo.pipeline.run.precision import LAYOUTS, refusal
from mpo.pipeline.run.saved import read, save
from mpo.records import Exported, Precision, Record, Runtime

STEM, FORMATS, FEEDS = "model", "formats.json", 4


class Formats(Record):
    """What the stage keeps."""

    formats: tuple[Exported, ...]


def wanted_formats(context: Context) -> tuple[str, ...]:
    """The formats of --export beside the ONNX file, which every run has.

    Raises:
        UsageError: one that nobody makes.
    """
    asked = context.recipe.export
    return tuple(name for name in require_formats(asked) if name != ONNX) if asked else ()


def export_formats(
    context: Context, trunk: Path, precision: Precision = "fp32"
) -> tuple[Exported, ...]:
    """Every format, made once; the files stand at the run's top. What cannot be made is a result
    with its reason.

    Args:
        trunk: the run's ONNX file.
        precision: of that file.
    """
    wanted = wanted_formats(context)
    if not wanted:
        return ()

    def make(folder: Path) -> None:
        job = FormatJob(
            source=lambda runtime: readable(trunk, precision, runtime),
            folder=folder,
            stem=STEM,
            axes=export_axes(trunk, (), context.recipe.batch, seen_sizes(context)),
            feeds=feeds_of_all(trunk, parity_calls(context)[:FEEDS]),
            options={},
            precision=precision,
        )
        save(Formats(formats=make_formats(job, wanted, context.progress)), folder / FORMATS)

    key = {**context.base_key, "onnx": sha256(trunk), "formats": wanted}
    folder = context.folder.stage("export", key, make)
    found = read(Formats, folder / FORMATS).formats
    for one in found:
        for file in one.files:
            context.folder.place(folder / file.path, file.path)
    return found


def readable(trunk: Path, precision: Precision, runtime: Runtime) -> Path:
    """The run's file when a runtime reads its layout.

    Raises:
        UsageError: it was laid out for another one.
    """
    reason = refusal(precision, runtime)
    if not reason and precision == "int8" and LAYOUTS.get(runtime) != LAYOUTS["onnxruntime"]:
        reason = f"The run's int8 file is laid out for ONNX Runtime on a CPU, which {runtime} does "
        reason += "not read."
    if reason:
        raise UsageError(reason, hint=f"mpo export RUN --precision int8 --to {runtime}")
    return trunk
