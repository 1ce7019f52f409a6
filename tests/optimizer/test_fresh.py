"""Examples told apart by content."""

from __future__ import annotations

import torch

from mpo.optimizer.data.batches import Batch
from mpo.optimizer.decisions.fresh import Fresh, known_keys, row_keys, shuffled


def batch(*rows: float) -> Batch:
    values = torch.tensor(rows).unsqueeze(1)
    return Batch((values,), {}, torch.arange(len(rows)))


def test_equal_inputs_have_equal_keys_and_targets_do_not_count() -> None:
    one, other = row_keys(batch(1.0, 2.0)), row_keys(batch(2.0, 1.0))
    assert one == other[::-1]
    assert one[0] != one[1]


def test_examples_seen_in_training_are_left_out_and_counted() -> None:
    fresh = Fresh([batch(1.0, 2.0, 3.0), batch(2.0)], known_keys([batch(2.0)]))
    left = [value for part in fresh for value in part.args[0].flatten().tolist()]
    assert left == [1.0, 3.0]
    assert fresh.duplicates == 2


def test_shuffled_parts_hold_every_example_once() -> None:
    count, part = shuffled([batch(*map(float, range(5))), batch(5.0, 6.0)], seed=0)
    assert count == 7
    parts = [part(0, 3), part(3, 7)]
    seen = [v for some in parts for one in some for v in one.args[0].flatten().tolist()]
    assert sorted(seen) == list(map(float, range(7)))
    assert seen != sorted(seen)
