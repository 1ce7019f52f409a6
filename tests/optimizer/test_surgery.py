"""remove_blocks: entries gone, counts and indices right, nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mpo.errors import UsageError
from mpo.optimizer.blocks.bypass import NOTE, Passthrough
from mpo.optimizer.blocks.finding import find_blocks
from mpo.optimizer.blocks.surgery import Surgery, remove_blocks
from mpo.optimizer.data.batches import Batch


class Layer(nn.Module):
    """A layer that knows its place, and whose part knows it too."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.layer_idx = index
        self.part = nn.Linear(4, 4)
        self.part.layer_idx = index  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.part(x)


class Stack(nn.Module):
    """Runs as many layers as its configuration counts."""

    def __init__(self, count: int, text: SimpleNamespace) -> None:
        super().__init__()
        self.config = text
        self.num_layers = count
        self.layers = nn.ModuleList(Layer(index) for index in range(count))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[: self.config.num_hidden_layers]:
            x = layer(x)
        return x


class Model(nn.Module):
    """Holds a nested configuration that its stack shares."""

    def __init__(self) -> None:
        super().__init__()
        text = SimpleNamespace(
            num_hidden_layers=4, layer_types=["a", "b", "c", "d"], hidden_size=4, max_layers=4
        )
        self.config = SimpleNamespace(text_config=text, num_attention_heads=4)
        self.stack = Stack(4, text)

    def forward(self, x: Tensor) -> Tensor:
        return self.stack(x)


def iter_nothing() -> Iterator[int]:
    """A generator, which cannot be copied."""
    yield from ()


def vectors() -> Batch:
    """Three vectors [3, 4]."""
    return Batch((torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),), {})


def test_counts_lists_and_indices_follow_a_deletion() -> None:
    model = Model().eval()
    assert all(block.removable for block in find_blocks(model, vectors()))
    smaller: Any = remove_blocks(model, ["stack.layers.1", "stack.layers.2"])
    text = smaller.config.text_config
    assert text.num_hidden_layers == 2
    assert text.layer_types == ["a", "d"]
    assert (text.hidden_size, text.max_layers) == (4, 4)
    assert smaller.config.num_attention_heads == 4
    assert smaller.stack.num_layers == 2
    layers = smaller.stack.layers
    assert [layer.layer_idx for layer in layers] == [0, 1]
    assert [layer.part.layer_idx for layer in layers] == [0, 1]
    assert sorted(smaller.state_dict()) == [
        f"stack.layers.{i}.part.{kind}" for i in (0, 1) for kind in ("bias", "weight")
    ]


def test_the_original_is_untouched_and_the_copy_carries_no_notes() -> None:
    model = Model().eval()
    find_blocks(model, vectors())
    smaller = remove_blocks(model, ["stack.layers.0"])
    assert model.config.text_config.num_hidden_layers == 4
    assert [layer.layer_idx for layer in model.stack.layers] == [0, 1, 2, 3]
    assert len(model.state_dict()) == 8
    assert not any(NOTE in vars(module) for module in smaller.modules())


def test_names_in_a_sequential_survive_and_numbers_close_up() -> None:
    numbered = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    assert list(dict(remove_blocks(numbered, ["1"]).named_children())) == ["0", "1"]
    named = nn.Sequential()
    for key in ("a", "b", "c"):
        named.add_module(key, nn.Linear(4, 4))
    assert list(dict(remove_blocks(named, ["b"]).named_children())) == ["a", "c"]


def test_an_attribute_leaves_a_passthrough_without_parameters() -> None:
    model = nn.Module()
    model.block1, model.block2 = nn.Linear(4, 4), nn.Linear(4, 4)
    smaller = remove_blocks(model, ["block1"])
    assert isinstance(smaller.block1, Passthrough)
    assert list(smaller.state_dict()) == ["block2.weight", "block2.bias"]


def test_undo_puts_everything_back() -> None:
    model = Model()
    keys, types = list(model.state_dict()), list(model.config.text_config.layer_types)
    surgery = Surgery(model)
    surgery.remove(["stack.layers.0", "stack.layers.3"])
    assert len(model.stack.layers) == 2
    surgery.undo()
    assert list(model.state_dict()) == keys
    assert model.config.text_config.layer_types == types
    assert model.stack.num_layers == 4
    assert [layer.layer_idx for layer in model.stack.layers] == [0, 1, 2, 3]


def test_an_unknown_block_is_a_usage_error_that_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"stack\.layer\.1") as caught:
        remove_blocks(Model(), ["stack.layer.1"])
    assert "stack.layers.1" in caught.value.hint


def test_a_model_that_cannot_be_copied_is_a_usage_error() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model.extra = iter_nothing()  # type: ignore[assignment]
    with pytest.raises(UsageError, match="cannot be copied"):
        remove_blocks(model, ["0"])
