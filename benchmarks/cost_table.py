"""Is the cost table right? Predicted against measured latency, memory and size of random plans.

Three models; of each a table is made as `mpo optimize` makes it, ten random sets of blocks are
removed, and what is left is exported and measured: latency as a ratio to the whole model, taken in
turn in the same processes, memory alone. A plan counts as falsely called feasible when it measures
over its prediction raised by the table's margin, which the planner keeps from every limit.

    python benchmarks/cost_table.py [--quick] [--only NAME] [--plans 10] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mpo.exporters.onnx import export_onnx
from mpo.exporters.runtime import OnnxModel
from mpo.optimizer.blocks.finding import find_blocks
from mpo.optimizer.blocks.isolate import isolate
from mpo.optimizer.blocks.surgery import remove_blocks
from mpo.optimizer.data.batches import Batch
from mpo.optimizer.files.loading import load_subject
from mpo.pipeline.plan.parts import Source, take_apart
from mpo.profiles.calibration import agree
from mpo.profiles.device import describe
from mpo.profiles.local import LocalTarget
from mpo.profiles.measure import measure_solo
from mpo.profiles.modeljobs import measure_turns, model_job
from mpo.profiles.sessions import THRESHOLD
from mpo.profiles.table import measure_table
from mpo.profiles.turns import Effort
from mpo.records import CostTable, Metric, SessionOptions
from mpo.timing import Stopwatch

ROOT = Path(__file__).resolve().parents[1]
# As a run without a memory budget measures (pipeline/run/places.py).
SESSION = SessionOptions(threads=1, mmap_threshold_bytes=THRESHOLD)
METRICS: tuple[Metric, ...] = ("latency_p50_ms", "memory_bytes", "size_bytes", "params", "macs")
GROUP = 6  # models in one process beside the whole one


@dataclass(frozen=True)
class Case:
    """A model with example inputs."""

    model: nn.Module
    batch: Batch


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)])
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """relu(branch + shortcut)."""
        y = F.relu(self.norms[0](self.first(x)))
        return F.relu(self.norms[1](self.second(y)) + self.shortcut(x))


def digits() -> Case:
    """The repository's trained ResNet-56 on its own data: 24 removable blocks of three kinds."""
    subject = load_subject(str(ROOT / "examples/digits/subject.py"))
    return Case(subject.build(), next(iter(subject.splits(0).train)))


def residual() -> Case:
    """A residual CNN for 64x64 images with 16 removable blocks of four widths."""
    torch.manual_seed(0)
    widths, depths = (32, 64, 96, 160), (4, 4, 6, 6)
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, 1, 1), nn.ReLU()]
    inputs = 32
    for place, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        blocks = [Residual(inputs, width, 2 if place else 1)]
        blocks += [Residual(width, width) for _ in range(depth - 1)]
        layers.append(nn.Sequential(*blocks))
        inputs = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10)]
    return Case(nn.Sequential(*layers).eval(), Batch((torch.randn(4, 3, 64, 64),), {}))


class Encoder(nn.Module):
    """Token embeddings, ten layers that differ in their feed-forward width, a classifier."""

    def __init__(self, width: int = 192, layers: int = 10, tokens: int = 48) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1000, width)
        self.position = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 4, width * (2 + index % 3), batch_first=True, norm_first=True
            )
            for index in range(layers)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [batch, 10] of token ids [batch, tokens]."""
        x = self.embedding(ids) + self.position
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


def transformer() -> Case:
    """A small transformer encoder with random weights: ten layers of three feed-forward widths."""
    torch.manual_seed(0)
    return Case(Encoder().eval(), Batch((torch.randint(0, 1000, (4, 48)),), {}))


CASES: dict[str, Callable[[], Case]] = {
    "digits": digits,
    "residual": residual,
    "transformer": transformer,
}


def random_plans(names: Sequence[str], count: int, seed: int) -> list[tuple[str, ...]]:
    """Sets of blocks: first a size between one and all but one, then which."""
    dice, plans = random.Random(seed), list[tuple[str, ...]]()
    while len(plans) < count:
        chosen = set(dice.sample(list(names), dice.randint(1, len(names) - 1)))
        plan = tuple(name for name in names if name in chosen)
        if plan not in plans:
            plans.append(plan)
    return plans


def measured_shares(
    files: Sequence[Path], case: Case, session: SessionOptions, effort: Effort
) -> list[tuple[float, float]]:
    """Latency over the whole model's (the first file) and its spread over processes, in turn."""
    paused = session.model_copy(update={"spinning": False})
    shares: list[tuple[float, float]] = []
    for start in range(1, len(files), GROUP):
        group = [files[0], *files[start : start + GROUP]]
        rows = []
        with tempfile.TemporaryDirectory() as name:
            inputs = [one_inference(path, case) for path in group]
            job = model_job(group, inputs, Path(name), paused, effort.timeout)
            for number in range(effort.fewest + 1):
                order = list(range(len(group)))
                random.Random(number).shuffle(order)
                times = measure_turns(
                    LocalTarget(), job, order, effort.seconds, effort.rounds, seed=number
                )
                rows.append([time / times[0] for time in times[1:]])
        for column in zip(*rows, strict=True):
            found = agree(column)
            shares.append((found.value, found.spread))
    return shares


def one_inference(path: Path, case: Case) -> dict[str, Any]:
    """The first example as the file takes it."""
    return dict(OnnxModel(path).feeds(tuple(leaf[:1] for leaf in case.batch.args), {}))


def memory(path: Path, case: Case, session: SessionOptions) -> int:
    """Peak memory of one file, alone."""
    inputs = one_inference(path, case)
    solo = measure_solo(LocalTarget(), path, inputs, session=session, seconds=0)
    return solo.peak_memory_bytes


def row_of(
    table: CostTable, removed: tuple[str, ...], share: tuple[float, float], size: int, peak: int
) -> dict[str, Any]:
    """One plan: predictions beside measurements, relative errors, and what broke its bound."""
    whole = table.anchors[0].figures["latency_p50_ms"]
    measured: dict[Metric, float] = {
        "latency_p50_ms": share[0] * whole,
        "memory_bytes": peak,
        "size_bytes": size,
    }
    predicted, bounds = table.predict(removed), table.bounds(removed)
    return {
        "removed": removed,
        "share_measured": share[0],
        "share_predicted": predicted["latency_p50_ms"] / whole,
        "spread": share[1],
        "measured": measured,
        "predicted": {m: predicted[m] for m in measured},
        "error": {m: predicted[m] / value - 1 for m, value in measured.items()},
        "false_feasible": [m for m, value in measured.items() if value > bounds[m]],
    }


def made(source: Source, folder: Path, effort: Effort) -> CostTable:
    """The table as a run makes it."""
    alone = isolate(source.model, source.names, source.run)
    parts = take_apart(source, alone, folder, METRICS)
    return measure_table(
        LocalTarget(),
        parts.units,
        parts.anchors,
        SESSION,
        METRICS,
        batch=source.size,
        fingerprint="",
        effort=effort,
    )


def run(name: str, plans: int, effort: Effort) -> dict[str, Any]:
    """The table of one model and its random plans."""
    watch, case = Stopwatch(), CASES[name]()
    blocks = tuple(b for b in find_blocks(case.model, case.batch) if b.removable)

    def without(names: Any) -> nn.Module:
        return remove_blocks(case.model, names).eval()

    source = Source(case.model, blocks, case.batch, 1, without)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        table = made(source, folder, effort)
        seconds = watch.seconds
        chosen = random_plans(source.names, plans, seed=7)
        files = [folder / "anchor-full.onnx"]
        for number, removed in enumerate(chosen):
            files.append(folder / f"plan-{number}.onnx")
            trace = source.trace
            export_onnx(without(removed), trace.args, trace.kwargs, files[-1])
        shares = measured_shares(files, case, SESSION, effort)
        rows = [
            row_of(table, removed, share, path.stat().st_size, memory(path, case, SESSION))
            for removed, share, path in zip(chosen, shares, files[1:], strict=True)
        ]
    return {
        "model": name,
        "summary": summary(rows, table),
        "seconds": {"table": seconds, "all": watch.seconds},
        "table": table.model_dump(mode="json"),
        "plans": rows,
    }


def summary(rows: Sequence[dict[str, Any]], table: CostTable) -> dict[str, Any]:
    """MAPE, worst error, margin and broken bounds per metric."""
    found = {}
    for metric in ("latency_p50_ms", "memory_bytes", "size_bytes"):
        errors = [abs(row["error"][metric]) for row in rows]
        fit = table.fits[metric]
        found[metric] = {
            "mape": statistics.fmean(errors),
            "worst": max(errors),
            "bias": statistics.fmean(row["error"][metric] for row in rows),
            "margin": fit.margin,
            "residual": fit.residual,
            "noise": fit.noise,
            "false_feasible": sum(metric in row["false_feasible"] for row in rows),
        }
    return found


def main() -> None:
    """Run all, print a line a model and metric, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter samples, three plans a model")
    parser.add_argument("--only", choices=sorted(CASES), action="append")
    parser.add_argument("--plans", type=int)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/cost_table.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    effort = Effort(seconds=0.5, rounds=20, solo_seconds=0.2) if options.quick else Effort()
    plans = options.plans or (3 if options.quick else 10)
    results = []
    for name in options.only or CASES:
        found = run(name, plans, effort)
        results.append(found)
        table = found["table"]
        print(f"{name}: {found['seconds']['all']:.0f} s, parts sum to {table['uncalibrated']:.3f}, "
              f"{table['processes']} processes {' '.join(table['warnings'])}")  # fmt: skip
        for metric, row in found["summary"].items():
            print(f"  {metric}: MAPE {row['mape']:.2%} worst {row['worst']:.2%} "
                  f"bias {row['bias']:+.2%} margin {row['margin']:.2%} "
                  f"falsely feasible {row['false_feasible']} of {len(found['plans'])}")  # fmt: skip
    command = f"python benchmarks/cost_table.py{' --quick' if options.quick else ''}"
    environment = describe(LocalTarget()).model_dump(mode="json")
    result = {"command": command, "environment": environment, "models": results}
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
