from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from mpo.optimizer.blocks.cuts import Cut, find_cuts
from mpo.optimizer.blocks.finding import find_blocks
from mpo.optimizer.blocks.surgery import remove_blocks
from mpo.optimizer.data.batches import Batch
from mpo.optimizer.training.compensation import (
    compensate,
    halves,
    recalibrate_batchnorm,
    taken_back_where_worse,
)
from mpo.optimizer.training.folding import Sums, fold, last_affine
from mpo.records import Quality
from tests.optimizer.test_cuts import Tower


class Normed(nn.Module):
    """Convolutions with BatchNorm, so that removal shifts what the later ones see."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.LeakyReLU())
                for _ in range(4)
            )
        )
        for block in self.blocks:
            nn.init.uniform_(block[1].weight, 1, 3)  # type: ignore[index]
            nn.init.uniform_(block[1].bias, 1, 3)  # type: ignore[index]
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.blocks(x).mean((2, 3)))
        return out


def images(count: int = 6) -> list[Batch]:
    generator = torch.Generator().manual_seed(2)
    return [Batch((torch.randn(16, 3, 6, 6, generator=generator),), {}, None) for _ in range(count)]


def rows(count: int = 6) -> list[Batch]:
    generator = torch.Generator().manual_seed(2)
    return [Batch((torch.randn(32, 4, generator=generator),), {}, None) for _ in range(count)]


def cut(
    model: nn.Module, removed: list[str], batch: Batch
) -> tuple[nn.Module, nn.Module, tuple[Cut, ...]]:
    model.train()
    for one in images() * 10 if isinstance(model, Normed) else []:
        model(*one.args)
    model.eval()
    find_blocks(model, batch)
    pruned = remove_blocks(model, removed).eval()
    return model, pruned, find_cuts(model, pruned, removed)


def test_what_a_block_did_is_folded_into_the_one_before_and_the_outputs_come_nearer() -> None:
    model, pruned, cuts = cut(Tower(), ["blocks.1", "blocks.2"], rows()[0])
    names = set(pruned.state_dict())
    told = compensate(model, pruned, cuts, rows(), "values")
    assert told.harm_after < 0.8 * told.harm_before
    assert told.steps[0].startswith("what blocks.2 did folded into blocks.0: harm ")
    assert set(pruned.state_dict()) == names
    assert not pruned.training


@pytest.mark.case(42)
def test_batchnorm_after_pruning_is_recalibrated_and_recorded_with_the_harm_before_and_after() -> (
    None
):
    model, pruned, cuts = cut(Normed(), ["blocks.1"], images()[0])
    momenta = [m.momentum for m in pruned.modules() if isinstance(m, nn.BatchNorm2d)]
    told = compensate(model, pruned, cuts, images(), "values", folding=False)
    assert told.harm_after < told.harm_before
    assert told.steps[0].startswith("BatchNorm statistics taken anew: harm ")
    assert momenta == [m.momentum for m in pruned.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(module.training for module in pruned.modules())


@pytest.mark.case(42)
def test_batchnorm_statistics_that_help_nothing_are_put_back() -> None:
    model, pruned, _ = cut(Normed(), [], images()[0])
    before = copy.deepcopy(pruned.state_dict())
    told = compensate(model, pruned, (), images(), "values")
    assert (told.steps, told.harm_after) == ((), told.harm_before)
    assert all(torch.equal(before[key], value) for key, value in pruned.state_dict().items())


def test_statistics_taken_anew_are_the_mean_over_all_batches() -> None:
    layer = nn.BatchNorm1d(4)
    recalibrate_batchnorm(layer, rows(3))
    wanted = torch.cat([batch.args[0] for batch in rows(3)]).mean(0)
    torch.testing.assert_close(layer.running_mean, wanted)


def test_batches_of_one_example_leave_batchnorm_as_it_was() -> None:
    layer = nn.BatchNorm1d(4)
    recalibrate_batchnorm(layer, [Batch((torch.randn(1, 4),), {}, None)])
    assert torch.equal(layer.running_var, torch.ones(4))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Linear(4, 6), torch.randn(3, 4)),
        (nn.LayerNorm(6), torch.randn(3, 6)),
        (nn.Conv2d(4, 6, 3), torch.randn(2, 4, 5, 5)),
        (nn.ConvTranspose2d(4, 6, 3), torch.randn(2, 4, 5, 5)),
        (nn.BatchNorm2d(6).eval(), torch.randn(2, 6, 5, 5)),
    ],
)
def test_folding_is_exact_for_every_kind_of_layer(layer: nn.Module, x: Tensor) -> None:
    slope, shift = torch.randn(6), torch.randn(6)
    before = layer(x).detach()
    fold(layer, slope, shift)
    wide = [1, -1, 1, 1] if before.dim() == 4 else [1, -1]
    wanted = (1 + slope).reshape(wide) * before + shift.reshape(wide)
    torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-5)


def test_a_layer_whose_weight_another_one_shares_is_left_alone() -> None:
    _, pruned, cuts = cut(Tower(), ["blocks.1"], rows()[0])
    batch = rows()[0]
    assert last_affine(pruned, cuts[0], batch) is not None
    pruned.blocks[1].outer.weight = pruned.blocks[0].outer.weight  # type: ignore[index, union-attr]
    assert last_affine(pruned, cuts[0], batch) is None


def test_one_batch_is_cut_in_two_so_that_nothing_judges_itself() -> None:
    fit, held = halves(rows(1))
    assert (fit[0].size, held[0].size) == (16, 16)
    assert not torch.equal(fit[0].args[0], held[0].args[0])


@pytest.mark.parametrize("layer", [nn.Linear(4, 6), nn.Conv2d(4, 6, 3)])
def test_a_full_map_of_the_outputs_is_folded_exactly(layer: nn.Module) -> None:
    slope, shift = torch.randn(6, 6), torch.randn(6)
    x = torch.randn(3, 4) if isinstance(layer, nn.Linear) else torch.randn(2, 4, 5, 5)
    before = layer(x).detach().movedim(1, -1)
    fold(layer, slope, shift)
    wanted = (before + before @ slope.T + shift).movedim(-1, 1)
    torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-4)


def test_least_squares_find_the_map_that_was_missing() -> None:
    f, slope, shift = torch.randn(500, 4), torch.randn(4, 4), torch.randn(4)
    sums = Sums()
    for part in f.split(100):
        sums.add(part, part, part + part @ slope.T + shift)
    found, constant = sums.mixed(bias=True)
    torch.testing.assert_close(found.float(), slope, rtol=0.02, atol=0.02)
    torch.testing.assert_close(constant.float(), shift, rtol=0.02, atol=0.02)
    scale, offset = Sums(), torch.tensor([0.5, -1.0, 0.0, 2.0])
    scale.add(f, f, f + offset * f + shift)
    found, constant = scale.by_channel(bias=True)
    torch.testing.assert_close(found.float(), offset, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("better", [True, False])
def test_what_lowers_the_quality_on_validation_is_taken_back(*, better: bool) -> None:
    model, pruned, cuts = cut(Tower(), ["blocks.1", "blocks.2"], rows()[0])
    bare = copy.deepcopy(pruned.state_dict())

    def judge(one: nn.Module) -> Quality:
        same = all(torch.equal(bare[key], value) for key, value in one.state_dict().items())
        value = 0.5 if same else 0.5 + (0.1 if better else -0.1)
        return Quality(metric="metric", value=value, samples=9, ci95=(value, value))

    told = taken_back_where_worse(
        pruned, judge, lambda: compensate(model, pruned, cuts, rows(), "values")
    )
    assert told.steps
    assert told.kept is better
    assert told.quality_before == 0.5
    kept = all(torch.equal(bare[key], value) for key, value in pruned.state_dict().items())
    assert kept is not better
