"""Judging a split batch by batch: accuracy, agreement with the original, or the user's own metric.

The first two keep counts only, so that neither long splits nor batches padded to different lengths
matter; the user's metric is called once on all outputs, as DESIGN promises it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mpo.errors import UsageError
from mpo.gate import wilson_interval
from mpo.optimizer.data.batches import Batch, concatenate, leaves, map_tensors, primary
from mpo.optimizer.data.subject import Kind, Metric
from mpo.optimizer.data.tasks import class_logits, is_classification
from mpo.optimizer.ground.usercode import guarded
from mpo.records import Quality

RESAMPLES = 200
Interval = tuple[float, float]


class Tally(Protocol):
    """Takes in a split's outputs batch by batch and ends with its quality."""

    def add(self, batch: Batch, outputs: Any) -> None:
        """Take in one batch."""
        ...

    def result(self, *, interval: bool) -> Quality:
        """The quality so far; without `interval` the interval is the value itself."""
        ...


class Accuracy:
    """Top-1 accuracy over all labels that count, with a Wilson interval."""

    def __init__(self) -> None:
        self.right = self.labels = self.samples = 0

    def add(self, batch: Batch, outputs: Any) -> None:
        """Count the decisions that equal their label."""
        logits, labels = class_logits(outputs, batch.targets)
        self.right += int((logits.argmax(-1) == labels).sum())
        self.labels += len(labels)
        self.samples += batch.size

    def result(self, *, interval: bool) -> Quality:
        """Share of right decisions in [0, 1]."""
        if self.labels == 0:
            raise UsageError(
                f"None of the {self.samples} examples has a label that counts (all are -100).",
                hint="Give targets that are class numbers from 0.",
            )
        ends = wilson_interval(self.right, self.labels)
        value = self.right / self.labels
        return _quality("accuracy", value, self.samples, ends if interval else (value, value))


class Agreement:
    """Share of decisions that equal the original's; for values 1 - relative squared error."""

    def __init__(self, original: Callable[[Batch], Any], kind: Kind | None) -> None:
        self.original, self.kind = original, kind
        self.same = self.decisions = self.samples = 0
        self.error: list[Tensor] = []
        self.power: list[Tensor] = []

    def add(self, batch: Batch, outputs: Any) -> None:
        """Compare one batch with the original's outputs."""
        ours, theirs = primary(outputs), primary(self.original(batch))
        if self.kind is None:
            self.kind = "logits" if is_classification(theirs, None) else "values"
        if self.kind == "logits":
            self.same += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
            self.decisions += theirs.shape[:-1].numel()
        else:
            self.error.append(_power(ours - theirs, batch.size))
            self.power.append(_power(theirs, batch.size))
        self.samples += batch.size

    def result(self, *, interval: bool) -> Quality:
        """Agreement in [0, 1], or 1 - error / power, which may be negative."""
        if self.kind == "logits":
            value = self.same / self.decisions
            ends = wilson_interval(self.same, self.decisions) if interval else (value, value)
            return _quality("agreement", value, self.samples, ends)
        error, power = torch.cat(self.error), torch.cat(self.power)

        def likeness(rows: Tensor) -> float:
            return 1.0 - float(error[rows].sum() / power[rows].sum().clamp_min(1e-30))

        value = likeness(torch.arange(len(error)))
        ends = bootstrap(likeness, len(error)) if interval else (value, value)
        return _quality("1 - relative squared error", value, self.samples, ends)


class OwnMetric:
    """The user's metric on the whole split at once, with a bootstrap interval over examples."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.outputs: list[Any] = []
        self.targets: list[Any] = []
        self.samples = 0

    def add(self, batch: Batch, outputs: Any) -> None:
        """Keep outputs and targets."""
        self.outputs.append(outputs)
        self.targets.append(batch.targets)
        self.samples += batch.size

    def result(self, *, interval: bool) -> Quality:
        """The metric's value; ragged outputs reach it as lists and get no interval."""
        outputs, targets = concatenate(self.outputs), concatenate(self.targets)
        value = float(guarded("metric()", lambda: self.metric(outputs, targets)))
        if not math.isfinite(value):
            raise UsageError(
                f"metric() gave {value} on {self.samples} examples.", hint="Return a finite number."
            )
        ends = self._interval(outputs, targets, value) if interval else (value, value)
        lower = bool(getattr(self.metric, "lower_is_better", False))
        name = getattr(self.metric, "__name__", "metric")
        return _quality(name, value, self.samples, ends, lower=lower)

    def _interval(self, outputs: Any, targets: Any, value: float) -> Interval:
        tensors = [*leaves(outputs), *leaves(targets)]
        if not tensors or any(t.dim() == 0 or t.shape[0] != self.samples for t in tensors):
            return value, value

        def resampled(rows: Tensor) -> float:
            chosen = [map_tensors(x, lambda t: t[rows]) for x in (outputs, targets)]
            try:
                return float(self.metric(*chosen))
            except (ArithmeticError, ValueError, RuntimeError, IndexError):
                return math.nan  # a resample may lack a class that the metric needs

        return bootstrap(resampled, self.samples)


def bootstrap(statistic: Callable[[Tensor], float], count: int) -> Interval:
    """Percentile bootstrap 95 % interval over examples, seeded (Efron & Tibshirani 1993, ch. 13).

    Draws that are not finite are left out.
    """
    generator = torch.Generator().manual_seed(0)
    draws = [
        statistic(torch.randint(count, (count,), generator=generator)) for _ in range(RESAMPLES)
    ]
    finite = [draw for draw in draws if math.isfinite(draw)]
    if not finite:
        value = statistic(torch.arange(count))
        return value, value
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)


def _power(values: Tensor, examples: int) -> Tensor:
    return values.reshape(examples, -1).double().square().sum(1)


def _quality(
    metric: str, value: float, samples: int, ends: Interval, *, lower: bool = False
) -> Quality:
    return Quality(metric=metric, value=value, samples=samples, ci95=ends, lower_is_better=lower)
