"""Taking turns: every unit and anchor of a table in the same processes, in random order.

Every figure of a process is divided by the whole model's p10 in that process, so that what a shared
machine does meanwhile cancels; processes must agree within 2 % (MEASURING.md 5.4).
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mpo.errors import UsageError
from mpo.profiles.calibration import Agreement, agree
from mpo.profiles.graphs import empty_model
from mpo.profiles.jobs import Target
from mpo.profiles.modeljobs import Inputs, external_names, measure_turns, model_job
from mpo.records import Metric, SessionOptions
from mpo.records.costs import FULL

Progress = Callable[[int, int], None]
AGREED = 0.02
SMALL = 0.002  # of the whole model's latency: what differs by less agrees, however small it is
LAUNCH = "launch"  # a model that does nothing: what every call costs


@dataclass(frozen=True)
class Unit:
    """A removable block as it is handed to the table.

    Attributes:
        key: equal for blocks of equal structure and shapes, of which one is measured.
        size_bytes: of its weights in an exported file.
        calls: in one inference of the whole model.
        path, inputs: the block exported alone; None when it cannot be, or no time is asked for.
        reason: why it cannot be measured alone.
    """

    name: str
    key: str
    params: int
    macs: int
    size_bytes: int = 0
    calls: int = 1
    path: Path | None = None
    inputs: Inputs | None = None
    reason: str = ""


@dataclass(frozen=True)
class AnchorFile:
    """A model that is exported and measured whole: the full one, the empty one, checks between.

    Attributes:
        name: FULL, EMPTY, MIDDLE, or any other.
        figures: what is known of it: params, macs, size_bytes, and of the full model everything.
        path, inputs: None when no measured figure is asked for.
    """

    name: str
    removed: tuple[str, ...]
    figures: Mapping[Metric, float]
    path: Path | None = None
    inputs: Inputs | None = None


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        seconds: of sampling in one process, at least `rounds` turns.
        fewest, most: processes; more than the fewest only while they disagree.
        solo_seconds: of sampling in each process of an anchor alone.
        group_bytes: of models in one process at most; further units go to another process, which
            runs the full model too.
        timeout: of one process, in seconds.
    """

    seconds: float = 2.0
    rounds: int = 40
    fewest: int = 3
    most: int = 8
    solo_seconds: float = 1.0
    group_bytes: int = 10**9
    timeout: float = 300.0


@dataclass
class Turns:
    """Latency over the whole model's, by what was measured, and in how many processes."""

    found: dict[str, Agreement] = field(default_factory=dict)
    processes: int = 0


def take_turns(
    target: Target,
    units: Sequence[Unit],
    anchors: Sequence[AnchorFile],
    session: SessionOptions,
    effort: Effort,
    seed: int,
    progress: Progress | None,
) -> Turns:
    """Shares of the full model's latency: anchors as they are, units without a call's launch."""
    turns = Turns()
    paused = session.model_copy(update={"spinning": False})  # idle threads would steal the turns
    with tempfile.TemporaryDirectory(prefix="mpo-table-") as name:
        launch = Path(name) / "launch.onnx"
        launch.write_bytes(empty_model())
        always = [(FULL, *file_of(anchors[0])), (LAUNCH, launch, {"x": np.zeros(1, np.float32)})]
        groups = list(_groups(units, anchors, effort))
        for place, group in enumerate(groups):
            folder = Path(name) / str(place)
            folder.mkdir()
            entries = [*always, *group]
            paths, inputs = [path for _, path, _ in entries], [given for _, _, given in entries]
            job = model_job(paths, inputs, folder, paused, effort.timeout)
            rows: list[dict[str, float]] = []
            while len(rows) < effort.fewest or (len(rows) < effort.most and not _settled(rows)):
                order = list(range(len(entries)))
                random.Random(seed + len(rows)).shuffle(order)
                times = measure_turns(
                    target, job, order, effort.seconds, effort.rounds, seed=seed + len(rows)
                )
                rows.append(_shares([key for key, _, _ in entries], times))
                if progress:
                    progress(place * effort.fewest + min(len(rows), effort.fewest),
                             len(groups) * effort.fewest)  # fmt: skip
            turns.found |= _agreed(rows)
            turns.processes = max(turns.processes, len(rows))
    return turns


def _groups(
    units: Sequence[Unit], anchors: Sequence[AnchorFile], effort: Effort
) -> Iterator[list[tuple[str, Path, Inputs]]]:
    """What runs in turn beside the full model, split where one process would hold too much."""
    waiting = [(f"anchor {one.name}", *file_of(one)) for one in anchors[1:]]
    seen: set[str] = set()
    for unit in units:
        if unit.path is not None and unit.inputs is not None and unit.key not in seen:
            seen.add(unit.key)
            waiting.append((unit.key, unit.path, unit.inputs))
    group: list[tuple[str, Path, Inputs]] = []
    held = base = _bytes(file_of(anchors[0])[0])
    for entry in waiting:
        size = _bytes(entry[1])
        if group and held + size > effort.group_bytes:
            yield group
            group, held = [], base
        group.append(entry)
        held += size
    if group:
        yield group


def _bytes(path: Path) -> int:
    """What a model takes on disk, weights beside it included."""
    beside = (path.parent / name for name in external_names(path))
    return path.stat().st_size + sum(file.stat().st_size for file in beside if file.is_file())


def file_of(anchor: AnchorFile) -> tuple[Path, Inputs]:
    """The anchor's file and its inputs.

    Raises:
        UsageError: it has none.
    """
    if anchor.path is None or anchor.inputs is None:
        raise UsageError(f"The {anchor.name} anchor has no ONNX file to measure.")
    return anchor.path, anchor.inputs


def _shares(keys: Sequence[str], times: Sequence[float]) -> dict[str, float]:
    """One process's times over the full model's; the launch is taken off units only."""
    by_key = dict(zip(keys, times, strict=True))
    full, launch = by_key[FULL], by_key[LAUNCH]
    return {
        key: (time if key.startswith("anchor ") else max(time - launch, 0.0)) / full
        for key, time in by_key.items()
        if key not in (FULL, LAUNCH)
    }


def _agreed(rows: Sequence[Mapping[str, float]]) -> dict[str, Agreement]:
    return {key: agree([row[key] for row in rows]) for key in rows[0]}


def _settled(rows: Sequence[Mapping[str, float]]) -> bool:
    """Whether processes agree on everything."""
    return all(agrees(one) for one in _agreed(rows).values())


def agrees(one: Agreement) -> bool:
    """Whether processes agree on a share of the whole model's latency."""
    return one.spread <= AGREED or one.value * one.spread <= SMALL
