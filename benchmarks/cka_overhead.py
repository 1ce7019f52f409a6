"""What measuring CKA costs beside the forward passes that it rides on.

Plain passes and measured passes of the fashion ResNet-26 alternate in one process on one thread, on
the same test images; each pair gives one ratio measured / plain. Reported: the Hodges-Lehmann
estimate of the ratio with a 95 % bootstrap interval over pairs.

    python benchmarks/cka_overhead.py [--rounds 15] [--examples 1024] [--batch 128] [--out FILE]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from mpo.optimizer.analysis.cka import measure_similarity
from mpo.optimizer.data.batches import Batch, forward

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = [f"layer{stage}.{place}" for stage in (1, 2, 3) for place in range(4)]


def load_subject() -> ModuleType:
    """The fashion example's subject file as a module."""
    path = ROOT / "examples" / "fashion" / "subject.py"
    spec = importlib.util.spec_from_file_location("fashion_subject", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def hodges_lehmann(ratios: Sequence[float]) -> float:
    """The median of all pairwise geometric means."""
    logs = np.log(np.asarray(ratios))
    rows, columns = np.triu_indices(len(logs))
    return float(np.exp(np.median((logs[rows] + logs[columns]) / 2)))


def interval(ratios: Sequence[float], draws: int = 2000) -> tuple[float, float]:
    """A 95 % percentile bootstrap interval of the Hodges-Lehmann ratio."""
    rng = np.random.default_rng(0)
    values = np.asarray(ratios)
    estimates = [hodges_lehmann(rng.choice(values, len(values))) for _ in range(draws)]
    low, high = np.quantile(estimates, [0.025, 0.975])
    return float(low), float(high)


class Spent(NamedTuple):
    """Seconds of one call: on the wall, and on the processor (which neighbours disturb less)."""

    wall: float
    cpu: float


def seconds(job: Callable[[], object]) -> Spent:
    """What one call takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    job()
    return Spent(time.perf_counter() - wall, time.process_time() - cpu)


def over(times: dict[str, list[Spent]], one: str, other: str) -> dict[str, Any]:
    """The ratio of two jobs' times, paired by round, by either clock."""
    pairs = list(zip(times[one], times[other], strict=True))
    return {
        "wall": summary([a.wall / b.wall for a, b in pairs]),
        "cpu": summary([a.cpu / b.cpu for a, b in pairs]),
    }


def machine() -> dict[str, Any]:
    """Where this ran."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if "model name" in line]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def summary(ratios: Sequence[float]) -> dict[str, Any]:
    """Estimate, interval and the raw ratios."""
    return {
        "estimate": hodges_lehmann(ratios),
        "ci95": interval(ratios),
        "median": statistics.median(ratios),
        "pairs": len(ratios),
        "ratios": list(ratios),
    }


def batches_of(images: torch.Tensor, size: int) -> list[Batch]:
    """Images as batches."""
    return [Batch((part,), {}) for part in images.split(size)]


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--examples", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/cka_overhead.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    subject = load_subject()
    model = subject.model()
    batches = batches_of(subject.tensors("t10k")[0][: options.examples], options.batch)

    def plain() -> None:
        with torch.no_grad():
            for batch in batches:
                forward(model, batch)

    def measured() -> None:
        measure_similarity(model, BLOCKS, batches)

    plain(), measured()  # warm-up
    jobs = {"plain": plain, "measured": measured}
    times: dict[str, list[Spent]] = {name: [] for name in jobs}
    for turn in range(options.rounds):
        for name in sorted(jobs, reverse=bool(turn % 2)):
            times[name].append(seconds(jobs[name]))
    ratios = over(times, "measured", "plain")
    result = {
        "benchmark": "cka_overhead",
        "model": "examples/fashion ResNet-26, 12 blocks",
        "examples": options.examples,
        "batch": options.batch,
        "measured_over_plain": ratios,
        "seconds": times,
        "machine": machine(),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for clock, ratio in ratios.items():
        print(f"measured / plain = {ratio['estimate']:.3f}, 95 % {ratio['ci95']} ({clock})")


if __name__ == "__main__":
    main()
