"""The published recipe (`--method mpruner-paper`) beside mpo's own, at equal parameters and epochs.

On each example the published method runs first, with the threshold lowered along a grid until it
removes something that it accepts; thresholds at which the original has no cluster to thin are
passed over without a run. Then mpo's own method gets what the published one reached as its budget,
one candidate, and as many epochs as one training of the published loop, or as all of them. Both
train and accept on the same leading parts of the splits; accuracy is that of the leading test
examples, latency ratios come from processes that run both models in turn.

    python benchmarks/published.py [--examples digits,fashion,sentiment] [--epochs N] [--train N]
                                   [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import mpo
from mpo.optimizer.analysis.clusters import anchor_runs, paper_removals
from mpo.optimizer.data.batches import Batch, limit
from mpo.optimizer.data.splits import Split
from mpo.records import Report
from mpo.timing import Stopwatch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this file runs as a script
from benchmarks.shared import ROOT, subject_of

GRID = (0.99, 0.98, 0.97, 0.95, 0.92, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)
RUNS = 2  # thresholds of the grid that are tried at most
SIZES = {  # leading examples: train, validation, test
    "digits": (800, 300, 497),
    "fashion": (2000, 1000, 2000),
    "sentiment": (400, 500, 1000),
}
MAX_DROP = "2%"


class Leading:
    """The leading examples of a split."""

    def __init__(self, source: Any, examples: int) -> None:
        self.batches = limit(Split(source, "leading"), examples)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        yield from self.batches


def subject(name: str, train: int) -> mpo.Subject:
    """An example with leading parts of its splits."""
    module = subject_of(name)
    data = module.data()
    parts = (data.train, data.validation, data.test)
    cut = [Leading(part, size) for part, size in zip(parts, (train, *SIZES[name][1:]), strict=True)]
    own = {key: getattr(module, key) for key in ("loss", "metric") if hasattr(module, key)}
    return mpo.Subject(module.model(), mpo.Data(*cut), name=name, **own)


def worth(name: str, train: int) -> Iterable[float]:
    """The thresholds of the grid at which the original has something to thin, the highest
    first."""
    found = mpo.analyze(subject(name, train), calibration=256).similarity
    matrix = np.array([[math.nan if one is None else one for one in row] for row in found])
    return [one for one in GRID if paper_removals(anchor_runs(matrix, one), 1)]


def told(report: Report, seconds: float) -> dict[str, Any]:
    """What the table quotes of a run."""
    old, new = report.original, report.optimized
    return {
        "status": report.status,
        "removed": report.removed,
        "params": [old.params, new.params],
        "macs": [old.macs, new.macs],
        "latency_ratio": report.ratio.latency.model_dump(),
        "test": [old.quality.model_dump(), new.quality.model_dump()],
        "validation": report.acceptance.model_dump() if report.acceptance else None,
        "epochs": report.recovery.epochs if report.recovery else 0,
        "notes": report.plan.notes,
        "seconds": round(seconds, 1),
    }


def one(name: str, train: int, epochs: int, folder: Path, known: dict[str, Any]) -> dict[str, Any]:
    """Both methods on one example; rows that are known of the same sizes are not run again."""
    sizes = [train, *SIZES[name][1:]]
    found: dict[str, Any] = {"sizes": sizes, "epochs": epochs}
    if [known.get("sizes"), known.get("epochs")] == [sizes, epochs]:
        found = known
    common: dict[str, Any] = {
        "max_drop": MAX_DROP, "effort": "quick", "threads": 1, "calibration": 256, "candidates": 1,
    }  # fmt: skip
    if "published" not in found:
        found["published"] = published(name, train, folder, {**common, "epochs": epochs})
    reached = found["published"][-1]
    for key, (budget, times) in asked_of(reached).items():
        if key not in found:
            watch, options = Stopwatch(), {**common, "epochs": epochs * times}
            out = folder / f"{name}-{key}"
            report = mpo.optimize(subject(name, train), budget, output=out, **options)
            found[key] = {"budget": budget, **told(report, watch.seconds)}
    return found


def published(name: str, train: int, folder: Path, common: dict[str, Any]) -> list[dict[str, Any]]:
    """Runs of the published method, the last one the first that removed something."""
    tried: list[dict[str, Any]] = []
    for threshold in list(worth(name, train))[:RUNS]:
        watch, out = Stopwatch(), folder / f"{name}-{threshold}"
        paper = {**common, "method": "mpruner-paper", "threshold": threshold}
        report = mpo.optimize(subject(name, train), output=out, **paper)
        tried.append({"threshold": threshold, **told(report, watch.seconds)})
        if report.removed:
            break
    return tried


def asked_of(reached: dict[str, Any]) -> dict[str, tuple[tuple[str, ...], int]]:
    """What the published method reached, as budgets of ours, and how often its epochs: parameters
    alone; with the work; and with as many epochs as all its trainings had together."""
    if not reached["removed"]:
        return {}
    params, macs = (f"{key}={reached[key][1]}" for key in ("params", "macs"))
    trainings = sum("blocks out" in note for note in reached["notes"])
    return {
        "ours": ((params,), 1),
        "ours with its macs": ((params, macs), 1),
        "ours with its macs and epochs": ((params, macs), trainings),
    }


def main() -> None:
    """Run, print, write; what is in the file already stays."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", default=",".join(SIZES))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--train", type=int, help="training examples, in the place of SIZES")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/published.json")
    given = parser.parse_args()
    results = json.loads(given.out.read_text())["results"] if given.out.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        for name in given.examples.split(","):
            load = os.getloadavg()[0]
            train = given.train or SIZES[name][0]
            known = results.get(name, {})
            results[name] = one(name, train, given.epochs, Path(folder), known) | {"load": load}
            facts = {"grid": GRID, "max_drop": MAX_DROP}
            given.out.write_text(json.dumps({**facts, "results": results}, indent=1) + "\n")
            print(json.dumps(results[name], indent=1))


if __name__ == "__main__":
    main()
