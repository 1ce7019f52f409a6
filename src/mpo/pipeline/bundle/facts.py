"""What a bundle says of its devices, its licence, its limits and where its model comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mpo import __version__
from mpo.bundle.writer import Part, listed
from mpo.errors import UsageError
from mpo.files import sha256
from mpo.optimizer.data.subject import Subject
from mpo.pipeline.bundle.runs import FinishedRun
from mpo.profiles import presets
from mpo.records import BundleTarget, EngineBackend, Environment, OnTarget

UNSTATED = "NOASSERTION"
LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING")


@dataclass(frozen=True)
class Wishes:
    """What the user says of a bundle.

    Attributes:
        name: the run folder's when empty.
        bundle_version: counts up; devices refuse a lower one than they have seen.
        license: an SPDX identifier or expression.
        license_file: its text; one beside the subject file when None.
        fallback: whether a device may use its CPU although a GPU was meant.
        engine: whose engine the device builds; by the run's target when None, none when "none".
        expected: presets of devices that nobody has measured on.
        limitations: sentences for whoever relies on it.
        parent: the digest of the bundle that this one replaces.
        unmet: package a run whose budgets do not hold.
    """

    name: str = ""
    version: str = "1.0.0"
    bundle_version: int = 1
    license: str = UNSTATED
    license_file: Path | None = None
    fallback: Literal["allow", "refuse"] = "refuse"
    engine: EngineBackend | Literal["none"] | None = None
    expected: Sequence[str] = ()
    limitations: Sequence[str] = field(default_factory=tuple)
    parent: str | None = None
    unmet: bool = False


def tested_targets(run: FinishedRun) -> list[BundleTarget]:
    """The report's own targets: this very file was measured there."""
    report = run.report
    first = OnTarget(target=report.target, **_figures(report.optimized))
    rows = [(first, report.environment, "report.json#/optimized")]
    for place, other in enumerate(report.others):
        where = f"report.json#/others/{place}/optimized"
        rows.append((other.optimized, other.environment, where))
    return [_measured(*row) for row in rows]


def _figures(one: Any) -> dict[str, Any]:
    keys = ("peak_memory_bytes", "load_memory_bytes", "latency_ms")
    return {key: getattr(one, key) for key in keys}


def _measured(figures: OnTarget, where: Environment, evidence: str) -> BundleTarget:
    return BundleTarget(
        name=figures.target,
        status="tested",
        arch=where.os.split()[-1],
        os=where.os.split()[0],
        cpu=where.cpu,
        device="cpu" if ":cuda:" not in figures.target else figures.target.removeprefix("local:"),
        runtimes={key: where.runtimes[key] for key in ("onnxruntime",) if key in where.runtimes},
        threads=where.threads,
        latency_p50_ms=figures.latency_ms.p50,
        latency_p90_ms=figures.latency_ms.p90,
        peak_memory_bytes=figures.peak_memory_bytes,
        load_memory_bytes=figures.load_memory_bytes,
        evidence=evidence,
    )


def expected_target(name: str) -> BundleTarget:
    """A preset that nobody has measured this bundle on; UsageError when there is no such one."""
    found = presets.load(name).device
    return BundleTarget(
        name=name, status="expected", arch=found.arch, os=found.os, cpu=found.cpu.model
    )


def licence_text(subject: Subject, wishes: Wishes) -> bytes:
    """The text that was named, or that lies beside the subject."""
    places = [path.parent / name for path in subject.sources for name in LICENCES]
    named = wishes.license_file
    for path in [named] if named else places:
        if path.is_file():
            return path.read_bytes()
        if named:
            raise UsageError(f"There is no licence file {path}.")
    stated = "No licence was stated" if wishes.license == UNSTATED else "The licence is stated"
    return f"{stated} when this model was packaged: {wishes.license} (SPDX).\n".encode()


def limitations(run: FinishedRun, wishes: Wishes) -> tuple[str, ...]:
    """What a user must know before relying on it."""
    found = [*wishes.limitations, *run.report.warnings]
    if not run.report.met:
        found.insert(0, f"The budgets do not hold ({run.report.status}).")
    if wishes.license == UNSTATED:
        found.append("No licence was stated.")
    return tuple(text[:2000] for text in dict.fromkeys(found))


def provenance(run: FinishedRun, files: dict[str, Part]) -> dict[str, Any]:
    """Where the model comes from, as an in-toto statement with SLSA's predicate; unsigned.

    Source: in-toto.io/Statement/v1 and slsa.dev/provenance/v1.
    """
    recipe = run.recipe.model_dump(mode="json", exclude={"subject", "target", "data", "weights"})
    named = {name: listed({name: part})[name].sha256 for name, part in files.items()}
    materials = [{"name": "plan.safetensors", "digest": {"sha256": sha256(path)}}
                 for path in [run.path / "model.safetensors"] if path.is_file()]  # fmt: skip
    if run.original_sha256:
        materials.append({"name": "original.onnx", "digest": {"sha256": run.original_sha256}})
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": sha}} for name, sha in named.items()],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:mpo:optimize:1",
                "externalParameters": {"subject": run.report.subject, "recipe": recipe},
                "resolvedDependencies": materials,
            },
            "runDetails": {"builder": {"id": "urn:mpo", "version": {"mpo": __version__}}},
        },
    }
