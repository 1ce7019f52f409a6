"""What each part of recovery buys: accuracy at equal parameters, the same blocks gone, the same
number of updates.

Two examples with what a seed draws from their training data. Test accuracy over the seeds with
Student's 95 % interval, and each variant's paired difference to plain training with the task's own
loss. Updates that the warm start makes are taken off the training's.

    python benchmarks/recovery.py [--example fashion,sentiment] [--seeds 3] [--variants a,b]
        [--train 3000] [--validation 1000] [--test 5000] [--epochs 3] [--removed a,b] [--out FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import scipy.stats
import torch
from torch import Tensor, nn

import mpo
from mpo.optimizer.blocks.activations import evaluation_mode
from mpo.optimizer.blocks.cuts import Cut, find_cuts
from mpo.optimizer.blocks.finding import find_blocks
from mpo.optimizer.blocks.surgery import remove_blocks
from mpo.optimizer.data.batches import Batch, limit, take
from mpo.optimizer.data.quality import evaluate, predictor
from mpo.optimizer.data.subject import Subject
from mpo.optimizer.data.tasks import cross_entropy
from mpo.optimizer.ground.randomness import own_randomness
from mpo.optimizer.training.compensation import compensate, halves, taken_back_where_worse
from mpo.optimizer.training.folding import fold, gather, last_affine
from mpo.optimizer.training.hidden import Across, across, balanced
from mpo.optimizer.training.objective import Objective, distil, task_only
from mpo.optimizer.training.rates import helps
from mpo.optimizer.training.recover import Schedule, recover
from mpo.optimizer.training.shares import evened
from mpo.optimizer.training.trainer import Trainer, trainable
from mpo.records import Compensation, Quality
from mpo.timing import Stopwatch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this file runs as a script
from benchmarks import shared
from benchmarks.contract_small import CNN, Transformer, digits
from benchmarks.contract_small import batches as plain

ROOT = Path(__file__).resolve().parents[1]
WARM_STEPS, DECAY, CALIBRATION = 6, 0.9, 128
AMOUNTS = ("train", "validation", "test", "epochs")
VARIANTS: dict[str, set[str]] = {
    "task": set(),
    "distil": {"distil"},
    "distil+compensate": {"distil", "compensate"},
    "distil+compensate+raced": {"distil", "compensate", "hidden", "raced"},
    "distil+compensate+hidden": {"distil", "compensate", "hidden"},
    "distil+compensate+hidden+warm": {"distil", "compensate", "hidden", "warm"},
}


@dataclass(frozen=True)
class Size:
    """How much of an example is used, in examples; which blocks go: those whose joint removal harms
    least, taken one after the other, on 128 training examples; and the peak learning rate, the one
    that mpo's race chose in the example's own runs."""

    train: int
    validation: int
    test: int
    batch: int
    removed: tuple[str, ...]
    epochs: int = 2
    rate: float = 4e-4


SMALL = ("blocks.1", "blocks.3", "blocks.4", "blocks.6")
SIZES = {
    "fashion": Size(768, 300, 1000, 64, ("layer1.3", "layer3.3", "layer2.3", "layer1.2")),
    "sentiment": Size(320, 128, 500, 32, ("encoder.encoder.layer.0", "encoder.encoder.layer.1")),
    "small-cnn": Size(797, 300, 700, 64, SMALL, rate=1e-3),
    "small-transformer": Size(797, 300, 700, 64, SMALL, rate=1e-3),
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
    if name.startswith("small-"):
        return small(name, size, seed)
    module = shared.subject_of(name)
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


def small(name: str, size: Size, seed: int) -> Subject:
    """A network of eight residual blocks, trained by a seed on the 8x8 digits."""
    parts = digits()
    torch.manual_seed(seed)
    model = CNN() if name == "small-cnn" else Transformer(8)
    train = shared.Shuffled(*parts["train"], size.batch)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(12):
        for x, y in train:
            optimizer.zero_grad()
            torch.autograd.backward(cross_entropy(model(x), y))
            optimizer.step()
    held = {key: plain(parts[key], 128) for key in ("validation", "test")}
    return Subject(model=model.eval(), data=mpo.Data(train=train, **held), name=name)


class Bench:
    """One example with one seed: everything but the variant is the same."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.size, self.seed = name, SIZES[name], seed
        self.subject = subject_of(name, self.size, seed)
        self.kind: Any = "values" if name == "sentiment" else "logits"
        self.original = self.subject.build()
        self.calibration = limit(self.subject.splits().train, CALIBRATION)
        find_blocks(self.original, take(self.calibration[0], 4))
        self.pruned = remove_blocks(self.original, self.size.removed).eval()
        self.cuts = find_cuts(self.original, self.pruned, self.size.removed)

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
        plain = evened(distil(self.subject, copy.deepcopy(self.original)), self.calibration[:2])
        if "hidden" not in parts:
            return plain
        return balanced(across(plain, self.cuts), model, self.calibration[:2], 1.0)

    def helps(self, model: nn.Module, other: Objective) -> bool:
        """Whether hidden states win the short race that mpo holds, at the schedule's rate."""
        splits, rest = self.subject.splits(), self.objective({"distil"}, model)
        data, steps = (splits.train, splits.validation), self.size.epochs * len(splits.train)
        return helps(model, rest, other, self.size.rate, *data, self.seed, steps)

    def compensated(self, model: nn.Module) -> Compensation:
        """Compensate as a run does: taken back where validation quality falls."""

        def change() -> Compensation:
            return compensate(self.original, model, self.cuts, self.calibration, self.kind)

        return taken_back_where_worse(model, lambda one: self.quality(one, "validation"), change)

    def train(self, parts: set[str]) -> dict[str, Any]:
        """Train one variant and test it."""
        watch, model = Stopwatch(), copy.deepcopy(self.pruned)
        row: dict[str, Any] = {}
        if "compensate" in parts:
            told = self.compensated(model)
            row["compensation"] = told.model_dump(mode="json")
        objective = self.objective(parts, model)
        if "raced" in parts:
            parts = parts if self.helps(model, objective) else parts - {"hidden"}
            objective = self.objective(parts, model)
        total = self.size.epochs * len(self.subject.splits().train)
        if "warm" in parts and isinstance(objective, Across):
            row["warm"] = warm_start(
                model, objective, self.calibration, rate=self.size.rate, steps=WARM_STEPS
            )
            total -= WARM_STEPS
        row["start"] = self.quality(model, "test").value
        average = Average(model)
        schedule = Schedule(self.size.rate, self.size.epochs, self.seed, total)
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
        if parts == {"distil", "compensate"}:
            row["test_averaged"] = self.quality(average.model, "test").value
        return row | {"seconds": watch.seconds, "recovery": story.model_dump(mode="json")}

    def untrained(self) -> dict[str, float]:
        """Test accuracy without training: as pruned, and compensated in each way."""
        found = {"pruned": self.quality(self.pruned, "test").value}
        ways = {
            "batchnorm": "b",
            "folded": "f",
            "batchnorm, folded": "bf",
            "folded, batchnorm": "fb",
        }
        for name, steps in ways.items():
            model = copy.deepcopy(self.pruned)
            for one in steps:
                compensate(
                    self.original,
                    model,
                    self.cuts,
                    self.calibration,
                    self.kind,
                    folding=one == "f",
                    recalibrate=one == "b",
                )
            found[name] = self.quality(model, "test").value
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


def warm_start(
    student: nn.Module,
    objective: Across,
    batches: Sequence[Batch],
    *,
    rate: float,
    steps: int,
    seed: int = 0,
) -> tuple[float, float]:
    """Train only the modules before the cuts to hand on what the removed runs handed on.

    As LLM-Streamline (arXiv 2403.19135) trains a small network in the place of a run; here it is
    the block that is there already. Kept only when the hidden states come nearer.

    Args:
        batches: the last ones, a quarter, judge.

    Returns:
        The hidden term on the judging batches before and after.
    """
    alone = replace(objective, alone=True)
    held = max(1, len(batches) // 4)
    fit, judge = batches[:-held] or batches, batches[-held:]
    known = dict(student.named_modules())
    own = {id(p) for cut in alone.cuts if cut.trained for p in known[cut.student].parameters()}
    start, before = copy.deepcopy(student.state_dict()), _mean(alone, student, judge)
    asking = trainable(student)
    if not own:
        return before, before
    try:
        for parameter in asking:
            parameter.requires_grad_(id(parameter) in own)
        with own_randomness(seed):
            trainer = Trainer(student, alone, rate, steps)
            for step in range(steps):
                trainer.step(fit[step % len(fit)])
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
    after = _mean(alone, student, judge)
    if not after < before:
        student.load_state_dict(start)
        after = before
    student.eval()
    return before, after


def _mean(objective: Objective, student: nn.Module, batches: Sequence[Batch]) -> float:
    with evaluation_mode(student), torch.no_grad():
        return sum(float(objective(student, batch)) for batch in batches) / len(batches)


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
            own = {r["seed"]: r[key] for r in rows if r["variant"] == variant and key in r}
            base = {row["seed"]: row["test"] for row in rows if row["variant"] == "task"}
            both = [seed for seed in own if seed in base]
            if both:
                found[f"{variant} {key}"] = {
                    "accuracy": interval([own[seed] for seed in both]),
                    "ahead_of_task": interval([own[seed] - base[seed] for seed in both]),
                }
    return found


def main() -> None:
    """Run all variants, print a line each, write the JSON after each seed; a seed that an earlier
    call of the same size has left there is not run again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--example", default="fashion,sentiment")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    for key in AMOUNTS:
        parser.add_argument(f"--{key}", type=int, help="in the place of the example's own")
    parser.add_argument("--removed", help="blocks to take out in the place of the example's own")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/recovery.json")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    given: dict[str, Any] = {
        key: getattr(asked, key) for key in AMOUNTS if getattr(asked, key) is not None
    }
    if asked.removed:
        given["removed"] = tuple(asked.removed.split(","))
    kept = json.loads(asked.out.read_text()) if asked.out.is_file() else {}
    result: dict[str, Any] = {}
    for name in asked.example.split(","):
        SIZES[name] = replace(SIZES[name], **given)
        known = kept.get(name, {})
        same = known.get("size") == json.loads(json.dumps(vars(SIZES[name])))
        fresh = {"size": vars(SIZES[name]), "rows": [], "untrained": []}
        result[name] = known if same else fresh
    for seed in range(asked.seeds):
        for name, held in result.items():
            done = {row["variant"] for row in held["rows"] if row["seed"] == seed}
            wanted = [one for one in asked.variants.split(",") if one not in done]
            if wanted:
                one_seed(Bench(name, seed), held, wanted)
                held["summary"] = summary(held["rows"])
                asked.out.write_text(json.dumps(result, indent=1) + "\n")


def one_seed(bench: Bench, held: dict[str, Any], wanted: Sequence[str]) -> None:
    """The rows of one seed."""
    seed = bench.seed
    held["original"] = bench.quality(bench.original, "test").value
    if all(one["seed"] != seed for one in held["untrained"]):
        held["untrained"].append({"seed": seed, **bench.untrained()})
    print(bench.name, seed, held["original"], held["untrained"][-1], flush=True)
    for variant in wanted:
        row = {"seed": seed, "variant": variant, **bench.train(VARIANTS[variant])}
        held["rows"].append(row)
        told = (row["start"], row["test"], row.get("test_averaged"), row["weight"])
        print(bench.name, seed, variant, *told, round(row["seconds"]), flush=True)


if __name__ == "__main__":
    main()
