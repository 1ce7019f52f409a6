"""What each part of recovery buys: accuracy at equal parameters, the same blocks gone, the same
number of updates.

Two examples with the leading part of what a seed draws from their training data; the rate is the
one that plain cross-entropy likes best. Test accuracy over the seeds with Student's 95 % interval,
and each variant's paired difference to plain training with the task's own loss. Updates that the
warm start makes are taken off the training's.

    python benchmarks/recovery.py [--example fashion,sentiment] [--seeds 3] [--out FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import scipy.stats
import torch
from depth_and_precision import module_of
from torch import Tensor, nn

import mpo
from mpo.optimizer.batches import Batch, limit
from mpo.optimizer.blocks import find_blocks
from mpo.optimizer.compensation import compensate, fold, gather, halves, last_affine
from mpo.optimizer.cuts import Cut, find_cuts
from mpo.optimizer.harm import HarmMeter
from mpo.optimizer.hidden import Across, across, balanced, warm_start
from mpo.optimizer.objective import Objective, distil, task_only
from mpo.optimizer.quality import evaluate, predictor
from mpo.optimizer.rates import choose_rate
from mpo.optimizer.recover import Schedule, recover
from mpo.optimizer.subject import Subject
from mpo.optimizer.surgery import remove_blocks
from mpo.records import Quality
from mpo.timing import Stopwatch

ROOT = Path(__file__).resolve().parents[1]
WARM_STEPS, DECAY, CALIBRATION = 6, 0.9, 128
VARIANTS: dict[str, set[str]] = {
    "task": set(),
    "distil": {"distil"},
    "distil+hidden": {"distil", "hidden"},
    "distil+compensate": {"distil", "compensate"},
    "distil+compensate+hidden": {"distil", "compensate", "hidden"},
    "distil+compensate+hidden+warm": {"distil", "compensate", "hidden", "warm"},
}


@dataclass(frozen=True)
class Size:
    """How much of an example is used, in examples; `gone` is how many blocks go."""

    train: int
    validation: int
    test: int
    batch: int
    epochs: int
    gone: int


SIZES = {
    "fashion": Size(768, 300, 1500, 64, 2, 4),
    "sentiment": Size(320, 128, 500, 32, 2, 2),
}


def trimmed(inputs: Any) -> Any:
    """Token inputs without columns that are padding in every row."""
    if not isinstance(inputs, dict):
        return inputs
    longest = int(inputs["attention_mask"].sum(1).max())
    return {key: value[:, :longest] for key, value in inputs.items()}


def batches(part: tuple[Any, Tensor], rows: Tensor, size: int) -> list[tuple[Any, Tensor]]:
    """These examples of a split as batches."""
    inputs, targets = part
    found = []
    for chosen in rows.split(size):
        if isinstance(inputs, dict):
            taken = trimmed({key: value[chosen] for key, value in inputs.items()})
        else:
            taken = inputs[chosen]
        found.append((taken, targets[chosen]))
    return found


def subject_of(name: str, size: Size, seed: int) -> Subject:
    """The example with what a seed draws of its training data."""
    module = module_of(name)
    parts = module.splits()
    count = len(parts["train"][1])
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[: size.train]
    held = {
        key: batches(parts[key], torch.arange(amount), size.batch)
        for key, amount in (("validation", size.validation), ("test", size.test))
    }
    data = mpo.Data(train=batches(parts["train"], drawn, size.batch), **held)
    loss, metric = getattr(module, "loss", None), getattr(module, "metric", None)
    return Subject(model=module.model, data=data, loss=loss, metric=metric, name=name)


class Bench:
    """One example with one seed: everything but the variant is the same."""

    def __init__(self, name: str, seed: int, gone: tuple[str, ...] | None, rate: float | None):
        self.size, self.seed = SIZES[name], seed
        self.subject = subject_of(name, self.size, seed)
        self.kind: Any = "values" if name == "sentiment" else "logits"
        self.original = self.subject.build()
        self.calibration = limit(self.subject.splits().train, CALIBRATION)
        blocks = find_blocks(self.original, self.calibration[0])
        names = [block.name for block in blocks if block.removable]
        self.gone = gone or self.greedy(names)
        self.pruned = remove_blocks(self.original, self.gone).eval()
        self.cuts = find_cuts(self.original, self.pruned, self.gone)
        splits, plain = self.subject.splits(), task_only(self.subject)
        self.rate = rate or choose_rate(self.pruned, plain, splits.train, splits.validation, seed)

    def greedy(self, names: list[str]) -> tuple[str, ...]:
        """The blocks whose joint removal harms least, one after the other."""
        meter, gone = HarmMeter(self.original, self.calibration[:2], self.kind), list[str]()
        for _ in range(self.size.gone):
            left = [name for name in names if name not in gone]
            gone.append(min(left, key=lambda name: meter.kl([*gone, name])))
        return tuple(gone)

    def quality(self, model: nn.Module, split: str) -> Quality:
        """The example's metric on a split."""
        held = getattr(self.subject.splits(), split)
        return evaluate(
            predictor(model), self.subject, held, predictor(self.original), interval=False
        )

    def objective(self, parts: set[str], model: nn.Module) -> Objective:
        """What a variant minimises."""
        if "distil" not in parts:
            return task_only(self.subject)
        plain = distil(self.subject, copy.deepcopy(self.original))
        if "hidden" not in parts:
            return plain
        return balanced(across(plain, self.cuts), model, self.calibration[:2], 1.0)

    def train(self, parts: set[str]) -> dict[str, Any]:
        """Train one variant and test it."""
        watch, model = Stopwatch(), copy.deepcopy(self.pruned)
        row: dict[str, Any] = {}
        if "compensate" in parts:
            told = compensate(self.original, model, self.cuts, self.calibration, self.kind)
            row["compensation"] = told.model_dump(mode="json")
        objective = self.objective(parts, model)
        total = self.size.epochs * len(self.subject.splits().train)
        if "warm" in parts and isinstance(objective, Across):
            row["warm"] = warm_start(
                model, objective, self.calibration, rate=self.rate, steps=WARM_STEPS
            )
            total -= WARM_STEPS
        row["start"] = self.quality(model, "test").value
        average = Average(model)
        schedule = Schedule(self.rate, self.size.epochs, self.seed, total)
        story = recover(
            model,
            objective,
            self.subject.splits().train,
            lambda one: self.quality(one, "validation"),
            self.quality(self.original, "validation"),
            schedule,
            average.update(model),
        )
        weight = objective.weight if isinstance(objective, Across) else None
        row |= {"test": self.quality(model, "test").value, "weight": weight, "updates": total}
        row |= {"test_averaged": self.quality(average.model, "test").value}
        return row | {"seconds": watch.seconds, "recovery": story.model_dump(mode="json")}

    def untrained(self) -> dict[str, float]:
        """Test accuracy without training: as pruned, and compensated in each way."""
        found = {"pruned": self.quality(self.pruned, "test").value}
        for name, folding, anew in (("batchnorm", False, True), ("folded", True, False)):
            model = copy.deepcopy(self.pruned)
            told = compensate(
                self.original,
                model,
                self.cuts,
                self.calibration,
                self.kind,
                folding=folding,
                recalibrate=anew,
            )
            found[name] = self.quality(model, "test").value if told.steps else found["pruned"]
        model = copy.deepcopy(self.pruned)
        scale(self.original, model, self.cuts, halves(self.calibration)[0])
        return found | {"scaled": self.quality(model, "test").value}


class Average:
    """An exponential moving average of a model's state."""

    def __init__(self, model: nn.Module) -> None:
        self.model = copy.deepcopy(model)

    def update(self, model: nn.Module) -> Callable[[str, int, int], None]:
        """What takes the model's weights in, after every update."""

        def take(what: str, done: int, total: int) -> None:
            held = self.model.state_dict()
            with torch.no_grad():
                for key, value in model.state_dict().items():
                    if value.is_floating_point():
                        held[key].mul_(DECAY).add_(value, alpha=1 - DECAY)

        return take


def scale(original: nn.Module, model: nn.Module, cuts: tuple[Cut, ...], fit: list[Batch]) -> None:
    """One number a cut, mean |h_o| / mean |h|, as Prune&Comp does."""
    for cut in cuts:
        layer = last_affine(model, cut, fit[0])
        if layer is not None:
            sums = gather(original, model, cut, layer, fit)
            fold(layer, torch.tensor(sums.theirs / sums.ours - 1), torch.zeros(()))


def interval(values: list[float]) -> dict[str, Any]:
    """Mean and Student's 95 % interval."""
    middle = mean(values)
    if len(values) < 2:
        return {"mean": middle, "ci95": None, "values": values}
    reach = float(scipy.stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return {"mean": middle, "ci95": [middle - reach, middle + reach], "values": values}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Each variant over the seeds, and its paired difference to the plain task."""
    found: dict[str, Any] = {}
    for key in ("test", "test_averaged"):
        for variant in VARIANTS:
            own = {row["seed"]: row[key] for row in rows if row["variant"] == variant}
            base = {row["seed"]: row["test"] for row in rows if row["variant"] == "task"}
            shared = [seed for seed in own if seed in base]
            if shared:
                found[f"{variant} {key}"] = {
                    "accuracy": interval([own[seed] for seed in shared]),
                    "ahead_of_task": interval([own[seed] - base[seed] for seed in shared]),
                }
    return found


def main() -> None:
    """Run all variants, print a line each, write the JSON after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--example", default="fashion,sentiment")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/recovery.json")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        name: {"rows": [], "untrained": [], "removed": None, "rate": None}
        for name in asked.example.split(",")
    }
    for seed in range(asked.seeds):
        for name, held in result.items():
            bench = Bench(name, seed, held["removed"], held["rate"])
            held |= {"removed": bench.gone, "rate": bench.rate, "size": vars(bench.size)}
            held["original"] = bench.quality(bench.original, "test").value
            held["untrained"].append({"seed": seed, **bench.untrained()})
            print(name, seed, bench.gone, bench.rate, held["untrained"][-1], flush=True)
            for variant, parts in VARIANTS.items():
                row = {"seed": seed, "variant": variant, **bench.train(parts)}
                held["rows"].append(row)
                held["summary"] = summary(held["rows"])
                asked.out.write_text(json.dumps(result, indent=1) + "\n")
                told = (row["start"], row["test"], row["test_averaged"], row["weight"])
                print(name, seed, variant, *told, round(row["seconds"]), flush=True)


if __name__ == "__main__":
    main()
