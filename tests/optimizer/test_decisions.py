"""What outputs decide: margins, certificates, positions, sides, and distances."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mpo.errors import UsageError
from mpo.optimizer.data.batches import Batch
from mpo.optimizer.decisions.decisions import Reading, Tallied, margins, reading_of


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch(size: int = 8, targets: object = None) -> Batch:
    return Batch((torch.zeros(size, 4),), {}, targets)


def test_the_margin_is_the_largest_logit_less_the_second() -> None:
    assert margins(torch.tensor([[1.0, 4.0, 3.5]])).tolist() == [0.5]


@given(st.integers(0, 10_000), st.floats(0, 3))
def test_a_certified_decision_has_never_turned(seed: int, size: float) -> None:
    ours = drawn(seed, 64, 5)
    theirs = ours + size * drawn(seed + 1, 64, 5) + 7  # a shift of all logits changes nothing
    found = Tallied(Reading("classes", classes=5))
    found.add(batch(64), ours, theirs)
    assert not (found.certified & found.differ).any()
    if size == 0:
        assert found.certified.mean() > 0.9


def test_equal_models_differ_nowhere_and_diverge_by_nothing() -> None:
    found = Tallied(Reading("classes", classes=3))
    found.add(batch(), drawn(0, 8, 3), drawn(0, 8, 3))
    assert not found.differ.any()
    assert found.column("kl").max() == 0
    assert found.equal == found.positions == len(found) == 8


def test_one_position_stands_for_each_example_and_padding_never_does() -> None:
    mask = torch.ones(4, 6, dtype=torch.long)
    mask[:, 2:] = 0
    example = Batch((), {"input_ids": torch.zeros(4, 6, dtype=torch.long), "attention_mask": mask})
    ours, theirs = drawn(0, 4, 6, 3), drawn(0, 4, 6, 3)
    theirs[:, 2:] = -ours[:, 2:]  # all padding differs
    found = Tallied(Reading("positions", classes=3))
    found.add(example, ours, theirs)
    assert len(found) == 4
    assert found.positions == 8
    assert not found.differ.any()


def test_a_value_decides_by_its_side_of_a_threshold() -> None:
    reading = reading_of(torch.tensor([[1.0], [3.0]]), batch(2), None, 2.0)
    logits = reading.logits(torch.tensor([[1.0], [3.5]]), batch(2))
    assert logits.argmax(-1).tolist() == [0, 1]
    assert margins(logits).tolist() == [1.0, 1.5]


def test_values_are_compared_by_their_largest_difference() -> None:
    found = Tallied(Reading("values"))
    found.add(batch(2), torch.zeros(2, 3), torch.tensor([[0.1, -0.5, 0.2], [0.0, 0.0, 0.3]]))
    assert found.column("distance").tolist() == pytest.approx([0.5, 0.3])


def test_other_label_spaces_are_refused() -> None:
    found = Tallied(Reading("classes", classes=3))
    with pytest.raises(UsageError, match="3 classes, the other among 4"):
        found.add(batch(), drawn(0, 8, 3), drawn(0, 8, 4))


def test_other_shapes_of_values_are_refused() -> None:
    with pytest.raises(UsageError, match="values of shape"):
        Tallied(Reading("values")).add(batch(2), torch.zeros(2, 3), torch.zeros(2, 4))


def test_a_threshold_for_many_values_is_refused() -> None:
    with pytest.raises(UsageError, match="one value an example"):
        reading_of(torch.zeros(2, 3), batch(2), None, 0.0)
