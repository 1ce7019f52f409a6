"""Counterexamples on models whose boundaries are known."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mpo.optimizer.data.batches import Batch, forward
from mpo.optimizer.decisions.corruptions import corrupt, swap_tokens
from mpo.optimizer.decisions.decisions import margins
from mpo.optimizer.decisions.mining import (
    Domain,
    Pair,
    confirmed,
    domain_of,
    leaf_of,
    seeds_of,
)
from mpo.optimizer.decisions.searches import ascend, mix


class Side(nn.Module):
    """Two classes by the side of `x[:, 0] = at`."""

    def __init__(self, at: float) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor(at), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        gone = x.flatten(1)[:, 0] - self.at
        return torch.stack([-gone, gone], 1)


def pair(original: nn.Module, candidate: nn.Module, *, bends: bool = True) -> Pair:
    def call(module: nn.Module) -> object:
        return lambda batch: forward(module, batch)

    return Pair(call(original), call(candidate), bends, bends)  # type: ignore[arg-type]


def batch(*first: float) -> Batch:
    values = torch.zeros(len(first), 3)
    values[:, 0] = torch.tensor(first)
    return Batch((values,), {})


UNIT = Domain(0, torch.zeros(1, 3), torch.ones(1, 3))


def test_ascent_finds_the_strip_between_two_boundaries_and_comes_near() -> None:
    both = pair(Side(0.50), Side(0.55))
    found = confirmed(both, ascend(both, batch(0.45, 0.62), [7, 9], UNIT, 0.2, 0))
    assert [one.seed_row for one in found] == [7, 9]
    for one in found:
        value = float(leaf_of(one.witness, 0)[0, 0])
        assert 0.5 <= value <= 0.55
        assert one.search == "gradient"
    # halving brings each to the near edge of the strip
    assert abs(float(leaf_of(found[0].witness, 0)[0, 0]) - 0.50) < 0.005
    assert abs(float(leaf_of(found[1].witness, 0)[0, 0]) - 0.55) < 0.005


def test_nothing_is_found_beyond_the_radius_or_between_equal_models() -> None:
    apart = pair(Side(0.50), Side(0.55))
    assert ascend(apart, batch(0.2), [0], UNIT, 0.2, 0) == []
    same = pair(Side(0.5), Side(0.5))
    assert confirmed(same, ascend(same, batch(0.45), [0], UNIT, 0.5, 0)) == []
    assert confirmed(same, mix(same, batch(0.2, 0.8), [0, 1], UNIT)) == []


def test_witnesses_respect_the_valid_range() -> None:
    narrow = Domain(0, torch.zeros(1, 3), torch.full((1, 3), 0.48))
    both = pair(Side(0.50), Side(0.55))
    assert ascend(both, batch(0.45), [0], narrow, 1.0, 0) == []


def test_one_differentiable_model_is_enough() -> None:
    both = pair(Side(0.50), Side(0.55))
    both.candidate_bends = False
    assert confirmed(both, ascend(both, batch(0.45, 0.62), [0, 1], UNIT, 0.2, 0))
    neither = pair(Side(0.50), Side(0.55), bends=False)
    assert ascend(neither, batch(0.45), [0], UNIT, 0.2, 0) == []


def test_mixtures_find_the_strip_without_gradients() -> None:
    both = pair(Side(0.50), Side(0.51), bends=False)
    found = confirmed(both, mix(both, batch(0.1, 0.9), [3, 4], UNIT))
    assert [one.seed_row for one in found] == [3, 4]
    assert all(0.5 <= float(leaf_of(one.witness, 0)[0, 0]) <= 0.51 for one in found)
    assert found[0].detail == "with row 4"


def test_a_corrupted_image_is_found_at_its_mildest_severity() -> None:
    images = torch.full((2, 1, 4, 4), 0.45)
    domain = Domain(0, torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1))
    both = pair(Side(0.50), Side(0.60))
    found = corrupt(both, Batch((images,), {}), [0, 1], domain, 0)
    brighter = [one for one in found if one.detail.startswith("brighter")]
    assert [one.detail for one in brighter] == ["brighter 0.1"] * 2
    for one in found:
        values = leaf_of(one.witness, 0)
        assert float(values.min()) >= 0
        assert float(values.max()) <= 1


class Counter(nn.Module):
    """Two classes by how often token 7 is in the text."""

    def __init__(self, often: float) -> None:
        super().__init__()
        self.often = often

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        count = ((input_ids == 7) & attention_mask.bool()).sum(1) - self.often
        return torch.stack([-count, count], 1).float()


def test_token_swaps_stay_within_the_vocabulary_and_the_text() -> None:
    ids = torch.tensor([[1, 3, 4, 5, 2, 0, 0], [1, 3, 4, 2, 0, 0, 0]])
    mask = (ids > 0).long()
    texts = Batch((), {"input_ids": ids, "attention_mask": mask})
    domain = domain_of([texts, Batch((), {"input_ids": ids * 0 + 7, "attention_mask": mask})])
    assert domain is not None
    assert (domain.place, domain.tokens) == (0, (0, 1, 2, 3, 4, 5, 7))
    both = pair(Counter(0.5), Counter(1.5), bends=False)
    found = confirmed(both, swap_tokens(both, texts, [0, 1], domain, 0))
    assert len(found) == 2
    for one in found:
        old, new = leaf_of(one.seed, 0), leaf_of(one.witness, 0)
        assert int((old != new).sum()) == 1
        ends = one.seed.kwargs["attention_mask"][0].sum() - 1
        assert new[0, 0] == 1  # the first token
        assert new[0, ends] == 2  # and the last one stay


def test_seeds_are_the_agreed_examples_of_least_margin() -> None:
    both = pair(Side(0.50), Side(0.55))
    split = [batch(0.1, 0.52, 0.9), batch(0.49, 0.6)]
    seeds = seeds_of(both, split, margins, count=2)
    assert [numbers for _, numbers in seeds.groups] == [[3, 4]]
    assert [one.seed_row for one in seeds.natural] == [1]


def test_the_domain_is_what_the_data_showed_of_each_channel() -> None:
    domain = domain_of([batch(0.1, 0.5), batch(0.9)])
    assert domain is not None
    assert domain.low[0].tolist() == torch.tensor([0.1, 0, 0]).tolist()
    assert domain.high[0].tolist() == torch.tensor([0.9, 0, 0]).tolist()
    assert domain_of([Batch((torch.ones(2, 3, dtype=torch.bool),), {})]) is None


def test_sequences_of_several_lengths_have_one_range() -> None:
    short, long = torch.zeros(2, 3, 4), torch.ones(2, 5, 4)
    found = domain_of([Batch((x,), {}) for x in (short, long, short - 1)])
    assert found is not None
    assert (float(found.low), float(found.high)) == (-1.0, 1.0)
    assert found.clip(3 * long).shape == long.shape


class Shut(Side):
    """A model that shuts gradients off."""

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def test_models_that_shut_gradients_off_are_searched_without() -> None:
    first, second = Shut(0.0), Shut(0.1)
    pair = Pair(
        lambda batch: forward(first, batch), lambda batch: forward(second, batch), True, True
    )
    domain = Domain(0, torch.tensor(-1.0), torch.tensor(1.0))
    assert ascend(pair, Batch((torch.full((2, 2), -0.5),), {}), [0, 1], domain, 0.01, 0) == []
