"""Accuracy is kept, the contract is not: a residual MLP on data without end, so that every share is
known to a fraction of a per cent.

A network of six residual blocks learns three noisy classes; one and two blocks go by least
joint harm, and the rest is distilled, plainly and with the boundary weighted. Judged by
`mpo.contract` with its default terms on 10,000 fresh samples.

    python benchmarks/contract_synthetic.py [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mpo
from mpo.optimizer.analysis.harm import HarmMeter
from mpo.optimizer.blocks.finding import find_blocks
from mpo.optimizer.blocks.surgery import remove_blocks
from mpo.optimizer.data.batches import limit
from mpo.optimizer.data.quality import evaluate, predictor
from mpo.optimizer.data.subject import Subject
from mpo.optimizer.training.objective import distil
from mpo.optimizer.training.recover import Schedule, recover
from mpo.records import Quality

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this file runs as a script
from benchmarks.shared import ROOT, Shuffled

WIDTH, BLOCKS, INPUTS, NOISE = 24, 6, 8, 0.3
TRAIN, VALIDATION, TEST = 4096, 1024, 10_000
PASSES, COUNTS, SEEDS = 4, (2, 1), 3


class Residual(nn.Module):
    """x + line(relu(line(x))) / 2."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.5 * self.down(F.relu(self.up(x)))


def samples(seed: int, count: int) -> list[tuple[Tensor, Tensor]]:
    """Inputs and the class of the largest of three curved, noisy scores."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(count, INPUTS, generator=random)
    scores = x[:, :3] + torch.sin(2 * x[:, 3:6]) + x[:, 6:7] * x[:, 1:4]
    y = (scores + NOISE * torch.randn(count, 3, generator=random)).argmax(1)
    return list(zip(x.split(128), y.split(128), strict=True))


def trained() -> Subject:
    """The network, trained for 30 passes, with its data."""
    torch.manual_seed(0)
    blocks = nn.Sequential(*(Residual() for _ in range(BLOCKS)))
    model = nn.Sequential(nn.Linear(INPUTS, WIDTH), blocks, nn.Linear(WIDTH, 3))
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    rows = samples(1, TRAIN)
    for _ in range(30):
        for x, y in rows:
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(model(x), y))
            optimizer.step()
    train = Shuffled(torch.cat([x for x, _ in rows]), torch.cat([y for _, y in rows]), 128)
    data = mpo.Data(train=train, validation=samples(2, VALIDATION), test=samples(3, TEST))
    return Subject(model=model.eval(), data=data, name="residual MLP")


def greedy(model: nn.Module, subject: Subject, count: int) -> tuple[str, ...]:
    """`count` blocks by least joint harm, one after the other."""
    calibration = limit(subject.splits().train, 512)
    names = [block.name for block in find_blocks(model, calibration[0]) if block.removable]
    meter, gone = HarmMeter(model, calibration), list[str]()
    for _ in range(count):
        left = [name for name in names if name not in gone]
        gone.append(min(left, key=lambda name: meter.kl([*gone, name])))
    return tuple(gone)


def recovered(
    model: nn.Module, subject: Subject, gone: tuple[str, ...], seed: int, boundary: bool
) -> nn.Module:
    """The pruned model after four passes of distillation."""
    splits, original = subject.splits(seed), predictor(subject.build())
    smaller = remove_blocks(model, gone)

    def judge(candidate: nn.Module) -> Quality:
        predict = predictor(candidate)
        return evaluate(predict, subject, splits.validation, original, interval=False)

    objective = distil(subject, subject.build(), boundary=boundary)
    schedule = Schedule(2e-3, PASSES, seed)
    recover(smaller, objective, splits.train, judge, judge(model), schedule, lambda *_: None)
    return smaller.eval()


def main() -> None:
    """Train, prune, judge, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks/results/contract_synthetic.json"
    )
    given = parser.parse_args()
    subject = trained()
    model = subject.build()
    rows: list[dict[str, Any]] = []
    for count in COUNTS:
        gone = greedy(model, subject, count)
        for seed, boundary in product(range(SEEDS), (False, True)):
            smaller = recovered(model, subject, gone, seed, boundary)
            record = mpo.contract(subject, smaller, mine=seed == 0 and not boundary)
            old, new = (record.quality[name].value for name in ("original", "candidate"))
            overall, region = record.claims[:2]
            rows.append(
                {
                    "removed": count,
                    "of": BLOCKS,
                    "seed": seed,
                    "boundary": boundary,
                    "accuracy": [old, new],
                    "disagreement": [overall.rate, overall.low, overall.high],
                    "region_disagreement": [region.rate, region.low, region.high],
                    "certified": record.certificate.share if record.certificate else None,
                    "verdict": record.verdict,
                    "found": record.mining.found if record.mining else None,
                    "smallest": record.mining.smallest if record.mining else None,
                }
            )
            print(
                f"{count} out, seed {seed}, {'boundary' if boundary else 'plain':8s}: accuracy "
                f"{old:.4f} -> {new:.4f}, differ {overall.rate:.4f}, region {region.rate:.4f}, "
                f"{record.verdict}",
                flush=True,
            )
            result = {"command": "python benchmarks/contract_synthetic.py", "rows": rows}
            given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
