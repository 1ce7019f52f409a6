"""Every kind of budget, alone and all together, on one example: is it met by measured figures?

Recovery is left out and the quality floor lifted, because this is about budgets only.

    python benchmarks/budgets.py [--subject FILE] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import mpo
from mpo.errors import MpoError
from mpo.records import Report

ROOT = Path(__file__).resolve().parents[1]
ALONE = ("params=60%", "size=60%", "memory=75%", "latency=75%")


def attempt(subject: Path, budgets: tuple[str, ...], folder: Path) -> dict[str, object]:
    """One run; what each budget asked for and what was measured."""
    options = {"epochs": 0, "candidates": 1, "max_drop": "100%"}
    try:
        report = mpo.optimize(subject, budgets, output=folder, **options)
    except MpoError as error:
        return {"budgets": budgets, "exit": error.exit_code, "message": error.message}
    return told(report, budgets)


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
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, budgets in enumerate([*((one,) for one in ALONE), ALONE]):
            row = attempt(options.subject, budgets, Path(scratch) / str(number))
            rows.append(row)
            print(json.dumps({key: row[key] for key in row if key in ("budgets", "status")}))
            for result in row.get("results", []):  # type: ignore[attr-defined]
                print(f"  {result['text']}: {result['measured']:g} <= {result['limit']:g}")
    command = f"python benchmarks/budgets.py --subject {options.subject.relative_to(ROOT)}"
    options.out.write_text(json.dumps({"command": command, "runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
