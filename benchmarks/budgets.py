"""Every kind of budget, alone and all together, and at 75, 50 and 35 % of the original, on one
example: is it met by measured figures, and is "infeasible" true?

Runs share the stages that measure the original, its analysis and the cost table, as a resumed
run would. Recovery is left out and the quality floor lifted, because this is about budgets only. A
budget that a run calls infeasible is held against the measured model with every removable block
gone, which no plan can undercut.

    python benchmarks/budgets.py [--subject FILE] [--levels KEYS] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import mpo
from mpo.errors import InfeasibleError
from mpo.records import CostTable, Report

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this file runs as a script
from benchmarks.shared import ROOT, lend

ALONE = ("params=60%", "size=60%", "memory=75%", "latency=75%")
LEVELS = tuple(
    (f"{key}={share}%",) for key in ("size", "memory", "latency") for share in (75, 50, 35)
)
SHARED = ("session", "original", "analysis", "costs")
METRICS = {"size": "size_bytes", "memory": "memory_bytes", "latency": "latency_p90_ms"}


def attempt(subject: Path, budgets: tuple[str, ...], folder: Path) -> dict[str, object]:
    """One run; what each budget asked for and what was measured."""
    options: dict[str, Any] = {"epochs": 0, "candidates": 1, "max_drop": "100%", "threads": 1}
    try:
        report = mpo.optimize(subject, budgets, output=folder, **options)
    except InfeasibleError as error:
        return {"budgets": budgets, "status": "infeasible", "message": error.message} | floor(
            folder, budgets
        )
    return told(report, budgets)


def floor(folder: Path, budgets: tuple[str, ...]) -> dict[str, object]:
    """The measured model without any removable block, beside the limits."""
    table = CostTable.model_validate_json((folder / "stages/costs/costs-0.json").read_text())
    anchors = {anchor.name: anchor.figures for anchor in table.anchors}
    rows = []
    for text in budgets:
        key, share = text.removesuffix("%").split("=")
        full, least = (anchors[name][METRICS[key]] for name in ("full", "empty"))  # type: ignore[index]
        limit = full * float(share) / 100
        rows.append({"text": text, "limit": limit, "floor": least, "truly": least > limit})
    return {"floors": rows}


def told(report: Report, budgets: tuple[str, ...]) -> dict[str, object]:
    """The figures of one run."""
    return {
        "budgets": budgets,
        "status": report.status,
        "removed": report.removed,
        "results": [result.model_dump(mode="json") for result in report.budgets],
        "mac_ratio": report.ratio.macs,
        "latency_ratio": report.ratio.latency.model_dump(mode="json"),
        "notes": report.plan.notes,
        "seconds": report.seconds,
        "environment": report.environment.model_dump(mode="json"),
    }


def main() -> None:
    """Run all, print a line each, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subject", type=Path, default=ROOT / "examples/digits/subject.py")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/budgets.json")
    parser.add_argument("--levels", help="only the three levels of these keys: size,latency")
    options = parser.parse_args()
    asked = (*((one,) for one in ALONE), ALONE, *LEVELS)
    if options.levels:
        keys = options.levels.split(",")
        asked = tuple(one for one in LEVELS if one[0].split("=")[0] in keys)
    rows, donors = [], dict[bool, Path]()
    with tempfile.TemporaryDirectory() as scratch:
        for number, budgets in enumerate(asked):
            folder = Path(scratch) / str(number)
            kind = any(text.startswith("memory") for text in budgets)
            lend(donors.get(kind), folder, SHARED)
            row = attempt(options.subject, budgets, folder)
            donors.setdefault(kind, folder)
            rows.append(row)
            subject = options.subject.resolve().relative_to(ROOT)
            command = f"python benchmarks/budgets.py --subject {subject}"
            command += f" --levels {options.levels}" if options.levels else ""
            options.out.write_text(json.dumps({"command": command, "runs": rows}, indent=1) + "\n")
            print(
                json.dumps({key: row[key] for key in row if key in ("budgets", "status")}),
                flush=True,
            )
            for result in row.get("results", []):  # type: ignore[attr-defined]
                sign = "<=" if result["met"] else ">"
                print(f"  {result['text']}: {result['measured']:g} {sign} {result['limit']:g}")
            for one in row.get("floors", []):  # type: ignore[attr-defined]
                print(f"  {one['text']}: floor {one['floor']:g}, limit {one['limit']:g}")


if __name__ == "__main__":
    main()
