"""`mpo export FILE.onnx`: an ONNX file in further formats, compared on given or random inputs."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from onnx import ModelProto

from mpo import __version__
from mpo.errors import MpoError, UsageError
from mpo.exporters.backends import OnnxRunner, artifact, check_runner
from mpo.exporters.parity import ROUNDED
from mpo.exporters.preflight import preflight
from mpo.exporters.runtimefaults import first_line
from mpo.files import write_atomic
from mpo.pipeline.bench.inputs import Feeds, make_feeds
from mpo.pipeline.export.dynamic import AskedAxis, export_axes
from mpo.pipeline.export.formats import ONNX, FileFor, FormatJob, Options, Progress, make_formats
from mpo.pipeline.run.graphs import Wanted, count_nodes, data_files, read_model, wanted_inputs
from mpo.pipeline.run.precision import convert
from mpo.records import (
    Conversion,
    Export,
    ExportAxis,
    Exported,
    Precision,
    Runtime,
    Trunk,
)
from mpo.timing import Stages

RECORD = "export.json"
GIVEN = "the file as it was given"
RANDOM = "The results were compared on random inputs: agreement on noise is no proof of accuracy."
TAKES = {"input", "batch"}  # keys of a recipe that mean something without a subject


def export_file(
    path: Path,
    formats: Sequence[str],
    folder: Path,
    progress: Progress,
    *,
    precision: Precision = "fp32",
    axes: Sequence[AskedAxis] = (),
    options: Options | None = None,
    inputs: Sequence[str] = (),
    batch: int | None = None,
    stem: str = "model",
) -> Export:
    """Every format of an ONNX file, in `folder`.

    Args:
        path: of the file.
        precision: fp32 leaves the file as it is; int8-dynamic needs no calibration.
        axes: sizes of its free axes.
        inputs: shapes, or one .npz, as `mpo bench` takes them.
        batch: size of the free first axis.

    Raises:
        UsageError: no such file, a precision that needs data, inputs that do not fit.
        RefusedError: a file that is not sound.
        MpoError: no ONNX model.
    """
    _require_uncalibrated(precision)
    preflight(path)
    model, stages = read_model(path), Stages()
    free = export_axes(path, axes, batch or 1, {})
    feeds = _feeds(wanted_inputs(model), free, inputs, batch)
    with tempfile.TemporaryDirectory(prefix="mpo-trunk-") as scratch:
        source, conversion = path, None
        with stages.timed("onnx"):
            if precision != "fp32":
                source = Path(scratch) / "model.onnx"
                conversion = convert(path, source, precision)
        job = FormatJob(_for_all(source), folder, stem, free, [feeds], options or {}, precision)
        with stages.timed("formats"):
            others = make_formats(job, [one for one in formats if one != ONNX], progress)
        copied = [_copied(source, folder, stem, precision)] if ONNX in formats else []
        if conversion:
            copied = [_compared(one, source, path, feeds) for one in copied]
        trunk = _trunk(model, source, free, precision, conversion)
    results = tuple(sorted((*others, *copied), key=lambda one: formats.index(one.format)))
    given = any(text.endswith(".npz") for text in inputs)
    record = _record(path, trunk, results, stages.seconds)
    noise = not given and any(one.ran for one in results)
    return record.model_copy(update={"warnings": (RANDOM,)}) if noise else record


def _record(
    path: Path, trunk: Trunk, results: tuple[Exported, ...], seconds: dict[str, float]
) -> Export:
    return Export(
        tool={"name": "mpo", "version": __version__},
        subject=str(path),
        kind="onnx",
        trunk=trunk,
        formats=results,
        artifacts=tuple(file for one in results for file in one.files),
        status="complete" if all(one.ok for one in results) else "partial",
        seconds=seconds,
    )


def _trunk(
    model: ModelProto,
    source: Path,
    free: tuple[ExportAxis, ...],
    precision: Precision,
    conversion: Conversion | None,
) -> Trunk:
    nodes = count_nodes(model.graph)
    held = count_nodes(read_model(source).graph) if conversion else nodes
    return Trunk(
        tracer="given",
        opset={one.domain: one.version for one in model.opset_import}.get("", 0),
        nodes=held,
        raw_nodes=nodes,
        simplified=False,
        simplify_reason="the file was given",
        precision=precision,
        conversion=conversion,
        axes=free,
    )


def _require_uncalibrated(precision: Precision) -> None:
    if precision not in ("fp32", "int8-dynamic"):
        raise UsageError(
            f"{precision} is calibrated on real inputs, and an ONNX file brings none.",
            hint="Name the subject or the run that the file was made from, or use int8-dynamic.",
        )


def _for_all(source: Path) -> FileFor:
    def file(_: Runtime) -> Path:
        return source

    return file


def _feeds(
    wanted: Sequence[Wanted], free: Sequence[ExportAxis], inputs: Sequence[str], batch: int | None
) -> Feeds:
    """The given inputs, or random ones at the most common size of every free axis."""
    if inputs:
        return make_feeds(wanted, inputs, batch)
    best = {place: axis.best for axis in free for place in axis.inputs}
    shapes = []
    for one in wanted:
        sizes = [
            best[f"{one.name}:{place}"] if isinstance(axis, str) else axis
            for place, axis in enumerate(one.axes)
        ]
        if sizes:
            shapes.append(f"{one.name}={'x'.join(map(str, sizes))}")
    return make_feeds(wanted, shapes, batch)


def _copied(source: Path, folder: Path, stem: str, precision: Precision) -> Exported:
    """The file itself, with the files of its weights where it names them, in folders of their own
    too.

    Raises:
        UsageError: it names a file of weights as the copy itself, or the record, is named.
    """
    home = source.parent.resolve()
    places = {source: Path(f"{stem}.onnx")}
    places |= {file: file.relative_to(home) for file in data_files(source, read_model(source))}
    taken = {Path(f"{stem}.onnx"), Path(RECORD)} & set([*places.values()][1:])
    if taken:
        raise UsageError(
            f"{source} keeps weights in {taken.pop()}, a name that the export gives to another "
            "file.",
            hint="Save the model with its weights under another name.",
        )
    kinds, files = {source: "onnx"}, []
    for file, place in places.items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, file.read_bytes())
        made = artifact(target, kinds.get(file, "onnx-data"), precision)
        files.append(made.model_copy(update={"path": place.as_posix()}))
    return Exported(format=ONNX, ok=True, files=tuple(files), ran_reason=GIVEN)


def _compared(made: Exported, converted: Path, given: Path, feeds: Feeds) -> Exported:
    """The same after both files ran on the inputs; where the given one does not run on them, that
    is told."""
    try:
        parity = check_runner(
            OnnxRunner(converted), OnnxRunner(given), [feeds], ROUNDED["int8-dynamic"]
        )
    except MpoError as error:
        return made.model_copy(update={"ran_reason": first_line(error)})
    reason = "" if parity.ok else f"not in parity with the given file: {parity.reason}"
    told = {"ran": True, "ran_reason": "", "parity": parity, "ok": parity.ok, "reason": reason}
    return made.model_copy(update=told)
