"""How good a model is: the subject's metric on a split, with a 95 % interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mpo.errors import MpoError, UsageError
from mpo.optimizer.data.batches import Batch, forward, leaves, map_tensors, primary
from mpo.optimizer.data.splits import Split
from mpo.optimizer.data.subject import Subject
from mpo.optimizer.data.tally import Accuracy, Agreement, OwnMetric, Tally
from mpo.optimizer.ground.usercode import guarded
from mpo.records import Quality

TWIN_TOLERANCE = 1e-3  # of the largest output: threads add up in any order
ROUNDING = 1e-9
Predict = Callable[[Batch], Any]


def predictor(model: nn.Module) -> Predict:
    """The model as a function of a batch, in eval mode and without gradients."""

    def predict(batch: Batch) -> Any:
        with torch.no_grad():
            return forward(model.eval(), batch)

    return predict


def evaluate(
    predict: Predict, subject: Subject, split: Split, original: Predict, *, interval: bool = True
) -> Quality:
    """Judge `predict` on a split.

    With targets: the subject's metric (top-1 accuracy without one). Without: agreement with
    `original`, which is the share of equal decisions for class outputs, and 1 - relative squared
    error for any other.

    Args:
        interval: False when only the value is wanted; the interval is then the value itself.

    Raises:
        UsageError: a model or metric that raises, no finite outputs, labels out of range.
    """
    tally: Tally | None = None
    for batch in split:
        answer = guarded("The model", lambda batch=batch: predict(batch))  # type: ignore[misc]
        require_finite(primary(answer), split.name)
        if tally is None:
            tally = tally_of(subject, batch, original)
        tally.add(batch, detach(answer))
    if tally is None:
        raise UsageError(f"The {split.name} split is empty.", hint="Give at least one batch.")
    return tally.result(interval=interval)


def tally_of(subject: Subject, batch: Batch, original: Predict) -> Tally:
    """What judges outputs on batches like this one."""
    if batch.targets is None:
        return Agreement(original, subject.outputs)
    return OwnMetric(subject.metric) if subject.metric else Accuracy()


def detach(outputs: Any) -> Any:
    """Outputs that can be kept: without their graph."""
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


def require_untouched(before: Sequence[Tensor], after: Sequence[Tensor], what: str) -> None:
    """Raise MpoError when a model has written into its own inputs."""
    for number, (was, now) in enumerate(zip(before, after, strict=True), start=1):
        if was.shape != now.shape or not torch.equal(was, now):
            raise MpoError(
                f"{what} writes into its own input (tensor {number} of {len(before)}): the next "
                "pass over the same data would see other data.",
                hint="Copy first in forward(): x = x.clone(); or leave inplace=True out of the "
                "first layer.",
            )


def drop(original: Quality, candidate: Quality) -> float:
    """How much worse the candidate is: points for a metric in [0, 1], relative otherwise; negative
    when better."""
    worse = original.value - candidate.value
    if original.lower_is_better:
        worse = -worse
    if 0.0 <= original.value <= 1.0 and 0.0 <= candidate.value <= 1.0:
        return worse
    return worse / max(abs(original.value), 1e-12)


def exceeds(lost: float, allowed: float) -> bool:
    """Whether a drop is over what is allowed; rounding of shares (0.9 - 0.89) is not."""
    return lost > allowed + ROUNDING


def check_model(model: nn.Module, batch: Batch) -> Any:
    """Run the model once and return its outputs.

    Raises:
        UsageError: it raises, returns no tensor, or gives NaN.
        MpoError: as `check_predict` says.
    """
    return check_predict(predictor(model), batch)


def check_predict(predict: Predict, batch: Batch, what: str = "The model") -> Any:
    """Run a model once and return its outputs.

    Args:
        what: what errors call it.

    Raises:
        UsageError: it raises, returns no tensor, or gives NaN.
        MpoError: it gives another answer the second time, or writes into its inputs.
    """
    given = [leaf.clone() for leaf in leaves((batch.args, batch.kwargs))]
    outputs = guarded(what, lambda: predict(batch))
    require_untouched(given, leaves((batch.args, batch.kwargs)), what)
    require_finite(primary(outputs), "train")
    again = primary(predict(batch))
    apart = float((again - primary(outputs)).abs().max()) if again.numel() else 0.0
    if apart > TWIN_TOLERANCE * float(again.abs().max()):
        raise MpoError(
            f"{what} gives different outputs for the same input in eval mode (by {apart:.3g}).",
            hint="Switch off what is random in evaluation (dropout with training=True, noise), and "
            "let outputs depend on nothing but the input: no clock, no counter.",
        )
    return outputs
