"""How long does the planner take for 200 blocks and 4 budgets, and is its answer feasible?

Every instance has four groups of blocks of one size each, runs of alike neighbours as clusters with
a penalty for every pair in a run (2 s sqrt(harm harm), as `near_copies` makes them), harms over
four decades, and four budgets at 45 to 80 % of the original. One core; single solves.

    python benchmarks/planner.py [--blocks 200] [--seeds 24] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import time
from itertools import combinations
from pathlib import Path
from statistics import median

import scipy

from mpo.optimizer.planning.planner import (
    Infeasible,
    Item,
    Limit,
    holds,
    keeps_clusters,
    predict,
    solve,
)

ROOT = Path(__file__).resolve().parents[1]
GROUPS = 4
SHARES = (0.45, 0.5, 0.6, 0.75, 0.8)
METRICS = ("size_bytes", "memory_bytes", "latency_p90_ms", "macs")
Pairs = dict[tuple[str, str], float]


def blocks(rng: random.Random, count: int) -> list[Item]:
    """Blocks of four sizes, each with its own measured memory and latency."""
    sizes = [rng.randrange(10**5, 3 * 10**6) for _ in range(GROUPS)]
    items = []
    for place in range(count):
        params = sizes[place * GROUPS // count]
        saved = {
            "size_bytes": float(4 * params + rng.randrange(2000)),
            "memory_bytes": 4 * params * rng.uniform(0.9, 1.1),
            "latency_p90_ms": rng.uniform(0.05, 0.4),
            "macs": params * 196.0,
        }
        items.append(Item(f"b{place}", 10 ** rng.uniform(-4, 0.3), saved))
    return items


def alike(rng: random.Random, items: list[Item], longest: int) -> tuple[list[list[str]], Pairs]:
    """Runs of 1 to `longest` neighbours, and their pairs' penalties."""
    clusters, pairs, start = [], dict[tuple[str, str], float](), 0
    while start < len(items):
        run = items[start : start + rng.randint(1, longest)]
        start += len(run)
        if len(run) > 1:
            clusters.append([item.name for item in run])
        for (i, one), (j, other) in combinations(enumerate(run), 2):
            likeness = rng.uniform(0.6, 1.0) ** (j - i)
            pairs[one.name, other.name] = 2 * likeness * math.sqrt(one.harm * other.harm)
    return clusters, pairs


def attempt(seed: int, count: int) -> dict[str, object]:
    """One instance: its size, the time, and whether the answer holds."""
    rng = random.Random(seed)
    items = blocks(rng, count)
    longest = rng.choice((4, 8, 14))
    clusters, pairs = alike(rng, items, longest)
    limits = []
    for metric in METRICS:
        full = 1.15 * math.fsum(item.savings[metric] for item in items)
        limits.append(Limit(metric, full, full * rng.choice(SHARES)))
    wall, cpu = time.perf_counter(), time.process_time()
    found = solve(items, limits, pairs, clusters=clusters)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    row: dict[str, object] = {"seed": seed, "longest_run": longest, "pairs": len(pairs)}
    row |= {"clusters": len(clusters), "seconds": wall, "cpu_seconds": cpu}
    if isinstance(found, Infeasible):
        return {**row, "infeasible": found.message}
    kept = keeps_clusters(clusters, found.removed)
    right = kept and holds(predict(items, limits, found.removed), limits)
    return {**row, "removed": len(found.removed), "harm": found.harm, "holds": right}


def main() -> None:
    """Run all, print min, median and max, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/planner.json")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rows = [attempt(seed, options.blocks) for seed in range(options.seeds)]
    summary = {}
    for key in ("seconds", "cpu_seconds"):
        times = [float(str(row[key])) for row in rows]
        summary[key] = {"min": min(times), "median": median(times), "max": max(times)}
        print(key, {name: round(value, 2) for name, value in summary[key].items()})
    print("answers that hold:", sum(bool(row.get("holds")) for row in rows), "of", len(rows))
    asked = f"--blocks {options.blocks} --seeds {options.seeds}"
    record = {
        "command": f"python benchmarks/planner.py {asked}",
        "machine": {"cpu": platform.processor() or platform.machine(), "cores_used": 1},
        "scipy": scipy.__version__,
        "load": os.getloadavg(),
        "summary": summary,
        "runs": rows,
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
