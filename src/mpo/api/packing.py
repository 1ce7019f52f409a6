"""The verb of the bundle as a Python function: package."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpo.api.quiet import silent
from mpo.bundle import mpo_edge
from mpo.bundle.signing import sign as sign_bundle_file
from mpo.bundle.whole import Verified, verify
from mpo.bundle.writer import Part, write_bundle
from mpo.errors import UsageError
from mpo.optimizer.data.subject import Subject
from mpo.pipeline.bundle.bundling import gathered, manifest_of
from mpo.pipeline.bundle.check import check_on, with_checks
from mpo.pipeline.bundle.facts import Wishes, provenance
from mpo.pipeline.bundle.runs import FinishedRun, finished_run
from mpo.pipeline.run.context import Progress, subject_of
from mpo.records import Bundle
from mpo.render.card import card
from mpo.render.html import html
from mpo.render.sbom import mlbom
from mpo.store import started_in


def package(
    run: str | Path,
    output: str | Path,
    *,
    subject: Subject | None = None,
    check: Sequence[str] = (),
    sign: bool = False,
    key: Path | None = None,
    seconds: float = 1.0,
    overwrite: bool = False,
    progress: Progress = silent,
    **wishes: Any,
) -> Verified:
    """Write the bundle of a finished run.

    Args:
        run: its folder.
        output: the .mpo file to write, whole or not at all.
        subject: in memory, when the run was made from one; its test split gives the samples.
        check: targets to copy the bundle to; their figures are written into it as tested.
        sign: sign it, with `key` or, without one, keyless by Sigstore over the network.
        seconds: of sampling a process there.
        overwrite: replace a bundle that is there.
        progress: called with (what, done, total).
        wishes: as `mpo.pipeline.bundle.facts.Wishes` has them: name, version, license, ...

    Raises:
        UsageError: no finished run, or a place that cannot be written.
        InfeasibleError: the run's budgets do not hold, and `unmet` does not allow it.
        RefusedError: the run's files were changed since.
        MpoError: a device that was to check it fails.
    """
    folder, target = Path(run), Path(output)
    check_output(target, overwrite=overwrite)
    if key is not None and not sign:
        raise UsageError("A key is named, and nothing is to be signed.", hint="Add --sign.")
    asked = Wishes(**wishes)
    found = finished_run(folder, unmet=asked.unmet)
    progress("take samples", 0, 1)
    parts = gathered(found, subject or subject_of(found.recipe, started_in(folder)), asked)
    progress("take samples", 1, 1)
    manifest = described(found, parts, asked)
    with tempfile.TemporaryDirectory(prefix="mpo-package-") as name:
        draft, done = Path(name) / "draft.mpo", Path(name) / "done.mpo"
        last = done if sign else target
        if check:
            write_bundle(draft, manifest, parts)
            with_checks(draft, last, check_on(draft, check, progress, seconds=seconds))
        else:
            write_bundle(last, manifest, parts)
        if sign:
            sign_bundle_file(last, target, key=key)
    return verify(target)


def described(run: FinishedRun, parts: dict[str, Part], wishes: Wishes) -> Bundle:
    """Add the texts about the bundle to its parts; its manifest."""
    report = run.report
    records = {"plan.json": report.plan, "report.json": report}
    for name, record in records.items():
        text = json.dumps(record.model_dump(mode="json"), indent=1) + "\n"
        parts[name] = Part(text.encode(), "plan" if name == "plan.json" else "report")
    parts["report.html"] = Part(html(report).encode(), "report")
    subjects = {name: part for name, part in parts.items() if part.role in ("model", "weights")}
    told = mpo_edge.canonical(provenance(run, subjects))
    parts["provenance.intoto.json"] = Part(told, "provenance")
    draft = manifest_of(run, parts, wishes)
    parts["MODEL_CARD.md"] = Part(card(draft, report).encode(), "doc")
    parts["sbom.cdx.json"] = Part(mlbom(draft, report).encode(), "sbom")
    return manifest_of(run, parts, wishes)


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse a place for a bundle before anything is done.

    Raises:
        UsageError: something is there already, or it cannot be written.
    """
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"Cannot write a bundle to {path}.", hint="Name a file: -o model.mpo")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists.", hint="Replace it with --overwrite.")
