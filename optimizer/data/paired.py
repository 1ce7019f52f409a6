"""Two models on the same examples: how much worse the second one is, and how sure that is.

What is judged is what `quality.evaluate` judges: the subject's metric, top-1 accuracy without one,
agreement with the original without targets; but example by example for both models.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpo.errors import UsageError
from mpo.optimizer.data.batches import Batch, concatenate, leaves, map_tensors, primary
from mpo.optimizer.data.drops import Rows, resampled_bound, samples_needed, score_bound, share_bound
from mpo.optimizer.data.quality import Predict, detach, drop, require_finite
from mpo.optimizer.data.splits import Split
from mpo.optimizer.data.subject import Kind, Metric, Subject
from mpo.optimizer.data.tasks import IGNORED, class_logits, is_classification
from mpo.optimizer.ground.usercode import guarded
from mpo.records import Quality
from mpo.records.acceptance import AcceptanceMethod

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Loss:
    """How much worse the candidate is; the fields are those of the `Acceptance` record."""

    drop: float
    bound: float | None
    samples: int
    method: AcceptanceMethod
    lost: int | None = None
    gained: int | None = None
    needed: int | None = None


class Pairing(Protocol):
    """Takes in both models' outputs batch by batch and ends with the loss."""

    def add(self, batch: Batch, theirs: Any, ours: Any) -> None:
        """Take in one batch: the original's outputs and the candidate's."""
        ...

    def loss(self, alpha: float, allowed: float) -> Loss:
        """What was lost, with a bound that is missed with probability alpha."""
        ...


def compare(
    original: Predict, candidate: Predict, subject: Subject, split: Split, *,
    alpha: float, allowed: float,
) -> Loss:  # fmt: skip
    """Judge both models on a split, example by example.

    Args:
        alpha: probability with which the bound may be missed.
        allowed: the drop that `needed` is reckoned for.

    Raises:
        UsageError: a model or metric that raises, no finite outputs, an empty split.
    """
    found: Pairing | None = None
    for batch in split:
        theirs = detach(guarded("The model", lambda batch=batch: original(batch)))  # type: ignore[misc]
        ours = detach(guarded("The model", lambda batch=batch: candidate(batch)))  # type: ignore[misc]
        require_finite(primary(ours), split.name)
        found = found or pairing_of(subject, batch, theirs)
        found.add(batch, theirs, ours)
    if found is None:
        raise UsageError(f"The {split.name} split is empty.", hint="Give at least one batch.")
    return found.loss(alpha, allowed)


def pairing_of(subject: Subject, batch: Batch, theirs: Any) -> Pairing:
    """What compares outputs on batches like this one."""
    if batch.targets is not None:
        return PairedMetric(subject.metric) if subject.metric else PairedDecisions(labelled=True)
    guess: Kind = "logits" if is_classification(primary(theirs), None) else "values"
    if (subject.outputs or guess) == "logits":
        return PairedDecisions(labelled=False)
    return PairedValues()


class PairedDecisions:
    """Right decisions of both models; without labels the original is right by definition.

    One decision an example: the counts decide. Several, as for tokens and pixels, hang together, so
    examples are drawn anew.
    """

    def __init__(self, *, labelled: bool) -> None:
        self.labelled = labelled
        self.samples = 0
        self.lost: list[Tensor] = []
        self.gained: list[Tensor] = []
        self.decisions: list[Tensor] = []

    def add(self, batch: Batch, theirs: Any, ours: Any) -> None:
        """Count by example what is lost and gained."""
        right, mine, example = (
            _labelled(batch, theirs, ours) if self.labelled else _agreeing(batch, theirs, ours)
        )
        for kept, counted in (
            (self.lost, right & ~mine),
            (self.gained, mine & ~right),
            (self.decisions, torch.ones_like(right)),
        ):
            kept.append(torch.bincount(example[counted], minlength=batch.size).cpu())
        self.samples += batch.size

    def loss(self, alpha: float, allowed: float) -> Loss:
        """The share of decisions lost less that gained."""
        lost, gained, decisions = (
            torch.cat(kept).numpy().astype(np.float64)
            for kept in (self.lost, self.gained, self.decisions)
        )
        if not decisions.sum():
            raise UsageError(
                f"None of the {self.samples} examples has a label that counts (all are -100).",
                hint="Give targets that are class numbers from 0.",
            )
        counts = {"lost": int(lost.sum()), "gained": int(gained.sum())}
        if decisions.max() > 1:
            found = resampled(lost - gained, decisions, alpha, allowed)
            return Loss(found.drop, found.bound, self.samples, "bootstrap", **counts)
        samples = int(decisions.sum())
        point = (counts["lost"] - counts["gained"]) / samples

        def bound(times: float) -> float:
            if self.labelled:
                return score_bound(
                    times * counts["lost"], times * counts["gained"], times * samples, alpha
                )
            return share_bound(math.ceil(times * counts["lost"]), math.ceil(times * samples), alpha)

        found_bound = bound(1.0)
        needed = _needed(bound, samples, point, found_bound, allowed)
        method: AcceptanceMethod = "score" if self.labelled else "exact"
        return Loss(point, found_bound, samples, method, needed=needed, **counts)


class PairedValues:
    """Outputs that are no classes, without targets: the original's variance that is lost."""

    def __init__(self) -> None:
        self.error: list[Tensor] = []
        self.power: list[Tensor] = []

    def add(self, batch: Batch, theirs: Any, ours: Any) -> None:
        """Keep squared error and squared output of each example."""
        truth, answer = primary(theirs), primary(ours)
        for kept, values in ((self.error, answer - truth), (self.power, truth)):
            kept.append(values.reshape(batch.size, -1).double().square().sum(1).cpu())

    def loss(self, alpha: float, allowed: float) -> Loss:
        """Squared error over squared output."""
        error, power = (torch.cat(kept).numpy() for kept in (self.error, self.power))
        return resampled(error, power, alpha, allowed)


def resampled(parts: Values, wholes: Values, alpha: float, allowed: float) -> Loss:
    """The drop sum(parts) / sum(wholes) over examples [n], with the bootstrap's bound."""

    def ratio(rows: Rows) -> float:
        whole = float(wholes[rows].sum())
        return float(parts[rows].sum()) / whole if whole else math.nan

    return drawn(ratio, len(parts), alpha, allowed)


def drawn(ratio: Callable[[Rows], float], samples: int, alpha: float, allowed: float) -> Loss:
    """A drop with the bootstrap's bound; where it cannot be drawn anew, the drop alone."""
    point = ratio(np.arange(samples))
    bound = resampled_bound(ratio, samples, alpha)
    if bound is None:
        return Loss(point, None, samples, "point")

    def wider(times: float) -> float:  # the distance shrinks with the root of the examples
        return point + (bound - point) / math.sqrt(times)

    needed = _needed(wider, samples, point, bound, allowed)
    return Loss(point, bound, samples, "bootstrap", needed=needed)


def _needed(
    bound: Callable[[float], float], samples: int, point: float, found: float, allowed: float
) -> int | None:
    if found <= allowed or point >= allowed:
        return None
    return samples_needed(bound, samples, allowed)


class PairedMetric:
    """The user's own metric on the whole split, for both models on the same drawn examples."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.kept: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
        self.samples = 0

    def add(self, batch: Batch, theirs: Any, ours: Any) -> None:
        """Keep both outputs and the targets."""
        for kept, values in zip(self.kept, (theirs, ours, batch.targets), strict=True):
            kept.append(values)
        self.samples += batch.size

    def loss(self, alpha: float, allowed: float) -> Loss:
        """The drop of the metric; outputs that cannot be drawn anew leave the drop alone."""
        theirs, ours, targets = (concatenate(kept) for kept in self.kept)

        def lost(rows: Rows | None = None) -> float:
            before, after = (self._value(one, targets, rows) for one in (theirs, ours))
            return drop(before, after) if before and after else math.nan

        if not all(self._drawable(one) for one in (theirs, ours, targets)):
            return Loss(lost(), None, self.samples, "point")
        found = drawn(lost, self.samples, alpha, allowed)
        return Loss(lost(), found.bound, self.samples, found.method, needed=found.needed)

    def _drawable(self, value: Any) -> bool:
        tensors = leaves(value)
        return bool(tensors) and all(t.dim() > 0 and t.shape[0] == self.samples for t in tensors)

    def _value(self, outputs: Any, targets: Any, rows: Rows | None) -> Quality | None:
        """The metric on drawn examples, None where it gives no number: a draw may lack a class that
        the metric needs. On all examples it must give one."""
        lower = bool(getattr(self.metric, "lower_is_better", False))
        if rows is None:
            value = float(guarded("metric()", lambda: self.metric(outputs, targets)))
        else:
            chosen = torch.from_numpy(rows)
            cut = [map_tensors(x, lambda t: t[chosen.to(t.device)]) for x in (outputs, targets)]
            try:
                value = float(self.metric(*cut))
            except (ArithmeticError, ValueError, RuntimeError, IndexError):
                return None
        if not math.isfinite(value):
            return None
        return Quality(
            metric="metric", value=value, samples=self.samples, ci95=(value, value),
            lower_is_better=lower,
        )  # fmt: skip


def _labelled(batch: Batch, theirs: Any, ours: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Right decisions of both models and the example of each, ignored labels left out."""
    before, labels = class_logits(theirs, batch.targets)
    after, _ = class_logits(ours, batch.targets)
    every = torch.as_tensor(batch.targets).reshape(-1).to(labels.device)
    example = torch.arange(len(every), device=labels.device) // max(1, len(every) // batch.size)
    right, mine = (logits.argmax(-1) == labels for logits in (before, after))
    return right, mine, example[every != IGNORED]


def _agreeing(batch: Batch, theirs: Any, ours: Any) -> tuple[Tensor, Tensor, Tensor]:
    """As `_labelled`, the original's decisions being the labels."""
    same = (primary(theirs).argmax(-1) == primary(ours).argmax(-1)).reshape(-1)
    example = torch.arange(len(same), device=same.device) // max(1, len(same) // batch.size)
    return torch.ones_like(same), same, example
