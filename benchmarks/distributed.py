"""The same run by one process and by two (torchrun, gloo): do the figures agree?

    python benchmarks/distributed.py [SUBJECT] [--budget B] [--options "--epochs 2"] [--out FILE]

Needs accelerate (extra `distributed`). Prints and writes the largest differences in similarity and
harm, both plans, and validation and test quality; the seconds of each stage are told but prove
nothing on a machine that others use.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from mpo.profiles.device import describe
from mpo.profiles.local import LocalTarget

ROOT = Path(__file__).resolve().parents[1]
ALONE = [sys.executable, "-m", "mpo"]
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node"]


def main() -> None:
    """Run twice, compare, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("subject", nargs="?", default="examples/digits/subject.py")
    parser.add_argument("--budget", default="params=60%")
    parser.add_argument("--options", default="--epochs 2 --candidates 1 --effort quick --threads 1")
    parser.add_argument("--processes", type=int, default=2)
    name = ROOT / "benchmarks" / "results" / "distributed.json"
    parser.add_argument("--out", type=Path, default=name)
    asked = parser.parse_args()
    command = ["optimize", asked.subject, "-b", asked.budget, *shlex.split(asked.options)]
    launched = [*LAUNCHER, str(asked.processes), "-m", "mpo"]
    with tempfile.TemporaryDirectory(prefix="mpo-distributed-") as folder:
        runs = [
            run([*start, *command], Path(folder) / str(number))
            for number, start in enumerate((ALONE, launched))
        ]
    record = {
        "command": " ".join(["mpo", *command]),
        "processes": [1, asked.processes],
        "device": describe(LocalTarget()).model_dump(mode="json"),
        **differences(*runs),
        "runs": [told(report) for report in runs],
    }
    print(json.dumps({key: value for key, value in record.items() if key != "device"}, indent=1))
    asked.out.write_text(json.dumps(record, indent=1) + "\n")


def run(command: list[str], folder: Path) -> dict[str, Any]:
    """The report of one run."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--quiet", "-o", str(folder)], cwd=ROOT, env=environment, check=False
    )
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    # a launcher turns any code but 0 into its own
    assert done.returncode == 0 or not report["met"], done.returncode
    return report


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """How far the two runs are apart."""
    first, second = one["analysis"], other["analysis"]
    matrices = [np.array(part["similarity"], dtype=np.float64) for part in (first, second)]
    pairs = list(zip(first["harms"], second["harms"], strict=True))
    losses = [[row["loss"] for row in report["recovery"]["history"]] for report in (one, other)]
    return {
        "cka_max_difference": float(np.nanmax(np.abs(matrices[0] - matrices[1]))),
        "null_difference": abs(first["null_95"] - second["null_95"]),
        "harm_max_relative_difference": max(
            abs(a["kl"] - b["kl"]) / max(abs(a["kl"]), 1e-12) for a, b in pairs
        ),
        "plans_equal": one["removed"] == other["removed"],
        "loss_max_relative_difference": max(
            abs(a - b) / abs(a) for a, b in zip(*losses, strict=False)
        ),
    }


def told(report: dict[str, Any]) -> dict[str, Any]:
    """What is kept of one run."""
    return {
        "removed": report["removed"],
        "params": report["optimized"]["params"],
        "validation": {key: report["recovery"][key] for key in ("before", "after", "original")},
        "history": report["recovery"]["history"],
        "test": report["optimized"]["quality"],
        "seconds": report["seconds"],
    }


if __name__ == "__main__":
    main()
