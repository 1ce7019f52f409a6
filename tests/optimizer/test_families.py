"""The family sweep: on every kind of network in the zoo blocks are found, a quarter of them goes,
and what is left runs, trains, and comes back from disk the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from mpo.optimizer.blocks.costs import count_macs, count_params
from mpo.optimizer.blocks.finding import find_blocks
from mpo.optimizer.blocks.surgery import remove_blocks
from mpo.optimizer.data.batches import Batch, forward, primary, take
from mpo.optimizer.files.artifact import load_pruned, save_model
from tests.optimizer.zoo import ZOO

WITH_BLOCKS = [name for name, kind in ZOO.items() if kind.removable]


def test_the_sweep_covers_at_least_sixteen_architectures() -> None:
    assert len(ZOO) >= 16


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.case(45)
def test_every_candidate_is_removable_or_says_why_not(name: str) -> None:
    kind = ZOO[name]
    blocks = find_blocks(kind.make(), kind.batch())
    assert sum(block.removable for block in blocks) == kind.removable
    kept = [block for block in blocks if not block.removable]
    assert len(kept) == kind.kept
    assert all(block.reason.endswith(".") for block in kept)
    assert not kept or any(kind.reason in block.reason for block in kept)
    assert all(block.reason == "" for block in blocks if block.removable)


@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_a_quarter_of_the_blocks_goes_and_the_rest_lives(name: str, tmp_path: Path) -> None:
    kind = ZOO[name]
    model, batch = kind.make(), kind.batch()
    removable = [block for block in find_blocks(model, batch) if block.removable]
    gone = [block.name for block in removable[1::4]]
    assert gone
    smaller = remove_blocks(model, gone)
    expected = count_params(model) - sum(b.params for b in removable if b.name in gone)
    assert count_params(smaller) == expected
    assert count_macs(smaller, batch) < count_macs(model, batch)
    for size in (1, 3):
        small, whole = (_output(m, take(batch, size)) for m in (smaller, model))
        assert small.shape == whole.shape
    save_model(smaller, tmp_path / "model.safetensors")
    again = load_pruned(kind.make, gone, tmp_path / "model.safetensors")
    assert again.state_dict().keys() == smaller.state_dict().keys()
    torch.testing.assert_close(_output(again, batch), _output(smaller, batch))
    _train_a_step(smaller, batch)


@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_half_and_all_of_the_blocks_go_together_as_if_bypassed(name: str) -> None:
    kind = ZOO[name]
    model, batch = kind.make(), kind.batch()
    removable = [block.name for block in find_blocks(model, batch) if block.removable]
    for gone in (removable[::2], removable):
        _check_same_as_bypassed(model, batch, gone)


def _check_same_as_bypassed(model: nn.Module, batch: Batch, gone: list[str]) -> None:
    smaller = remove_blocks(model, gone)
    from mpo.optimizer.blocks.bypass import bypass

    with bypass(model, gone):
        expected = _output(model, batch)
    torch.testing.assert_close(_output(smaller, batch), expected, rtol=1e-4, atol=1e-5)


def _output(model: nn.Module, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return primary(forward(model, batch))


def _train_a_step(model: nn.Module, batch: Batch) -> None:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    loss = primary(forward(model, batch)).float().square().mean()
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    changed = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert sum(changed) > len(changed) / 2
