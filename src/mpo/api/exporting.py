"""`mpo.export`: a model in other formats, each checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpo.api.quiet import silent
from mpo.folders import slug
from mpo.optimizer.data.subject import Subject
from mpo.pipeline.export.exporting import ExportAsked
from mpo.pipeline.export.exporting import export as make_export
from mpo.pipeline.run.context import Progress
from mpo.pipeline.run.rebuilt import is_run
from mpo.records import Export, Precision


def export(
    subject: str | Path | Subject,
    to: str | Sequence[str] = "onnx",
    *,
    precision: Precision | None = None,
    dynamic: str | Sequence[str] = (),
    output: str | Path | None = None,
    overwrite: bool = False,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    held: Subject | None = None,
    progress: Progress = silent,
    **options: Any,
) -> Export:
    """Write a model in other formats, each checked; the folder appears whole or not at all.

    Args:
        subject: a run folder, whose pruned model is exported; or whatever `optimize` takes.
        to: names of exporters: onnx, openvino, tensorrt-rtx, tensorrt, those of plugins.
        precision: of all files; a run's own, else fp32, when None.
        dynamic: free axes, as "input:0=batch[1:32]"; the data tell when there is none.
        output: the folder; RUN/export or exports/NAME when None.
        overwrite: replace an earlier export there.
        settings: by format, the format's own options.
        held: the subject of a run that was made from one in memory.
        progress: called with (what, done, total).
        options: a recipe's keys: batch, opset, seed, weights, data, input, max_drop.

    Returns:
        The record. Its `status` is "partial" when a format could not be made, with the reason.

    Raises:
        UsageError: bad input.
        MpoError: no ONNX file could be made, or none in parity.
    """
    memory = subject if isinstance(subject, Subject) else held
    name = subject.name if isinstance(subject, Subject) else str(subject)
    asked = ExportAsked(
        subject=name,
        output=Path(output) if output else default_export(name),
        formats=(to,) if isinstance(to, str) else tuple(to),
        precision=precision,
        dynamic=(dynamic,) if isinstance(dynamic, str) else tuple(dynamic),
        options=settings or {},
        overwrite=overwrite,
        held=memory,
        recipe=options,
    )
    return make_export(asked, progress)


def default_export(subject: str) -> Path:
    """Where an export goes when nobody says: RUN/export, or exports/NAME."""
    return Path(subject) / "export" if is_run(Path(subject)) else Path("exports") / slug(subject)
