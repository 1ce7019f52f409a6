"""An ONNX file in further formats: each made, executed where this machine can, and compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from mpo.errors import MpoError, UsageError
from mpo.exporters.backends import Feeds, OnnxRunner, check_runner
from mpo.exporters.enginebuild import NOT_ASKED
from mpo.exporters.parity import EXACT, Allowed
from mpo.exporters.shapes import shape_ranges
from mpo.records import EngineBackend, ExportAxis, Exported, Parity, Precision, Runtime
from mpo.registry import EXPORTERS, RUNNERS, load, names
from mpo.timing import Stopwatch

ONNX = "onnx"
ENGINES: tuple[str, ...] = get_args(EngineBackend)
SUFFIXES = {"openvino": "xml", "tensorrt": "engine", "tensorrt-rtx": "rtx"}
# What a runtime may differ from ONNX Runtime on the same file: int8 and fp16 kernels round apart.
ROUNDED = Allowed(0.05, 0.98)
Progress = Callable[[str, int, int], None]
Options = Mapping[str, Mapping[str, Any]]
FileFor = Callable[[Runtime], Path]


@dataclass(frozen=True)
class FormatJob:
    """What further formats are made of.

    Attributes:
        source: the ONNX file for a runtime: its int8 may be laid out in another way.
        folder: where the files go.
        stem: of their names.
        axes: free ones of the ONNX file.
        feeds: real inputs that results are compared on.
        options: by format, the format's own.
        precision: of the files.
    """

    source: FileFor
    folder: Path
    stem: str
    axes: Sequence[ExportAxis]
    feeds: Sequence[Feeds]
    options: Options
    precision: Precision


def require_formats(formats: Sequence[str]) -> tuple[str, ...]:
    """Every format once, in order, commas taken apart.

    Raises:
        UsageError: none, or one that nobody makes.
    """
    found = tuple(dict.fromkeys(name.strip() for text in formats for name in text.split(",")))
    if not any(found):
        raise UsageError("No format is given.", hint=f"--to takes {', '.join(names(EXPORTERS))}.")
    for name in found:
        load(EXPORTERS, name)
    return found


def require_options(options: Options, formats: Sequence[str]) -> None:
    """Refuse options of a format that is not made: they would change nothing without a word.

    Raises:
        UsageError: as said.
    """
    made = [name for name in formats if name != ONNX]
    for name, own in options.items():
        if name == ONNX and own:
            raise UsageError(f"The format {ONNX} has no option {next(iter(own))!r}.")
        if name not in made:
            raise UsageError(
                f"--set names an option of {name}, which is not among the formats that are made.",
                hint=f"--to {name} makes it; asked for: {', '.join(formats)}.",
            )


def in_range(feeds: Sequence[Feeds], axes: Sequence[ExportAxis]) -> list[Feeds]:
    """What of the inputs an engine takes: batches cut to its largest, others outside its ranges
    left out."""
    found = list[Feeds]()
    for feed in feeds:
        cut, fits = dict(feed), True
        for axis in axes:
            for name, place in (one.rsplit(":", 1) for one in axis.inputs):
                if place == "0":
                    cut[name] = cut[name][: axis.high]
                fits = fits and axis.low <= cut[name].shape[int(place)] <= axis.high
        if fits:
            found.append(cut)
    return found


def runtime_of(format_: str) -> Runtime:
    """The runtime that will read a format's ONNX file; ONNX Runtime stands for a foreign one."""
    known: dict[str, Runtime] = {name: name for name in get_args(Runtime)}
    return known.get(format_, "onnxruntime")


def file_name(stem: str, format_: str) -> str:
    """model.xml, model.engine, model.rtx, model.FORMAT."""
    return f"{stem}.{SUFFIXES.get(format_, format_)}"


def make_formats(
    job: FormatJob, formats: Sequence[str], progress: Progress
) -> tuple[Exported, ...]:
    """Each format's result; what cannot be made costs no other one.

    Raises:
        UsageError: an option that a format does not have.
    """
    made = list[Exported]()
    for name in formats:
        progress(f"export: {name}", len(made), len(formats))
        watch = Stopwatch()
        found = _made(job, name)
        made.append(found.model_copy(update={"seconds": watch.seconds}))
    progress("export: formats", len(made), max(len(made), 1))
    return tuple(made)


def _made(job: FormatJob, name: str) -> Exported:
    try:
        source = job.source(runtime_of(name))
        ranges = {axis.name: (axis.low, axis.best, axis.high) for axis in job.axes}
        ranges |= {place: ranges[axis.name] for axis in job.axes for place in axis.inputs}
        given = {"shapes": shape_ranges(source, ranges)} if name in ENGINES else {}
        options = {**given, **job.options.get(name, {})}
    except UsageError as error:  # no file of this precision for this runtime
        return Exported(format=name, ok=False, reason=error.message, hint=error.hint)
    target = job.folder / file_name(job.stem, name)
    try:
        found: Exported = load(EXPORTERS, name)(source, target, options)
    except UsageError:
        raise
    except MpoError as error:
        return Exported(format=name, ok=False, reason=error.message, hint=error.hint)
    found = _placed(found, job)
    return _executed(found, source, job) if found.ok else found


def _placed(found: Exported, job: FormatJob) -> Exported:
    """File names relative to the folder, and the precision that was asked for."""
    files = tuple(
        file.model_copy(
            update={
                "path": str(Path(file.path).resolve().relative_to(job.folder.resolve())),
                "precision": job.precision,
            }
        )
        for file in found.files
    )
    engine = found.engine
    if engine is not None and engine.path:
        engine = engine.model_copy(update={"path": Path(engine.path).name})
    return found.model_copy(update={"files": files, "engine": engine})


def _executed(found: Exported, source: Path, job: FormatJob) -> Exported:
    """The same, compared with ONNX Runtime when a runner of the format can run here."""
    engine = found.engine is not None
    feeds = in_range(job.feeds, job.axes) if engine else job.feeds
    if found.format not in names(RUNNERS) or not job.feeds:
        return found
    main = job.folder / found.files[0].path
    if found.engine is not None and found.engine.ran_reason != NOT_ASKED:
        return found  # no GPU here
    if not feeds:
        return found.model_copy(update={"ran_reason": "no sample is of a size that it takes"})
    # An engine is native code: it is run only by its hash.
    known = {} if found.engine is None else {"digest": found.engine.sha256}
    runner: Any = load(RUNNERS, found.format)
    loose = ROUNDED if job.precision != "fp32" or engine else EXACT
    try:
        parity = check_runner(runner(main, **known), OnnxRunner(source), feeds, loose)
    except MpoError as error:
        reason = f"made, but it does not run here: {error.message}"
        return found.model_copy(update={"ok": False, "reason": reason, "hint": error.hint})
    return found.model_copy(update={**_judged(parity), "ran": True, "ran_reason": ""})


def _judged(parity: Parity) -> dict[str, Any]:
    reason = "" if parity.ok else f"not in parity with the ONNX file: {parity.reason}"
    return {"parity": parity, "ok": parity.ok, "reason": reason}
