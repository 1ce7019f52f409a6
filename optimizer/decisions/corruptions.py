"""The searches of `mining` that change inputs as the world might: corrupted images, other tokens.

Images [N, C, H, W] get noise, another brightness or contrast, blur, a shift, a covered square, at
growing severity; texts [N, T] get tokens that the data showed, at one place, then at two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from mpo.optimizer.blocks.activations import find_mask
from mpo.optimizer.data.batches import Batch, rows
from mpo.optimizer.decisions.mining import Domain, Found, Pair, collect, leaf_of, with_leaf

SEVERITIES = (0.02, 0.05, 0.1, 0.2, 0.3)
VARIANTS = 64  # of each text
EDGE = 1  # tokens at either end that stay: marks of beginning and end
Corruption = Callable[[Tensor, float, Domain], Tensor]


def corrupt(pair: Pair, batch: Batch, numbers: list[int], domain: Domain, seed: int) -> list[Found]:
    """The mildest severity of each corruption at which an image is decided differently."""
    start = leaf_of(batch, domain.place)
    if start.dim() != 4:
        return []
    found: list[Found] = []
    for name, change in _corruptions(seed).items():
        hit = torch.zeros(batch.size, dtype=torch.bool)
        for severity in SEVERITIES:
            values = domain.clip(change(start, severity, domain))
            apart = pair.differ(with_leaf(batch, domain.place, values)) & ~hit
            details = [f"{name} {severity:g}"] * batch.size
            found += collect("corruption", details, batch, domain.place, values, apart, numbers)
            hit |= apart
    return found


def _corruptions(seed: int) -> Mapping[str, Corruption]:
    def noise(values: Tensor, severity: float, domain: Domain) -> Tensor:
        random = torch.Generator().manual_seed(seed)
        return values + severity * domain.range * torch.randn(values.shape, generator=random)

    return {
        "noise": noise,
        "brighter": lambda x, s, d: x + s * d.range,
        "darker": lambda x, s, d: x - s * d.range,
        "contrast": lambda x, s, _: x + (x.mean((2, 3), keepdim=True) - x) * 2 * s,
        "blur": lambda x, s, _: torch.lerp(x, _smoothed(x), min(1.0, 4 * s)),
        "shift": _shifted,
        "covered": _covered,
    }


def _smoothed(images: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def _shifted(images: Tensor, severity: float, _: Domain) -> Tensor:
    """Moved to the right by a share of the width; the edge is repeated."""
    by = max(1, round(severity * images.shape[-1] / 2))
    return F.pad(images, (by, 0, 0, 0), mode="replicate")[..., : images.shape[-1]]


def _covered(images: Tensor, severity: float, domain: Domain) -> Tensor:
    """A square in the middle at the least value."""
    height, width = images.shape[-2:]
    tall, wide = max(1, round(severity * height)), max(1, round(severity * width))
    top, left = (height - tall) // 2, (width - wide) // 2
    covered = images.clone()
    low = domain.low.expand_as(images)
    covered[..., top : top + tall, left : left + wide] = low[
        ..., top : top + tall, left : left + wide
    ]
    return covered


def swap_tokens(
    pair: Pair, batch: Batch, numbers: list[int], domain: Domain, seed: int
) -> list[Found]:
    """Texts with one token, or else two, in another's place; the fewest that is found."""
    if not domain.tokens:
        return []
    random = torch.Generator().manual_seed(seed)
    found: list[Found] = []
    for row, number in enumerate(numbers):
        one = rows(batch, torch.tensor([row]))
        places = _free_places(one, domain)
        for changes in (1, 2):
            if len(places) < changes:
                break
            if witness := _swapped(pair, one, places, changes, domain, random):
                detail = f"{changes} token{'s' if changes > 1 else ''}"
                found.append(Found("tokens", detail, one, witness, number))
                break
    return found


def _free_places(one: Batch, domain: Domain) -> Tensor:
    """Places of a text that may change: under its mask, the first and the last token aside."""
    length = leaf_of(one, domain.place).shape[1]
    mask = find_mask(one)
    held = torch.ones(length, dtype=torch.bool) if mask is None else mask[0].cpu()
    places = held.nonzero().flatten()
    return places[EDGE:-EDGE] if len(places) > 2 * EDGE else places


def _swapped(
    pair: Pair, one: Batch, places: Tensor, changes: int, domain: Domain, random: torch.Generator
) -> Batch | None:
    many = rows(one, torch.zeros(VARIANTS, dtype=torch.long))
    ids = leaf_of(many, domain.place).clone()
    known = torch.tensor(domain.tokens, dtype=ids.dtype)
    for variant in range(VARIANTS):
        chosen = places[torch.randperm(len(places), generator=random)[:changes]]
        drawn = torch.randint(len(known), (changes,), generator=random)
        ids[variant, chosen] = known[drawn]
    changed = with_leaf(many, domain.place, ids)
    apart = pair.differ(changed).nonzero().flatten()
    return rows(changed, apart[:1]) if len(apart) else None
