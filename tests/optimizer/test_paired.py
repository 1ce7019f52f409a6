"""Two models judged on the same examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mpo
from mpo.errors import UsageError
from mpo.optimizer.data.batches import Batch
from mpo.optimizer.data.paired import Loss, compare
from mpo.optimizer.data.quality import drop, evaluate
from mpo.optimizer.data.splits import Split
from mpo.optimizer.data.subject import Subject

Answer = Callable[[Batch], Any]
EXAMPLES, CLASSES = 400, 4


def noisy(seed: int, wrong: float) -> Answer:
    """A model whose decision is the input's first number, but for a share of the examples."""

    def answer(batch: Batch) -> Tensor:
        (x,) = batch.args
        truth = x[..., 0].long()
        torch.manual_seed(seed + int(x.flatten()[1]))
        flipped = torch.rand(truth.shape) < wrong
        return nn.functional.one_hot((truth + flipped) % CLASSES, CLASSES).float()

    return answer


def split(*, labelled: bool = True, tokens: int = 0) -> Split:
    """Examples whose label is their first number; the second one numbers the batch."""
    rows: list[Any] = []
    for number in range(EXAMPLES // 50):
        shape = (50, tokens) if tokens else (50,)
        labels = torch.randint(CLASSES, shape, generator=torch.Generator().manual_seed(number))
        inputs = torch.stack([labels.float(), torch.full(shape, float(number))], -1)
        rows.append((inputs, labels) if labelled else inputs)
    return Split(rows, "validation")


def subject(metric: Any = None, outputs: Any = None) -> Subject:
    return Subject(nn.Identity(), mpo.Data(train=[]), metric=metric, outputs=outputs)


def judged(
    ours: Answer, found: Split, of: Subject | None = None, theirs: Answer | None = None
) -> Loss:
    return compare(
        theirs or noisy(0, 0.05), ours, of or subject(), found, alpha=0.025, allowed=0.02
    )


def test_the_drop_is_that_of_both_qualities_and_counts_say_where_from() -> None:
    found, theirs, ours = split(), noisy(0, 0.05), noisy(1, 0.08)
    loss = judged(ours, found)
    both = [evaluate(one, subject(), found, theirs) for one in (theirs, ours)]
    assert loss.drop == pytest.approx(drop(*both))
    assert loss.method == "score"
    assert loss.samples == EXAMPLES
    assert loss.lost is not None
    assert loss.gained is not None
    assert loss.drop == pytest.approx((loss.lost - loss.gained) / EXAMPLES)
    assert loss.bound is not None
    assert loss.bound > loss.drop


def test_pairing_makes_the_bound_of_two_models_that_err_alike_much_nearer() -> None:
    """Of 20 % errors 19 in 20 are shared: unpaired intervals would be four points wide."""
    found, same = split(), noisy(0, 0.2)
    loss = judged(same, found, theirs=same)
    assert loss.drop == 0
    assert loss.bound is not None
    assert loss.bound < 0.01
    assert loss.needed is None


def test_agreement_with_the_original_has_an_exact_bound_since_nothing_can_be_gained() -> None:
    loss = judged(noisy(0, 0.01), split(labelled=False), theirs=noisy(0, 0.0))
    assert (loss.method, loss.gained) == ("exact", 0)
    assert loss.lost is not None
    assert loss.bound is not None
    assert loss.drop == loss.lost / EXAMPLES < loss.bound
    assert (loss.needed or 0) > EXAMPLES


def test_tokens_of_one_example_are_drawn_together() -> None:
    """All tokens of an example err alike, so that there are 400 examples and not 3,200."""

    def together(wrong: float) -> Answer:
        def answer(batch: Batch) -> Tensor:
            (x,) = batch.args
            truth = x[..., 0].long()
            torch.manual_seed(int(x.flatten()[1]))
            flipped = (torch.rand(len(truth)) < wrong)[:, None]
            return nn.functional.one_hot((truth + flipped) % CLASSES, CLASSES).float()

        return answer

    loss = judged(together(0.1), split(tokens=8), theirs=together(0.0))
    assert loss.method == "bootstrap"
    assert loss.samples == EXAMPLES
    assert loss.bound is not None
    wide = 1.96 * np.sqrt(0.09 / EXAMPLES)
    assert loss.bound - loss.drop == pytest.approx(wide, rel=0.3)


def test_the_users_metric_is_drawn_for_both_models_on_the_same_examples() -> None:
    def error(outputs: Tensor, targets: Tensor) -> float:
        return float((outputs.argmax(-1) != targets).float().mean())

    error.lower_is_better = True  # type: ignore[attr-defined]
    own = judged(noisy(1, 0.08), split(), subject(error))
    counted = judged(noisy(1, 0.08), split())
    assert own.method == "bootstrap"
    assert own.drop == pytest.approx(counted.drop)
    assert own.bound is not None
    assert counted.bound is not None
    assert own.bound == pytest.approx(counted.bound, abs=0.006)


def test_a_metric_that_cannot_be_drawn_anew_has_its_value_and_no_bound() -> None:
    def share(outputs: Any, targets: Any) -> float:
        return float((outputs[0].argmax(-1) == targets).float().mean())

    def whole(answer: Answer) -> Answer:
        return lambda batch: (answer(batch), torch.zeros(()))  # a scalar has no examples

    loss = judged(whole(noisy(1, 0.08)), split(), subject(share), whole(noisy(0, 0.05)))
    assert (loss.method, loss.bound) == ("point", None)


def test_values_without_targets_lose_variance() -> None:
    def values(scale: float) -> Answer:
        return lambda batch: batch.args[0][:, :1] * scale + 1.0

    loss = judged(values(0.9), split(labelled=False), subject(outputs="values"), values(1.0))
    assert loss.method == "bootstrap"
    assert 0 < loss.drop < 0.01
    assert loss.bound is not None
    assert loss.drop < loss.bound


def test_an_empty_split_is_named() -> None:
    with pytest.raises(UsageError, match="validation split is empty"):
        judged(noisy(0, 0.0), Split([], "validation"))
