"""A subject narrowed to some classes decides as the whole one does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import mpo
from mpo.errors import UsageError
from mpo.optimizer.data.narrow import Narrow, narrowed, retold
from mpo.optimizer.data.subject import Subject


def logits(seed: int = 0) -> Tensor:
    return torch.randn(256, 5, generator=torch.Generator().manual_seed(seed))


def test_decisions_are_those_of_the_whole_model() -> None:
    whole = logits()
    narrow = Narrow(nn.Identity(), (3, 1))(whole)
    assert narrow.shape == (256, 3)
    assert torch.equal(narrow.argmax(1), retold(whole.argmax(1), (3, 1)))


def test_targets_are_retold_and_ignored_ones_stay() -> None:
    assert retold(torch.tensor([0, 3, 1, -100]), (3, 1)).tolist() == [2, 0, 1, -100]
    with pytest.raises(UsageError, match="no class numbers"):
        retold(torch.tensor([0.5]), (1,))


def test_a_narrowed_subject_keeps_its_splits_and_drops_what_serves_all_classes() -> None:
    rows = [(logits(1), logits(1).argmax(1)), (logits(2), logits(2).argmax(1))]
    data = mpo.Data(train=rows, validation=rows, test=lambda: rows)
    whole = Subject(model=nn.Linear(5, 5), data=data, metric=lambda outputs, targets: 0.0)
    one = narrowed(whole, (4,))
    assert one.metric is None
    splits = one.splits()
    for split in (splits.train, splits.test):
        for batch, (x, y) in zip(split, rows, strict=True):
            assert torch.equal(batch.args[0], x)
            assert batch.targets is not None
            assert torch.equal(batch.targets, (y != 4).long())
    assert any("Narrowed to the classes 4" in note for note in splits.notes)
    assert any("metric()" in note for note in splits.notes)


@pytest.mark.parametrize("classes", [(), (1, 1), (-1,)])
def test_what_is_no_set_of_classes_is_refused(classes: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="no set of classes"):
        narrowed(Subject(model=nn.Identity(), data=mpo.Data(train=[])), classes)


@pytest.mark.parametrize("classes", [(5,), (0, 1, 2, 3, 4)])
def test_classes_that_the_model_lacks_or_all_of_them_are_refused(classes: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="others beside them"):
        Narrow(nn.Identity(), classes)(logits())
