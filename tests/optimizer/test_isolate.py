"""Blocks as modules of their own, on every kind of network of the zoo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mpo.errors import UsageError
from mpo.optimizer.blocks.finding import find_blocks
from mpo.optimizer.blocks.isolate import isolate
from mpo.optimizer.data.batches import Batch, leaves, take
from tests.optimizer.zoo import ZOO

KINDS = {"resnet": 2, "bert": 1, "vit": 1, "qwen2": 2, "bart": 2, "tcn": 4, "mobilenet": 3}


@pytest.mark.parametrize("name", [name for name, kind in ZOO.items() if kind.removable])
def test_every_removable_block_runs_alone_on_what_it_gets_inside(name: str) -> None:
    kind = ZOO[name]
    model, batch = kind.make(), take(kind.batch(), 2)
    names = [block.name for block in find_blocks(model, batch) if block.removable]
    found = isolate(model, names, batch)
    assert list(found) == names
    inside: dict[str, Tensor] = {}

    def keep(own: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            inside.setdefault(own, leaves(output)[0].clone())

        return hook

    for block in names:
        model.get_submodule(block).register_forward_hook(keep(block))
    with torch.no_grad():
        model(*batch.args, **batch.kwargs)
        for block, one in found.items():
            assert (one.reason, one.calls) == ("", 1)
            assert one.module is model.get_submodule(block)
            own = leaves(one.module(*one.args, **one.kwargs))[0]
            assert torch.allclose(own, inside[block], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_blocks_of_one_structure_share_a_key(name: str) -> None:
    kind = ZOO[name]
    model, batch = kind.make(), take(kind.batch(), 2)
    names = [block.name for block in find_blocks(model, batch) if block.removable]
    keys = {one.key for one in isolate(model, names, batch).values()}
    assert len(keys) == KINDS[name]
    more = {one.key for one in isolate(model, names, take(kind.batch(), 3)).values()}
    assert not keys & more  # other shapes are other work


def test_the_model_is_left_as_it_was() -> None:
    model, batch = ZOO["resnet"].make(), ZOO["resnet"].batch()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    isolate(model, ["1.1"], batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_key_value_cache_is_left_out_where_the_block_does_the_same_without() -> None:
    model, batch = ZOO["llama"].make(), take(ZOO["llama"].batch(), 2)
    names = [block.name for block in find_blocks(model, batch) if block.removable]
    for one in isolate(model, names, batch).values():
        held = [v for v in one.kwargs.values() if not isinstance(v, (Tensor, tuple, bool, int))]
        assert set(held) <= {None}


class Twice(nn.Module):
    """Calls its first block twice, its second one inside out, its third one never."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([InPlace(), Counting(), InPlace()])

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[1](self.blocks[0](self.blocks[0](x)))


class InPlace(nn.Module):
    """Writes into its input."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x += self.line(x).relu_()
        return x


class Counting(nn.Module):
    """Adds how often it was called."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + self.calls


def test_blocks_called_again_keep_their_first_call_and_others_say_why_not() -> None:
    torch.manual_seed(0)
    model, x = Twice().eval(), torch.randn(2, 4)
    found = isolate(model, ["blocks.0", "blocks.1", "blocks.2"], Batch((x.clone(),), {}))
    assert found["blocks.0"].calls == 2
    assert torch.equal(found["blocks.0"].args[0], x)  # not what it wrote there since
    assert "other numbers" in found["blocks.1"].reason
    assert "not called" in found["blocks.2"].reason


class Needy(nn.Module):
    """Works only inside its model's forward."""

    ready = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.ready:
            raise RuntimeError("no session is open")
        return x


class Opening(nn.Module):
    """Opens what its block needs, and closes it again."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Needy()

    def forward(self, x: Tensor) -> Tensor:
        self.block.ready = True
        try:
            return self.block(x)
        finally:
            self.block.ready = False


def test_a_block_that_fails_alone_tells_its_own_words() -> None:
    found = isolate(Opening().eval(), ["block"], Batch((torch.ones(2, 3),), {}))
    assert found["block"].reason == "Run alone it fails: no session is open."


def test_an_unknown_block_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"1\.7"):
        isolate(ZOO["resnet"].make(), ["1.7"], ZOO["resnet"].batch())
