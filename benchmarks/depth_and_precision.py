"""Depth, int8, and both at the same file size: what is left of an example's accuracy?

The example's own model and data; by default 2,000 training, 500 validation and 2,000 test examples
and one epoch of recovery, one seed, which is far too little for a record and the same for all. The
size budget holds for the file as shipped, and accuracy is that of the file, by ONNX Runtime. A
precision alone gets the same budget: it is met without any removal, or not at all.

    python benchmarks/depth_and_precision.py [--example fashion] [--sizes 30,20] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

import mpo
from mpo.errors import InfeasibleError
from mpo.optimizer.data.subject import Subject
from mpo.records import Report
from mpo.timing import Stopwatch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this file runs as a script
from benchmarks.shared import ROOT, lend, subject_of

SHARED = ("original", "analysis", "precisions", "costs", "costs-int8")
OPTIONS: dict[str, Any] = {
    "threads": 1,
    "effort": "quick",
    "candidates": 1,
    "calibration": 128,
    "max_drop": "100%",
}


def leading(batches: Iterable[Any], count: int) -> list[Any]:
    """The first batches that hold about `count` examples, the same in every run."""
    found: list[Any] = []
    for inputs, targets in batches:
        if count <= 0:
            break
        found.append((inputs, targets))
        count -= len(targets)
    return found


def small(name: str, sizes: tuple[int, int, int]) -> Subject:
    """The example with the leading part of its splits."""
    module, data = subject_of(name), subject_of(name).data()
    parts = (data.train, data.validation, data.test)
    splits = [leading(part, size) for part, size in zip(parts, sizes, strict=True)]
    return Subject(
        model=module.model,
        data=mpo.Data(train=splits[0], validation=splits[1], test=splits[2]),
        loss=getattr(module, "loss", None),
        metric=getattr(module, "metric", None),
        name=name,
        outputs=getattr(module, "outputs", None),
    )


def attempt(subject: Subject, size: int, precision: str, folder: Path, epochs: int) -> Any:
    """One run, or why there is none."""
    watch = Stopwatch()
    row = {"size": f"{size}%", "precision": precision}
    try:
        report = mpo.optimize(
            subject, f"size={size}%", output=folder, precision=precision, epochs=epochs, **OPTIONS
        )
    except InfeasibleError as error:
        return row | {"status": "infeasible", "message": error.message, "seconds": watch.seconds}
    return row | told(report) | {"seconds": watch.seconds}


def told(report: Report) -> dict[str, Any]:
    """The figures of one run."""
    return {
        "status": report.status,
        "chosen": report.plan.precision,
        "removed": report.removed,
        "blocks": report.blocks,
        "bytes": report.optimized.size_bytes,
        "size_ratio": report.ratio.size,
        "latency_ratio": report.ratio.latency.model_dump(mode="json"),
        "quality": report.optimized.quality.model_dump(mode="json"),
        "harm": report.plan.harm,
    }


def main() -> None:
    """Run every size in every precision, print a line each, write the JSON after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--example", default="fashion")
    parser.add_argument("--sizes", default="30,20", help="per cent of the original's file")
    parser.add_argument("--precisions", default="int8,fp32")
    parser.add_argument("--examples", default="2000,500,2000", help="train, validation, test")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks/results/depth_and_precision.json"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, validation, test = (int(count) for count in options.examples.split(","))
    subject = small(options.example, (train, validation, test))
    facts: dict[str, Any] = {
        "example": options.example,
        "examples": {"train": train, "validation": validation, "test": test},
        "epochs": options.epochs,
        "rows": [],
    }
    donors: dict[str, Path] = {}
    with tempfile.TemporaryDirectory() as name:
        for size in (int(text) for text in options.sizes.split(",")):
            for precision in options.precisions.split(","):
                folder = Path(name) / f"{precision}-{size}"
                lend(donors.get(precision), folder, SHARED)
                row = attempt(subject, size, precision, folder, options.epochs)
                donors[precision] = folder
                facts["rows"].append(row)
                options.out.write_text(json.dumps(facts, indent=1) + "\n")
                print({key: row[key] for key in row if key != "message"}, flush=True)


if __name__ == "__main__":
    main()
