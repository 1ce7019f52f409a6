"""find_blocks and bypass: what they say, and that they leave the user's model alone."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mpo.errors import UsageError
from mpo.optimizer.blocks.finding import bypass, find_blocks
from mpo.optimizer.blocks.surgery import remove_blocks
from mpo.optimizer.data.batches import Batch


class Block(nn.Module):
    """x + bn(conv(x)), with dropout."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(self.bn(self.conv(x)))


class Net(nn.Module):
    """A list of blocks run by `step(index, block, x)`."""

    def __init__(
        self, blocks: list[nn.Module], step: Callable[[int, nn.Module, Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.blocks, self.step = nn.ModuleList(blocks), step

    def forward(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.blocks):
            x = self.step(index, block, x)
        return x


class Talkative(nn.Module):
    """Returns its state, the mask that it was given, and a figure of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.runs = 0

    def forward(self, state: Tensor, mask: Tensor | None = None) -> tuple[Tensor, object, Tensor]:
        self.runs += 1
        return state + self.linear(state), mask, state.sum()


def plain(_: int, block: nn.Module, x: Tensor) -> Tensor:
    """Run the block."""
    y = block(x)
    assert isinstance(y, Tensor)
    return y


def image() -> Batch:
    """Two images [2, 4, 8, 8]."""
    return Batch((torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)),), {})


def stack(count: int = 4) -> nn.Module:
    """A Sequential of blocks."""
    torch.manual_seed(0)
    return nn.Sequential(*(Block() for _ in range(count)))


def test_the_model_is_left_as_it_was() -> None:
    model = stack().train()
    model[1].eval()  # type: ignore[index]
    model[0].conv.weight.requires_grad_(False)  # type: ignore[index]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    grads = [parameter.requires_grad for parameter in model.parameters()]
    random = torch.random.get_rng_state()
    find_blocks(model, image())
    with bypass(model, ["2"]):
        pass
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == grads
    assert torch.equal(torch.random.get_rng_state(), random)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_bypassed_block_is_not_run_and_comes_back_even_after_an_error() -> None:
    block = Talkative()
    x = torch.randn(2, 4)
    model = nn.ModuleDict({"a": block})
    with pytest.raises(KeyError), bypass(model, ["a"]):
        raise KeyError
    assert "forward" not in vars(block)
    mask = torch.ones(2)
    with bypass(model, ["a"]):
        state, given, figure = block(x, mask)
        first = block.runs
        block(x, mask)
        assert block.runs == first  # once at most, to learn what it returns
    assert state is x
    assert given is mask
    assert figure is None


def test_bypass_nests_and_restores_in_order() -> None:
    model, (x,) = stack().eval(), image().args
    whole = model(x)
    with bypass(model, ["0"]):
        one = model(x)
        with bypass(model, ["0", "1"]):
            two = model(x)
        torch.testing.assert_close(model(x), one)
    torch.testing.assert_close(model(x), whole)
    torch.testing.assert_close(two, nn.Sequential(model[2], model[3])(x))  # type: ignore[index]


def test_bypass_of_an_unknown_block_names_the_nearest() -> None:
    model = nn.ModuleDict({"layer1": nn.Linear(2, 2)})
    with pytest.raises(UsageError, match="layer11") as caught, bypass(model, ["layer11"]):
        pass
    assert "'layer1'" in caught.value.hint


@pytest.mark.case(39)
def test_learning_a_block_in_training_mode_moves_neither_statistics_nor_randomness() -> None:
    model, (x,) = stack().train(), image().args
    mean = model[1].bn.running_mean.clone()  # type: ignore[index]
    random = torch.random.get_rng_state()
    with bypass(model, ["0", "1", "2", "3"]):
        torch.testing.assert_close(model(x), x)
    assert torch.equal(model[1].bn.running_mean, mean)  # type: ignore[index]
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(module.training for module in model.modules())


def test_a_step_that_depends_on_the_index_keeps_its_places() -> None:
    model = Net([Block() for _ in range(3)], lambda i, block, x: plain(i, block, x) * (i + 1))
    model.eval()
    blocks = find_blocks(model, image())
    assert [block.removable for block in blocks] == [True] * 3
    smaller = remove_blocks(model, ["blocks.0"])
    (x,) = image().args
    with bypass(model, ["blocks.0"]):
        torch.testing.assert_close(smaller(x), model(x))


@pytest.mark.case(44)
def test_a_module_called_twice_says_so() -> None:
    shared = Block()
    blocks = find_blocks(nn.Sequential(shared, Block(), shared).eval(), image())
    reasons = {block.name: block.reason for block in blocks}
    assert "called 2 times" in reasons["0"]
    assert reasons["1"] == ""


@pytest.mark.case(43)
def test_blocks_that_share_all_weights_say_with_whom() -> None:
    model = stack(3).eval()
    model[2].conv.weight = model[0].conv.weight  # type: ignore[index]
    partly = find_blocks(model, image())
    assert all(block.removable for block in partly)
    assert partly[0].params == partly[1].params - 4 * 4 * 9
    model[2].conv, model[2].bn = model[0].conv, model[0].bn  # type: ignore[index]
    wholly = find_blocks(model, image())
    assert [block.removable for block in wholly] == [False, True, False]


def test_bare_layers_norms_and_activations_are_no_blocks() -> None:
    model = nn.Sequential(
        nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout()
    )
    assert find_blocks(model, Batch((torch.randn(3, 4),), {})) == ()


def test_groups_are_consecutive_and_of_one_shape() -> None:
    model = nn.Sequential(
        nn.Sequential(Block(), Block()), nn.Conv2d(4, 6, 1), nn.Sequential(Block(6), Block(6))
    )
    blocks = find_blocks(model.eval(), image())
    assert [block.name for block in blocks] == ["0.0", "0.1", "2.0", "2.1"]
    assert blocks[0].group == blocks[1].group != blocks[2].group == blocks[3].group
    assert [block.index for block in blocks] == [0, 1, 2, 3]
    assert blocks[0].macs == 4 * 4 * 9 * 64


def test_a_model_that_fails_on_the_batch_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="fails on two examples"):
        find_blocks(stack(), Batch((torch.randn(2, 5, 8, 8),), {}))


def test_forty_blocks_take_seconds() -> None:
    started = time.perf_counter()
    assert len(find_blocks(stack(40).eval(), image())) == 40
    assert time.perf_counter() - started < 10
