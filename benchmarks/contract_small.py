"""Decisions near the boundary on small networks: what pruning turns, what recovery and learned
gates bring back. A residual CNN and a transformer, both trained from scratch on the same pictures.

    python benchmarks/contract_small.py [--seeds 3] [--data digits|fashion] [--kinds cnn,...]

1. Depth: blocks go by measured joint KL, one short distillation each: accuracy, disagreement
   overall and in the region, claims and mined witnesses at three depths.
2. Recovery: boundary-weighted against plain distillation, same steps, several seeds.
3. Choice: blocks chosen by CKA clusters, by plain and boundary-weighted harm, by learned gates, at
   one budget of parameters, before and after the same recovery.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mpo
from mpo.optimizer.analysis.cka import measure_similarity
from mpo.optimizer.analysis.clusters import default_threshold, find_clusters
from mpo.optimizer.analysis.harm import HarmMeter
from mpo.optimizer.blocks.finding import find_blocks
from mpo.optimizer.blocks.surgery import remove_blocks
from mpo.optimizer.data.batches import limit
from mpo.optimizer.data.quality import evaluate, predictor
from mpo.optimizer.data.subject import Subject
from mpo.optimizer.training.gates import learn_gates
from mpo.optimizer.training.objective import distil
from mpo.optimizer.training.recover import Schedule, recover
from mpo.records import Contract, Quality

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this file runs as a script
from benchmarks.shared import ROOT, Shuffled

DATA = Path(os.environ.get("MPO_DATA", ROOT / "data"))
WIDTH, DEPTH = 24, 8
EPOCHS, RATE, RECOVERY_EPOCHS, RECOVERY_RATE = 12, 3e-3, 2, 1e-3
TERMS = {"eps": ["2%", "region=10%"], "mass": 0.1, "strata": ("overall", "region")}
DEPTHS = (2, 4, 6)


class Conv(nn.Module):
    """x + conv(relu(norm(x)))."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(WIDTH), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(F.relu(self.norm(x)))


class CNN(nn.Module):
    """Residual convolutions at half the resolution, then the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, WIDTH, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(*(Conv() for _ in range(DEPTH)))
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Layer(nn.Module):
    """Attention and a small MLP, both pre-norm and residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix = nn.MultiheadAttention(width, 4, batch_first=True)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        x = x + self.mix(y, y, y, need_weights=False)[0]
        return x + self.down(F.gelu(self.up(self.two(x))))


class Transformer(nn.Module):
    """A layer stack over the rows of the picture."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.stem, self.place = nn.Linear(side, 32), nn.Parameter(0.02 * torch.randn(side, 32))
        self.blocks = nn.Sequential(*(Layer(32) for _ in range(DEPTH)))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x[:, 0]) + self.place).mean(1))


def digits() -> dict[str, tuple[Tensor, Tensor]]:
    """The 1,797 scans at 8x8, shuffled: 797 to train, 300 to choose, 700 to judge."""
    with np.load(ROOT / "examples/digits/digits.npz", allow_pickle=False) as archive:
        x = torch.from_numpy(archive["images"]).float().div(8).sub(1).unsqueeze(1)
        y = torch.from_numpy(archive["labels"].astype(np.int64))
    return cut(x, y, (797, 300, 700))


def fashion() -> dict[str, tuple[Tensor, Tensor]]:
    """14x14 pictures: 3,000 to train and 1,000 to choose of the train file, 2,000 of the test
    file to judge."""
    parts = []
    for name in ("train", "t10k"):
        with gzip.open(DATA / f"fashion/{name}-images-idx3-ubyte.gz") as file:
            raw = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
        with gzip.open(DATA / f"fashion/{name}-labels-idx1-ubyte.gz") as file:
            y = np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int64)
        x = F.avg_pool2d(torch.from_numpy(raw.astype(np.float32)), 2).div(127.5).sub(1)
        parts.append((x, torch.from_numpy(y)))
    found = cut(*parts[0], (3000, 1000, 0))
    return {**found, "test": cut(*parts[1], (0, 0, 2000))["test"]}


def cut(x: Tensor, y: Tensor, sizes: Sequence[int]) -> dict[str, tuple[Tensor, Tensor]]:
    """Three random parts."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[: sum(sizes)]
    rows = order.split(list(sizes))
    return {n: (x[r], y[r]) for n, r in zip(("train", "validation", "test"), rows, strict=True)}


def batches(part: tuple[Tensor, Tensor], size: int = 64) -> list[tuple[Tensor, Tensor]]:
    """A part as batches."""
    return list(zip(part[0].split(size), part[1].split(size), strict=True))


def trained(kind: str, parts: dict[str, tuple[Tensor, Tensor]], seed: int) -> Subject:
    """A network trained from scratch, with its data."""
    torch.manual_seed(seed)
    side = parts["train"][0].shape[-1]
    model: nn.Module = CNN() if kind == "cnn" else Transformer(side)
    x, y = parts["train"]
    steps = EPOCHS * (len(x) // 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    random = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x), generator=random).split(64)[: len(x) // 64]:
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(model(x[rows]), y[rows]))
            optimizer.step()
            schedule.step()
    rest = {name: batches(parts[name]) for name in ("validation", "test")}
    data = mpo.Data(train=Shuffled(*parts["train"], 64), **rest)
    return Subject(model=model.eval(), data=data, name=kind)


class Bench:
    """One trained network with what all three parts need."""

    def __init__(self, subject: Subject) -> None:
        self.subject, self.model = subject, subject.build()
        splits = subject.splits()
        self.validation = splits.validation
        self.calibration = limit(splits.train, 256)
        self.blocks = [b for b in find_blocks(self.model, self.calibration[0]) if b.removable]
        self.names = [block.name for block in self.blocks]
        self.params = {block.name: float(block.params) for block in self.blocks}

    def quality(self, model: nn.Module) -> Quality:
        """Accuracy on validation."""
        original = predictor(self.model)
        return evaluate(predictor(model), self.subject, self.validation, original, interval=False)

    def greedy(self, count: int, *, boundary: bool = False) -> tuple[str, ...]:
        """`count` blocks out, one after the other, by least joint harm."""
        meter = HarmMeter(self.model, self.calibration, boundary=boundary)
        gone: list[str] = []
        for _ in range(count):
            left = [name for name in self.names if name not in gone]
            gone.append(min(left, key=lambda name: meter.kl([*gone, name])))
        return tuple(sorted(gone, key=self.names.index))

    def recovered(self, gone: Sequence[str], seed: int, *, boundary: bool = False) -> nn.Module:
        """The pruned model after RECOVERY_EPOCHS of distillation."""
        model = remove_blocks(self.model, gone)
        objective = distil(self.subject, self.subject.build(), boundary=boundary)
        schedule = Schedule(RECOVERY_RATE, RECOVERY_EPOCHS, seed)
        start = self.quality(self.model)
        train = self.subject.splits(seed).train
        recover(model, objective, train, self.quality, start, schedule, lambda *_: None)
        return model.eval()

    def judged(self, model: nn.Module, *, mine: bool = False) -> Contract:
        """The contract on the test part."""
        return mpo.contract(self.subject, model, mine=mine, **TERMS)  # type: ignore[arg-type]


def row(record: Contract) -> dict[str, Any]:
    """What of a contract goes into the table."""
    overall, region = record.claims
    old, new = record.quality["original"].value, record.quality["candidate"].value
    found: dict[str, Any] = {
        "accuracy": new,
        "accuracy_drop": old - new,
        "disagreement": overall.rate,
        "region_disagreement": region.rate,
        "region_samples": region.samples,
        "bounds": [[claim.low, claim.high] for claim in record.claims],
        "verdict": record.verdict,
        "certified": record.certificate.share if record.certificate else None,
        "kl": record.divergence.mean if record.divergence else None,
    }
    if record.mining:
        found |= {"witnesses": record.mining.found, "smallest": record.mining.smallest}
    return found


def depth(bench: Bench) -> list[dict[str, Any]]:
    """Three depths, before and after recovery."""
    rows = []
    for count in DEPTHS:
        gone = bench.greedy(count)
        for stage, model in (
            ("pruned", remove_blocks(bench.model, gone).eval()),
            ("recovered", bench.recovered(gone, 0)),
        ):
            made = row(bench.judged(model, mine=True))
            rows.append({"removed": count, "of": len(bench.names), "stage": stage, **made})
            print(
                f"  {count} of {len(bench.names)} out, {stage}: accuracy "
                f"{made['accuracy']:.3f} ({-made['accuracy_drop']:+.3f}), differ "
                f"{made['disagreement']:.3f}, region {made['region_disagreement']:.3f}, "
                f"{made['verdict']}, witnesses {made['witnesses']}",
                flush=True,
            )
    return rows


def recovery(bench: Bench, seeds: int) -> list[dict[str, Any]]:
    """Boundary-weighted beside plain distillation."""
    rows, gone = [], bench.greedy(DEPTHS[1])
    for seed in range(seeds):
        for boundary in (False, True):
            made = row(bench.judged(bench.recovered(gone, seed, boundary=boundary)))
            rows.append({"seed": seed, "boundary": boundary, **made})
            print(
                f"  seed {seed} {'boundary' if boundary else 'plain':8s} accuracy "
                f"{made['accuracy']:.3f}, differ {made['disagreement']:.4f}, region "
                f"{made['region_disagreement']:.4f}",
                flush=True,
            )
    return rows


def choice(bench: Bench) -> list[dict[str, Any]]:
    """Who chooses the blocks, at one budget; blocks are alike, so it is a number of them."""
    count = DEPTHS[1]
    wanted = count * min(bench.params.values())
    gates = learn_gates(
        bench.model, bench.params, bench.calibration, target=1 - count / len(bench.names)
    )
    chosen = {
        "cka clusters": by_clusters(bench, count),
        "joint kl": bench.greedy(count),
        "boundary harm": bench.greedy(count, boundary=True),
        "learned gates": gates.removed(bench.params, wanted),
        "last blocks": tuple(bench.names[-count - 1 : -1]),
    }
    rows = []
    for name, gone in chosen.items():
        for stage in ("pruned", "recovered"):
            model = (
                remove_blocks(bench.model, gone).eval()
                if stage == "pruned"
                else bench.recovered(gone, 0)
            )
            made = row(bench.judged(model))
            rows.append({"by": name, "removed": list(gone), "stage": stage, **made})
            print(
                f"  {name:14s} {stage:9s} accuracy {made['accuracy']:.3f}, differ "
                f"{made['disagreement']:.3f}, region {made['region_disagreement']:.3f} "
                f"({', '.join(one.rpartition('.')[2] for one in gone)})",
                flush=True,
            )
    return rows


def by_clusters(bench: Bench, count: int) -> tuple[str, ...]:
    """`count` blocks by CKA alone: from the most alike cluster on, its anchor kept; then the blocks
    most like the one before."""
    found = measure_similarity(bench.model, bench.names, bench.calibration, limit_examples=256)
    threshold = default_threshold(found.null_95)
    clusters = find_clusters(found, bench.blocks, threshold)
    ranked = sorted(clusters, key=lambda cluster: -cluster.min_cka)
    gone = [name for cluster in ranked for name in cluster.members if name != cluster.anchor]
    places = range(1, len(bench.names))
    likest = sorted(places, key=lambda place: -found.matrix[place - 1, place])
    rest = [bench.names[place] for place in likest if bench.names[place] not in gone]
    return tuple(sorted([*gone, *rest][:count], key=bench.names.index))


PARTS = {"depth": depth, "choice": choice}


def main() -> None:
    """Train, prune, judge, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", choices=["digits", "fashion"], default="digits")
    parser.add_argument("--kinds", default="cnn,transformer")
    parser.add_argument("--parts", default="depth,recovery,choice")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    parts = digits() if given.data == "digits" else fashion()
    out = given.out or ROOT / f"benchmarks/results/contract_{given.data}.json"
    head: dict[str, Any] = {
        "command": f"python benchmarks/contract_small.py --data {given.data} --seeds {given.seeds}",
        "terms": {**TERMS, "confidence": 0.95},
        "samples": {name: len(part[1]) for name, part in parts.items()},
    }
    for kind in given.kinds.split(","):
        start = time.monotonic()
        bench = Bench(replace(trained(kind, parts, 0), name=kind))
        accuracy = bench.quality(bench.model).value
        print(f"{kind}: {accuracy:.3f} on validation, {time.monotonic() - start:.0f} s", flush=True)
        for part in given.parts.split(","):
            rows = recovery(bench, given.seeds) if part == "recovery" else PARTS[part](bench)
            kept = json.loads(out.read_text()) if out.is_file() else {}  # of other calls
            found = {**kept.get(kind, {}), "validation_accuracy": accuracy, part: rows}
            out.write_text(json.dumps({**kept, **head, kind: found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
