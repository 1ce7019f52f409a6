"""A bundle on a device: copied, verified, tested against its samples and measured there, by our own
copy of its program. What the device says is data from a stranger."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpo.bundle import edgejob, mpo_edge
from mpo.bundle.reader import open_bundle
from mpo.bundle.writer import Part, amend_bundle
from mpo.errors import MpoError
from mpo.profiles.device import describe
from mpo.profiles.jobs import Job, Target, last_words, parse_json, plain
from mpo.profiles.targets import opened
from mpo.records import Bundle, BundleTarget, Device

Progress = Callable[[str, int, int], None]
TIMEOUT_S = 900.0
LARGEST_MS, LARGEST_BYTES = 3.6e6, 2**50
PROCESSES = 3


@dataclass(frozen=True)
class Checked:
    """What a device made of a bundle.

    Attributes:
        target: its figures, for the manifest.
        evidence: what it was asked and answered, for a file of its own.
    """

    target: BundleTarget
    evidence: dict[str, Any]


def check_on(
    path: Path, names: Sequence[str], progress: Progress, *, seconds: float = 1.0
) -> tuple[Checked, ...]:
    """Copy a bundle to devices, verify, test and measure it there.

    Args:
        names: of targets, as `--target` takes them.
        seconds: of sampling a process.

    Raises:
        UsageError: no such target, or one that lacks numpy or onnxruntime.
        RefusedError: a device that is not to be trusted, or figures that are none.
        MpoError: it fails there; says with which sentence.
    """
    found = []
    with opened(names) as targets:
        for place, target in enumerate(targets):
            progress("check on devices", place, len(targets))
            found.append(_check(path, target, place + 1, seconds))
        progress("check on devices", len(found), len(found))
    return tuple(found)


def with_checks(path: Path, target: Path, checks: Sequence[Checked]) -> str:
    """Write the bundle again with the devices' figures as tested; its digest."""
    more = {
        name: Part(mpo_edge.canonical(one.evidence), "evidence")
        for one, name in ((one, _member(one)) for one in checks)
    }

    def change(manifest: Bundle) -> Bundle:
        here = {one.target.name for one in checks}
        kept = [one for one in manifest.targets if one.name not in here]
        return manifest.model_copy(update={"targets": (*kept, *(one.target for one in checks))})

    return amend_bundle(path, target, change, more)


def _member(one: Checked) -> str:
    return str(one.target.evidence).partition("#")[0]


def _check(path: Path, target: Target, place: int, seconds: float) -> Checked:
    device = describe(target)
    bench = ["bench", "--seconds", str(seconds), "--processes", str(PROCESSES)]
    answers = _asked(path, target, (["verify"], ["selftest"], bench))
    verified, tested, measured = answers
    with open_bundle(path) as bundle:
        if verified.get("digest") != bundle.digest:
            raise MpoError(f"{target.name} verified another bundle than it was sent.")
    name = f"device-{place}"
    figures = _figures(measured, target.name)
    evidence = {
        "schema": "mpo.edge-check/1",
        "bundle": verified["digest"],
        "device": device.model_dump(mode="json"),
        "selftest": tested,
        "bench": measured,
    }
    found = _target(name, device, target.device, measured, figures)
    return Checked(found, evidence)


def _asked(path: Path, target: Target, commands: Sequence[list[str]]) -> list[dict[str, Any]]:
    """The answers of the bundle's program there."""
    job = Job(
        what=f"checked {path.name}",
        script=Path(edgejob.__file__),
        request={"commands": list(commands)},
        files={"edge/mpo_edge.py": Path(mpo_edge.__file__), "edge/model.mpo": path},
        timeout=TIMEOUT_S,
    )
    rows = target.run(job).get("answers")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise MpoError(f"{target.name} gave no answer of the bundle's program.")
    last = rows[-1]
    if last.get("code") != 0 or len(rows) != len(commands):
        told = _json(last).get("error") or last_words(str(last.get("errors", ""))).lstrip(": ")
        what = commands[len(rows) - 1][0]
        raise MpoError(
            f"{what} ends with {plain(last.get('code'))} on {target.name}: {plain(told)}",
            hint="The bundle is not written: nothing was tested there.",
        )
    return [_json(row) for row in rows]


def _json(row: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found = parse_json(str(row.get("output", "")))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _figures(measured: Mapping[str, Any], name: str) -> dict[str, float]:
    """The figures, when they are such as a device can have."""
    found: dict[str, float] = {}
    for key in ("latency_p50_ms", "latency_p90_ms", "peak_memory_bytes", "load_memory_bytes"):
        value: Any = measured.get(key)
        most = LARGEST_MS if key.endswith("_ms") else LARGEST_BYTES
        low = 0 if key.endswith("_bytes") else math.ulp(0.0)
        if type(value) not in (int, float) or not low <= value <= most:
            raise MpoError(f"{name} gave no {key} that can be: {plain(json.dumps(value))}.")
        found[key] = int(value) if key.endswith("_bytes") else float(value)
    return found


def _target(
    name: str,
    device: Device,
    where: str,
    measured: Mapping[str, Any],
    figures: Mapping[str, Any],
) -> BundleTarget:
    state = measured.get("state")
    backend = plain(state.get("about")) if isinstance(state, dict) else ""
    threads = measured.get("threads")
    return BundleTarget(
        name=name,
        status="tested",
        arch=device.arch,
        os=device.os,
        cpu=device.cpu.model,
        device=where,
        runtimes={"backend": backend[:200]},
        threads=threads if type(threads) is int and threads > 0 else None,
        evidence=f"tested/{name}.json#/bench",
        **figures,
    )
