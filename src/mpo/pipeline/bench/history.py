"""Figures of many benches over time, and where they changed for good. A report, never a gate.

Change points are those of the piecewise constant line that lies nearest to the logarithms of the
figures in the sum of absolute distances (an L1-Potts functional; Storath, Weinmann, Unser 2014,
"Jump-sparse and sparse recovery using Potts functionals", doi:10.1109/TSP.2014.2329263), found
exactly by dynamic programming. How many pieces: the number with the least
ln(mean distance) + 4 ln(n) / n per piece. The median in each piece is not moved by single outliers.
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from mpo.errors import UsageError
from mpo.files import writable
from mpo.records import Bench, HistoryEntry

LATEST = 400  # entries of a series that are looked at
MOST_PIECES = 12
FEWEST = 3  # entries of a piece: fewer are outliers, not a level
FINEST = 0.002  # mean distance below which a line fits perfectly: no figure is told finer
PENALTY = 4.0


@dataclass(frozen=True)
class Change:
    """A step in a series.

    Attributes:
        place: index of the first entry after it.
        before, after: medians of the levels around it.
    """

    place: int
    before: float
    after: float

    @property
    def ratio(self) -> float:
        """after / before; infinite when there was none before."""
        return self.after / self.before if self.before else math.inf


@dataclass(frozen=True)
class Series:
    """One metric of one model on one device over time, oldest first."""

    model: str
    metric: str
    fingerprint: str
    unit: str
    entries: tuple[HistoryEntry, ...]
    values: tuple[float, ...]
    changes: tuple[Change, ...]


def entry_of(bench: Bench, note: str = "") -> HistoryEntry:
    """The line that a bench adds.

    Args:
        note: such as a commit.
    """
    values, units = {}, {}
    for metric in bench.metrics:
        if metric.subject == "candidate" and metric.value is not None:
            key = f"{metric.name} on {metric.target}" if metric.target else metric.name
            values[key], units[key] = metric.value, metric.unit
    subject = bench.subjects[0]
    return HistoryEntry(
        run_id=bench.run_id,
        created=bench.created,
        model=PurePath(subject.path).name,
        sha256=subject.sha256,
        note=note,
        fingerprints={place.target: place.fingerprint for place in bench.places},
        values=values,
        units=units,
    )


def append(path: Path, entry: HistoryEntry) -> None:
    """Add a line, whole, also when several benches end at once.

    Raises:
        UsageError: the file cannot be written.
    """
    with writable(path), path.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(entry.model_dump_json() + "\n")


def read(path: Path) -> tuple[HistoryEntry, ...]:
    """All lines of a history file.

    Raises:
        UsageError: it cannot be read, or a line is no entry.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"Cannot read {path}: {error}.", hint="Name what `mpo bench --append` wrote."
        ) from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(HistoryEntry.model_validate_json(line))
        except ValidationError as error:
            raise UsageError(
                f"{path}, line {number}, is no mpo.history/1 entry.",
                hint="Take the line out, or name what `mpo bench --append` wrote.",
            ) from error
    return tuple(found)


def series_of(entries: Sequence[HistoryEntry], wanted: Sequence[str] = ()) -> Iterator[Series]:
    """The entries as series with their change points.

    Args:
        wanted: metrics, such as latency.p50; all when empty.

    Raises:
        UsageError: a metric that no entry has.
    """
    groups: dict[tuple[str, str, str], list[HistoryEntry]] = {}
    for entry in entries:
        for key in entry.values:
            metric, _, target = key.partition(" on ")
            if not wanted or metric in wanted:
                # Exact figures are the same on all devices.
                device = entry.fingerprints.get(target, "") if target else ""
                groups.setdefault((entry.model, key, device), []).append(entry)
    known = {key.partition(" on ")[0] for entry in entries for key in entry.values}
    for metric in wanted:
        if metric not in known:
            raise UsageError(
                f"No entry has the metric {metric!r}.",
                hint=f"It may be {', '.join(sorted(known))}." if known else "",
            )
    for (model, key, device), own in groups.items():
        latest = tuple(own[-LATEST:])
        values = tuple(entry.values[key] for entry in latest)
        unit = latest[-1].units.get(key, "")
        yield Series(model, key, device, unit, latest, values, change_points(values))


def change_points(values: Sequence[float]) -> tuple[Change, ...]:
    """Where the level of a series changed, oldest first; none below six values.

    Zero and less have no logarithm: such a series is taken as it is, relative to its largest
    magnitude.
    """
    count = len(values)
    if count < 2 * FEWEST:
        return ()
    raw = np.asarray(values, dtype=np.float64)
    largest = float(np.abs(raw).max())
    line = np.log(raw) if (raw > 0).all() else raw / (largest or 1.0)
    starts = _best_starts(_distances(line.tolist()), count)
    edges = [*starts, count]
    levels = [float(np.median(raw[a:b])) for a, b in itertools.pairwise(edges)]
    return tuple(
        Change(place, before, after)
        for place, before, after in zip(starts[1:], levels, levels[1:], strict=False)
        if before != after
    )


def _distances(line: Sequence[float]) -> NDArray[np.float64]:
    """[i, j]: sum of distances of line[i:j] from their median, for every i < j."""
    count = len(line)
    found = np.full((count, count + 1), math.inf)
    for start in range(count):
        low: list[float] = []  # the smaller half, negated: its largest is on top
        high: list[float] = []
        total = 0.0  # of the larger half less the smaller one
        for end in range(start, count):
            value = line[end]
            moved = -heapq.heappushpop(low, -value)
            heapq.heappush(high, moved)
            # `moved` is in the larger half now; what the smaller half took in its place goes off.
            total += moved - (value - moved)
            if len(high) > len(low):
                back = heapq.heappop(high)
                heapq.heappush(low, -back)
                total -= 2 * back
            middle = -low[0] if len(low) > len(high) else 0.0
            found[start, end + 1] = max(0.0, total + middle)
    return found


def _best_starts(distances: NDArray[np.float64], count: int) -> list[int]:
    """Starts of the pieces of the line with the best trade of distance against pieces."""
    reach = np.arange(count)[:, None] + FEWEST > np.arange(count + 1)[None, :]
    costs = np.where(reach, math.inf, distances)
    best = np.full(count + 1, math.inf)
    best[0] = 0.0
    backs, scores = [], []
    for pieces in range(1, min(MOST_PIECES, count // FEWEST) + 1):
        sums = best[:count, None] + costs
        backs.append(sums.argmin(axis=0))
        best = sums.min(axis=0)
        fit = math.log(max(float(best[count]) / count, FINEST))
        scores.append(fit + PENALTY * math.log(count) / count * (pieces - 1))
    starts, end = [], count
    for level in range(int(np.argmin(scores)), -1, -1):
        end = int(backs[level][end])
        starts.append(end)
    return starts[::-1]


def as_text(found: Sequence[Series]) -> str:
    """Series and their changes as JSON."""
    return json.dumps(
        [
            {
                "model": series.model,
                "metric": series.metric,
                "unit": series.unit,
                "fingerprint": series.fingerprint,
                "created": [entry.created for entry in series.entries],
                "notes": [entry.note for entry in series.entries],
                "values": list(series.values),
                "changes": [
                    {"place": one.place, "before": one.before, "after": one.after}
                    for one in series.changes
                ],
            }
            for series in found
        ],
        indent=1,
    )
