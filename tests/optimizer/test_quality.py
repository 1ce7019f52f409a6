import pytest
import torch
from torch import Tensor, nn

import mpo
from mpo.errors import UsageError
from mpo.optimizer.data.quality import drop, evaluate, predictor
from mpo.optimizer.data.splits import Split
from mpo.optimizer.data.subject import Subject
from mpo.optimizer.data.tasks import class_logits, top1_accuracy
from mpo.records import Quality


class Echo(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def split(logits: Tensor, targets: Tensor | None) -> Split:
    half = len(logits) // 2
    pairs = [
        (logits[:half], None if targets is None else targets[:half]),
        (logits[half:], None if targets is None else targets[half:]),
    ]
    return Split(pairs, "test")


def subject(**options: object) -> Subject:
    return Subject(model=Echo(), data=mpo.Data(train=[]), **options)  # type: ignore[arg-type]


def quality(value: float, *, lower: bool = False) -> Quality:
    return Quality(metric="m", value=value, samples=9, ci95=(0, 1), lower_is_better=lower)


def test_accuracy_over_a_whole_split_with_a_wilson_interval() -> None:
    logits = torch.eye(4)
    found = evaluate(
        predictor(Echo()), subject(), split(logits, torch.tensor([0, 1, 2, 0])), predictor(Echo())
    )
    assert found.value == 0.75
    assert found.samples == 4
    assert found.ci95[0] < 0.75 < found.ci95[1] < 1


def test_bare_inputs_are_judged_by_agreement_with_the_original() -> None:
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 3.0]])
    flipped = predictor(nn.Sequential(nn.Linear(2, 2)))
    same = evaluate(predictor(Echo()), subject(), split(logits, None), predictor(Echo()))
    assert (same.metric, same.value) == ("agreement", 1.0)
    other = evaluate(lambda b: -b.args[0], subject(), split(logits, None), predictor(Echo()))
    assert other.value == 0.0
    assert flipped is not None


def test_a_custom_metric_is_called_once_on_the_whole_split() -> None:
    sizes = []

    def mean_error(outputs: Tensor, targets: Tensor) -> float:
        sizes.append(len(outputs))
        return float((outputs[:, 0] - targets).abs().mean())

    mean_error.lower_is_better = True  # type: ignore[attr-defined]
    data = split(torch.arange(8.0).reshape(4, 2), torch.zeros(4))
    found = evaluate(predictor(Echo()), subject(metric=mean_error), data, predictor(Echo()))
    assert sizes[0] == 4
    assert found.lower_is_better
    assert found.value == 3.0
    assert found.ci95[0] <= 3.0 <= found.ci95[1]


def test_nan_outputs_are_refused_with_their_count() -> None:
    logits = torch.tensor([[1.0, float("nan")], [0.0, 1.0]])
    with pytest.raises(UsageError, match="1 of 2 outputs"):
        evaluate(predictor(Echo()), subject(), split(logits, None), predictor(Echo()))


def test_labels_out_of_range_are_refused_with_the_label() -> None:
    with pytest.raises(UsageError, match="label is 7"):
        top1_accuracy(torch.zeros(2, 3), torch.tensor([0, 7]))
    with pytest.raises(UsageError, match="label is -1"):
        top1_accuracy(torch.zeros(2, 3), torch.tensor([0, -1]))


def test_token_and_pixel_logits_are_flattened_and_ignored_labels_left_out() -> None:
    tokens = torch.zeros(2, 5, 7)
    labels = torch.zeros(2, 5, dtype=torch.long)
    labels[0, 0] = -100
    assert class_logits(tokens, labels)[0].shape == (9, 7)
    pixels = torch.zeros(2, 3, 4, 4)
    assert class_logits(pixels, torch.zeros(2, 4, 4, dtype=torch.long))[0].shape == (32, 3)


def test_drop_is_points_in_the_unit_interval_and_relative_beyond_and_signed() -> None:
    assert drop(quality(0.9), quality(0.8)) == pytest.approx(0.1)
    assert drop(quality(30.0), quality(27.0)) == pytest.approx(0.1)
    assert drop(quality(2.0, lower=True), quality(2.2, lower=True)) == pytest.approx(0.1)
    assert drop(quality(0.8), quality(0.9)) < 0
