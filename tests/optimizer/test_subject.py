from collections.abc import Iterator

import pytest
import torch
from torch import nn

import mpo
from mpo.errors import UsageError
from mpo.optimizer.data.splits import Split, carve, to_batch
from mpo.optimizer.data.subject import Subject


def batches(count: int, size: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    rows = torch.arange(count * size).reshape(count, size)
    return [(row.float()[:, None], row) for row in rows]


def values(split: Split) -> list[int]:
    return [int(t) for batch in split for t in batch.targets]  # type: ignore[union-attr]


def test_a_pair_is_inputs_and_targets() -> None:
    batch = to_batch((torch.ones(3, 2), torch.zeros(3)))
    assert batch.args[0].shape == (3, 2)
    assert batch.targets is not None


def test_a_tuple_of_inputs_is_positional_and_a_dict_is_keywords() -> None:
    one, two = torch.ones(2, 1), torch.zeros(2, 1)
    assert to_batch(((one, two), None)).args == (one, two)
    assert to_batch(({"x": one}, two)).kwargs == {"x": one}


def test_a_bare_dict_with_labels_splits_them_off() -> None:
    batch = to_batch({"input_ids": torch.ones(2, 3), "labels": torch.zeros(2)})
    assert set(batch.kwargs) == {"input_ids"}
    assert batch.targets is not None


def test_a_batch_without_tensors_is_refused() -> None:
    with pytest.raises(UsageError, match="no tensor"):
        to_batch(("a", "b"))


def test_missing_splits_are_carved_without_overlap_and_by_seed() -> None:
    splits = carve(mpo.Data(train=batches(10)), seed=0)
    parts = [values(s) for s in (splits.train, splits.validation, splits.test)]
    assert sorted(value for part in parts for value in part) == list(range(40))
    assert [len(part) for part in parts] == [32, 4, 4]
    again = carve(mpo.Data(train=batches(10)), seed=0)
    other = carve(mpo.Data(train=batches(10)), seed=1)
    assert values(again.test) == parts[2]
    assert values(other.test) != parts[2]
    assert "Carved off" in splits.notes[0]


def test_carving_keeps_splits_apart_when_train_reshuffles() -> None:
    generator = torch.Generator().manual_seed(0)

    def reshuffled() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for row in torch.randperm(40, generator=generator).reshape(10, 4):
            yield row.float()[:, None], row

    splits = carve(mpo.Data(train=reshuffled), seed=0)
    assert not set(values(splits.train)) & set(values(splits.test))
    assert values(splits.test) == values(splits.test)


@pytest.mark.parametrize("source", [[], lambda: iter([])])
def test_empty_data_is_refused(source: object) -> None:
    with pytest.raises(UsageError, match="empty"):
        carve(mpo.Data(train=source, validation=batches(1), test=batches(1)), 0)  # type: ignore[arg-type]


def test_too_few_examples_to_carve_are_refused() -> None:
    with pytest.raises(UsageError, match="has 4 examples"):
        carve(mpo.Data(train=batches(1)), 0)


def test_a_one_shot_iterator_is_refused() -> None:
    with pytest.raises(UsageError, match="one-shot"):
        carve(mpo.Data(train=iter(batches(3))), 0)


def test_a_model_that_raises_becomes_a_usage_error_with_its_words() -> None:
    def broken() -> nn.Module:
        raise RuntimeError("no such checkpoint")

    subject = Subject(model=broken, data=mpo.Data(train=batches(10)))
    with pytest.raises(UsageError, match="no such checkpoint"):
        subject.build()


def test_model_and_data_of_the_wrong_type_are_named() -> None:
    subject = Subject(model=lambda: 3, data=lambda: [1])  # type: ignore[arg-type, return-value]
    with pytest.raises(UsageError, match="returned int"):
        subject.build()
    with pytest.raises(UsageError, match="returned list"):
        subject.splits()


def test_building_copies_a_module_in_memory_and_leaves_it_alone() -> None:
    model = nn.Linear(2, 2).train()
    built = Subject(model=model, data=mpo.Data(train=batches(10))).build()
    assert built is not model
    assert not built.training
    assert model.training
