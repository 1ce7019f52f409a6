"""The story of `mpo bench`: what is named, what it is fed, what is measured, what that decides."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from mpo import __version__
from mpo.gate import ALPHA_FAIL, ALPHA_PASS
from mpo.pipeline.bench.baselines import require_comparable
from mpo.pipeline.bench.comparing import overall
from mpo.pipeline.bench.figures import Found, metrics_of
from mpo.pipeline.bench.inputs import SEED, batch_of
from mpo.pipeline.bench.judging import doubts, judge
from mpo.pipeline.bench.naming import Asked, Named, asked_together, read_named, require_pairs
from mpo.pipeline.bench.phases import Measuring, Progress, Subject
from mpo.profiles.cautions import cautions
from mpo.profiles.device import fingerprint, observe
from mpo.profiles.jobs import Target
from mpo.profiles.targets import opened
from mpo.records import (
    Bench,
    BenchPlace,
    BenchProtocol,
    BenchRuns,
    BenchVerdict,
    DeviceWarning,
    Quality,
    SessionOptions,
    Which,
)
from mpo.timing import Stages

PROTOCOL = "paired-p10/1"
FAILED, UNDECIDED = 4, 5
# Memory has its own processes: with the arena, or the default malloc, the peak of one and the same
# model was seen between 85 and 146 MB.
LEAN = {"arena": False, "mmap_threshold_bytes": 131072}


def bench(asked: Asked, progress: Progress) -> Bench:
    """Measure a model, and judge it.

    Raises:
        UsageError: nothing there, rules that need what is not given, inputs that do not fit.
        BaselineError: a baseline that cannot be compared.
        MpoError: a model that is broken, a process that failed.
    """
    with tempfile.TemporaryDirectory(prefix="mpo-bench-") as scratch:
        named = read_named(asked, Path(scratch))
        require_pairs(asked, named)
        return _benched(asked, named, progress)


def _benched(asked: Asked, named: Named, progress: Progress) -> Bench:
    stages = Stages()
    with opened(asked.targets) as targets:
        seen = [_place(asked, named, target) for target in targets]
        places = [place for place, _ in seen]
        if named.stored is not None:
            require_comparable(named.stored, places, named.candidate, PROTOCOL, asked.rules)
        runs = tuple(
            _measured(asked, named, target, place, stages, progress)
            for target, place in zip(targets, places, strict=True)
        )
    with stages.timed("quality"):
        quality = _quality(asked, named, places[0], progress)
    found = Found(
        candidate=named.candidate,
        baseline=named.other,
        runs=runs,
        stored={one.target: one for one in named.stored.runs} if named.stored else {},
        quality=quality,
        batch=places[0].batch,
        looks=asked.effort.looks,
    )
    warnings = tuple(warning for _, warned in seen for warning in warned)
    return _record(asked, named, places, found, warnings, stages)


def _record(
    asked: Asked,
    named: Named,
    places: Sequence[BenchPlace],
    found: Found,
    warnings: tuple[DeviceWarning, ...],
    stages: Stages,
) -> Bench:
    comparisons = judge(found, asked.rules)
    verdict = overall(comparisons)
    kind: Literal["none", "model", "stored"] = (
        "stored" if named.stored else "model" if named.other else "none"
    )
    return Bench(
        run_id=uuid.uuid4().hex,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        tool={"name": "mpo", "version": __version__},
        places=tuple(places),
        subjects=tuple(one for one in (named.candidate, named.other) if one is not None),
        baseline=kind,
        protocol=BenchProtocol(
            id=PROTOCOL,
            looks=asked.effort.looks,
            alpha_fail=ALPHA_FAIL,
            alpha_pass=ALPHA_PASS,
            seconds=asked.effort.seconds,
            inputs=named.source,
            seed=SEED,
        ),
        runs=found.runs,
        quality=dict(found.quality),
        metrics=metrics_of(found),
        comparisons=comparisons,
        warnings=(*warnings, *doubts(found, comparisons)),
        seconds=stages.seconds,
        strict=asked.strict,
        verdict=verdict,
        exit_code=exit_code(verdict, strict=asked.strict),
    )


def exit_code(verdict: BenchVerdict, *, strict: bool) -> int:
    """0, 4 for a confirmed regression, 5 for an open question that --strict does not let pass."""
    if verdict == "fail":
        return FAILED
    return UNDECIDED if verdict == "inconclusive" and strict else 0


def _place(
    asked: Asked, named: Named, target: Target
) -> tuple[BenchPlace, tuple[DeviceWarning, ...]]:
    device, conditions = observe(target)
    threads = asked.threads or device.cpu.physical_cores or 1
    session = SessionOptions(runner=named.runner, device=target.device, threads=threads)
    place = BenchPlace(
        target=target.name,
        fingerprint=fingerprint(device),
        device=device,
        session=session,
        memory_session=session.model_copy(update=LEAN),
        batch=batch_of(named.feeds),
    )
    return place, cautions(device, conditions)


def _measured(
    asked: Asked,
    named: Named,
    target: Target,
    place: BenchPlace,
    stages: Stages,
    progress: Progress,
) -> BenchRuns:
    # Against a stored baseline no further process narrows the bounds: only other rules go on.
    rules = [rule for rule in asked.rules if named.stored is None or not rule.needs_baseline]
    other = Subject(named.other_path, named.other_feeds) if named.other_path else None
    return Measuring(
        target=target,
        memory_bytes=place.device.memory_bytes,
        session=place.session,
        memory_session=place.memory_session,
        candidate=Subject(named.path, named.feeds),
        baseline=other,
        rules=rules,
        shared=asked_together(asked, named),
        effort=asked.effort,
        progress=progress,
        stages=stages,
    ).run()


def _quality(
    asked: Asked, named: Named, place: BenchPlace, progress: Progress
) -> dict[Which, Quality]:
    if asked.data is None:
        return {}
    from mpo.pipeline.bench.accuracy import judge_files

    progress("quality", 0, 1)
    paths = [named.path, *([named.other_path] if named.other_path else [])]
    found = judge_files(asked.data, paths, place.session.threads)
    quality: dict[Which, Quality] = {"candidate": found[0]}
    if len(found) > 1:
        quality["baseline"] = found[1]
    elif named.stored and "candidate" in named.stored.quality:
        quality["baseline"] = named.stored.quality["candidate"]
    progress("quality", 1, 1)
    return quality
