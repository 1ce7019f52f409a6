"""How good a model is: the subject's metric on a split, with a 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mpo.errors import UsageError
from mpo.gate import wilson_interval
from mpo.optimizer.batches import Batch, concatenate, forward, leaves, map_tensors, primary
from mpo.optimizer.subject import Split, Subject, guarded
from mpo.optimizer.tasks import is_classification, top1_accuracy
from mpo.records import Quality

RESAMPLES = 200
Predict = Callable[[Batch], Any]


def predictor(model: nn.Module) -> Predict:
    """The model as a function of a batch, in eval mode and without gradients."""

    def predict(batch: Batch) -> Any:
        with torch.no_grad():
            return forward(model.eval(), batch)

    return predict


def evaluate(predict: Predict, subject: Subject, split: Split, original: Predict) -> Quality:
    """Judge `predict` on a split.

    With targets: the subject's metric, called once on the whole split. Without: agreement with
        `original`, which is the share of equal decisions for class outputs, and 1 - relative
        squared error for any other.

    Raises:
        UsageError: a model or metric that raises, no finite outputs, labels out of range.
    """
    batches, outputs, targets = [], [], []
    for batch in split:
        answer = guarded("The model", lambda batch=batch: predict(batch))  # type: ignore[misc]
        require_finite(primary(answer), split.name)
        batches.append(batch)
        outputs.append(detach(answer))
        targets.append(batch.targets)
    count = sum(batch.size for batch in batches)
    if targets[0] is None:
        wanted = [detach(original(batch)) for batch in batches]
        return _agreement(concatenate(outputs), concatenate(wanted), count)
    return _task_quality(subject, concatenate(outputs), concatenate(targets), count)


def detach(outputs: Any) -> Any:
    """Outputs that can be kept: no graph, and of a model output only its mapping."""
    if hasattr(outputs, "items") and not isinstance(outputs, dict):
        outputs = dict(outputs.items())
    return map_tensors(outputs, lambda tensor: tensor.detach())


def require_finite(outputs: Tensor, where: str) -> None:
    """Raise UsageError when outputs hold NaN or infinity."""
    bad = int((~torch.isfinite(outputs)).sum())
    if bad:
        raise UsageError(
            f"The model gives {bad} of {outputs.numel()} outputs as NaN or infinity "
            f"on the {where} split.",
            hint="Check the weights and the preprocessing: a broken model cannot be judged.",
        )


def _agreement(outputs: Any, wanted: Any, count: int) -> Quality:
    ours, theirs = primary(outputs), primary(wanted)
    if is_classification(theirs, None):
        same = (ours.argmax(-1) == theirs.argmax(-1)).float().reshape(-1)
        low, high = wilson_interval(int(same.sum()), len(same))
        return Quality(
            metric="agreement", value=float(same.mean()), samples=count, ci95=(low, high)
        )
    error = (ours - theirs).reshape(count, -1).double().square().sum(1)
    power = theirs.reshape(count, -1).double().square().sum(1)

    def similarity(rows: Tensor) -> float:
        return 1.0 - float(error[rows].sum() / power[rows].sum().clamp_min(1e-30))

    value = similarity(torch.arange(count))
    low, high = bootstrap(similarity, count)
    return Quality(
        metric="1 - relative squared error", value=value, samples=count, ci95=(low, high)
    )


def _task_quality(subject: Subject, outputs: Any, targets: Any, count: int) -> Quality:
    metric = subject.metric or top1_accuracy
    name = "accuracy" if subject.metric is None else getattr(metric, "__name__", "metric")
    value = float(guarded("metric()", lambda: metric(outputs, targets)))
    if not math.isfinite(value):
        raise UsageError(
            f"metric() gave {value} on {count} examples.", hint="Return a finite number."
        )
    if subject.metric is None:
        labels = targets.numel() if isinstance(targets, Tensor) else count
        low, high = wilson_interval(round(value * labels), labels)
    else:
        low, high = _bootstrap_metric(metric, outputs, targets, count, value)
    lower = bool(getattr(metric, "lower_is_better", False))
    return Quality(metric=name, value=value, samples=count, ci95=(low, high), lower_is_better=lower)


def _bootstrap_metric(
    metric: Callable[[Any, Any], Any], outputs: Any, targets: Any, count: int, value: float
) -> tuple[float, float]:
    tensors = [*leaves(outputs), *leaves(targets)]
    if not tensors or any(t.dim() == 0 or t.shape[0] != count for t in tensors):
        return value, value  # ragged outputs cannot be resampled by row

    def resampled(rows: Tensor) -> float:
        def pick(tensor: Tensor) -> Tensor:
            return tensor[rows]

        return float(metric(map_tensors(outputs, pick), map_tensors(targets, pick)))

    return bootstrap(resampled, count)


def bootstrap(statistic: Callable[[Tensor], float], count: int) -> tuple[float, float]:
    """Percentile bootstrap 95 % interval over examples, seeded (Efron & Tibshirani 1993, ch.
    13)."""
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


def drop(original: Quality, candidate: Quality) -> float:
    """How much worse the candidate is: points for a metric in [0, 1], relative otherwise; negative
    when better."""
    worse = original.value - candidate.value
    if original.lower_is_better:
        worse = -worse
    if 0.0 <= original.value <= 1.0 and 0.0 <= candidate.value <= 1.0:
        return worse
    return worse / max(abs(original.value), 1e-12)


def check_model(model: nn.Module, batch: Batch) -> Any:
    """Run the model once and return its outputs.

    Raises:
        UsageError: it raises, returns no tensor, or gives NaN.
    """
    outputs = guarded("The model", lambda: predictor(model)(batch))
    require_finite(primary(outputs), "train")
    return outputs
