from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import mpo.optimizer.training.recover
from mpo.errors import MpoError
from mpo.optimizer.files.snapshots import TENSORS, Snapshot, read_snapshot, write_snapshot
from mpo.optimizer.ground.randomness import own_randomness
from mpo.optimizer.training.recover import Schedule
from tests.optimizer.training import PER_EPOCH, Kept, loader, network, same, train

KINDS = ("shuffled", "generator", "random")


@pytest.fixture(autouse=True)
def _every_update(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mpo.optimizer.training.recover, "KEEP_SECONDS", 0.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kill_at", [1, 4, PER_EPOCH, PER_EPOCH + 1, 3 * PER_EPOCH])
def test_killed_and_resumed_training_gives_the_same_weights_to_the_last_bit(
    tmp_path: Path, kind: str, kill_at: int
) -> None:
    whole, resumed = network(), network()
    story = train(whole, loader(kind))
    with pytest.raises(KeyboardInterrupt):
        train(resumed, loader(kind), Kept(tmp_path), kill_at=kill_at)
    torch.rand(7), np.random.rand(7), random.random()
    again = network()
    assert train(again, loader(kind), Kept(tmp_path)) == story
    assert same(again, whole)


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    model, again = network(), network()
    story = train(model, loader("shuffled"), Kept(tmp_path))
    assert train(again, loader("shuffled"), Kept(tmp_path), kill_at=1) == story
    assert same(model, again)


def test_snapshots_alone_change_nothing(tmp_path: Path) -> None:
    plain, kept = network(), network()
    train(plain, loader("random"))
    train(kept, loader("random"), Kept(tmp_path))
    assert same(plain, kept)


def test_training_leaves_all_random_numbers_as_they_were() -> None:
    with own_randomness(3):
        wanted = (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random())
    model = network()
    with own_randomness(3):
        train(model, loader("random"))
        found = (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random())
    assert found == wanted


def test_a_changed_snapshot_is_not_read(tmp_path: Path) -> None:
    write_snapshot(tmp_path, Snapshot(3, {"weights/a": torch.ones(4)}, {"x": 1}))
    assert read_snapshot(tmp_path).step == 3
    raw = bytearray((tmp_path / TENSORS).read_bytes())
    raw[-1] ^= 1
    (tmp_path / TENSORS).write_bytes(raw)
    with pytest.raises(MpoError, match="not whole"):
        read_snapshot(tmp_path)


def test_gradients_of_several_batches_make_one_update_of_their_joint_batch() -> None:
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    y = x[:, :3].argmax(1)
    torch.manual_seed(0)
    one = nn.Linear(4, 3)
    two = nn.Linear(4, 3)
    two.load_state_dict(one.state_dict())
    train(one, [(x, y)], schedule=Schedule(1e-2, 2))
    parts = [(x[:24], y[:24]), (x[24:], y[24:])]
    train(two, parts, schedule=Schedule(1e-2, 2, accumulate=2))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
