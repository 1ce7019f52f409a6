from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mpo.optimizer.blocks.cuts import Cut, find_cuts, gap, renamed, states_at
from mpo.optimizer.blocks.finding import find_blocks
from mpo.optimizer.blocks.surgery import remove_blocks
from mpo.optimizer.data.batches import Batch, forward


class Residual(nn.Module):
    """x + W2 relu(W1 x)."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.outer(torch.relu(self.inner(x)))
        return out


class Tower(nn.Module):
    """A stem, a list of blocks, one block by name, a head."""

    def __init__(self, blocks: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Linear(4, 6)
        self.blocks = nn.ModuleList(Residual() for _ in range(blocks))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(x)
        return out


@pytest.fixture
def batch() -> Batch:
    return Batch((torch.randn(8, 4, generator=torch.Generator().manual_seed(1)),), {}, None)


def cut(removed: list[str], batch: Batch) -> tuple[nn.Module, nn.Module, tuple[Cut, ...]]:
    model = Tower().eval()
    find_blocks(model, batch)
    pruned = remove_blocks(model, removed).eval()
    return model, pruned, find_cuts(model, pruned, removed)


def test_a_run_that_went_is_one_cut_behind_the_block_before_it(batch: Batch) -> None:
    _, _, cuts = cut(["blocks.1", "blocks.2"], batch)
    assert cuts == (Cut("blocks.2", "blocks.2", "blocks.0", True),)


def test_when_nothing_comes_before_the_block_behind_takes_over(batch: Batch) -> None:
    _, _, cuts = cut(["blocks.0"], batch)
    assert cuts == (Cut("blocks.0", "blocks.1", "blocks.0", True),)


def test_what_is_left_is_paired_with_its_new_name(batch: Batch) -> None:
    model, pruned, _ = cut(["blocks.1"], batch)
    names = renamed(model, pruned, ["blocks.1"])
    assert names is not None
    assert (names["blocks.2.inner"], names["blocks.0"], names["head"]) == (
        "blocks.1.inner", "blocks.0", "head",
    )  # fmt: skip


def test_models_that_do_not_pair_have_no_cuts(batch: Batch) -> None:
    model, pruned, _ = cut(["blocks.1"], batch)
    assert find_cuts(model, pruned, ["blocks.1", "blocks.2"]) == ()
    assert find_cuts(model, nn.Linear(4, 3), ["blocks.1"]) == ()


def test_a_block_that_left_a_passthrough_is_its_own_place() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = Residual(), Residual(), Residual()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.three(self.two(self.one(x)))
            return out

    model = Named().eval()
    pruned = remove_blocks(model, ["two"]).eval()
    assert find_cuts(model, pruned, ["two"]) == (Cut("two", "two", "two", False),)


def test_the_states_at_a_cut_are_those_before_and_behind_the_run(batch: Batch) -> None:
    model, pruned, cuts = cut(["blocks.1", "blocks.2"], batch)
    with states_at(cuts, pruned, model) as held:
        forward(pruned, batch)
        forward(model, batch)
    ((_, ours, theirs),) = held.pairs()
    x = model.stem(batch.args[0])  # type: ignore[operator]
    blocks = list(model.blocks)  # type: ignore[arg-type]
    torch.testing.assert_close(ours, blocks[0](x))
    torch.testing.assert_close(theirs, blocks[2](blocks[1](blocks[0](x))))


def test_the_gap_is_relative_and_passes_padding_over() -> None:
    theirs = torch.randn(2, 3, 4)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    ours = theirs.clone()
    ours[0, 2], ours[1, 1:] = 99.0, 99.0
    masked = Batch((), {"x": theirs, "attention_mask": mask}, None)
    assert float(gap(ours, theirs, masked)) == 0.0
    assert float(gap(ours, theirs, Batch((theirs,), {}, None))) > 1
    assert float(gap(0 * theirs, theirs, masked)) == pytest.approx(1.0)
