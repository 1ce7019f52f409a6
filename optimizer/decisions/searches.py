"""The searches of `mining` for floating inputs: gradient ascent on disagreement, and mixtures of
inputs from both sides of the boundary.

Gradient ascent (projected, with the sign of the gradient, after Madry et al. 2018) maximises

    J(x) = min(f_y - f_c, kappa) - (g_y - g_c),   y = argmax f(x), c = argmax g(x) without y,

so the original f holds its decision y by kappa while the candidate g is pushed over its own
boundary; and then the same with f and g exchanged, because either may turn first. Of a model
without gradients (an ONNX file) only the other's boundary is approached.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mpo.optimizer.data.batches import Batch, rows
from mpo.optimizer.decisions.mining import Domain, Found, Pair, collect, leaf_of, with_leaf

STEPS, RESTARTS = 20, 4  # half of them hold the original, half the candidate
HALVINGS = 10
KAPPA = 0.05


def ascend(
    pair: Pair, batch: Batch, numbers: list[int], domain: Domain, radius: float, seed: int
) -> list[Found]:
    """Witnesses within `radius` (a share of the range, in the largest change of any value) of the
    seeds, brought as near to them as halving finds."""
    if not (pair.original_bends or pair.candidate_bends):
        return []
    start, best = leaf_of(batch, domain.place), leaf_of(batch, domain.place).clone()
    hit = torch.zeros(batch.size, dtype=torch.bool)
    random = torch.Generator().manual_seed(seed)
    for restart in range(RESTARTS):
        left = (~hit).nonzero().flatten()
        if not len(left):
            break
        noise = torch.rand(start[left].shape, generator=random) - 0.5
        away = radius * domain.range * noise if restart > 1 else 0.0
        found, turned = _climb(pair, rows(batch, left), domain, radius, away, restart % 2)
        best[left[turned]], hit[left[turned]] = found[turned], True
    nearest = _nearer(pair, batch, domain.place, start, best, hit)
    details = [""] * batch.size
    return collect("gradient", details, batch, domain.place, nearest, hit, numbers)


def _climb(
    pair: Pair, batch: Batch, domain: Domain, radius: float, away: Tensor | float, held: int
) -> tuple[Tensor, Tensor]:
    """One ascent from the seeds, `away` from them: the first values of each row that are decided
    differently, and which rows have any."""
    start, reach = leaf_of(batch, domain.place), radius * domain.range
    best, hit = start.clone(), torch.zeros(batch.size, dtype=torch.bool)
    values = domain.clip(start + away)
    for _ in range(STEPS):
        values, apart = _step(pair, batch, domain.place, values, reach * 2.5 / STEPS, held)
        values = domain.clip(torch.minimum(torch.maximum(values, start - reach), start + reach))
        best, hit = _keep(best, hit, *apart)
        if bool(hit.all()):
            return best, hit
    return _keep(best, hit, values, pair.differ(with_leaf(batch, domain.place, values)))


def _keep(best: Tensor, hit: Tensor, values: Tensor, apart: Tensor) -> tuple[Tensor, Tensor]:
    """The first values of each row that are decided differently."""
    fresh = apart & ~hit
    best = torch.where(_per_row(fresh, best), values, best)
    return best, hit | apart


def _per_row(flags: Tensor, like: Tensor) -> Tensor:
    return flags.reshape(-1, *[1] * (like.dim() - 1))


def _step(
    pair: Pair, batch: Batch, place: int, values: Tensor, size: Tensor, held: int
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One step up; and where the values stood, with which rows were decided differently there."""
    with torch.enable_grad():
        bent = values.detach().clone().requires_grad_(True)
        ours, theirs = pair.logits(with_leaf(batch, place, bent))
        goal = _goal(pair, ours, theirs, held).sum()
        slope = _slope(goal, bent)
    apart = ours.argmax(-1) != theirs.argmax(-1)
    return (values + size * slope.sign()).detach(), (values.detach(), apart)


def _slope(goal: Tensor, values: Tensor) -> Tensor:
    """The gradient; 0 where a model gives none (it shuts gradients off, or rounds)."""
    if not goal.requires_grad:
        return torch.zeros_like(values)
    (slope,) = torch.autograd.grad(goal, values, materialize_grads=True)
    return slope


def _goal(pair: Pair, ours: Tensor, theirs: Tensor, held: int) -> Tensor:
    if not (pair.original_bends and pair.candidate_bends):
        two = (ours if pair.original_bends else theirs).topk(2, dim=-1).values
        return two[:, 1] - two[:, 0]  # towards the boundary; steps are too long to stand on it
    kept, lost = (ours, theirs) if held == 0 else (theirs, ours)
    top = kept.argmax(-1, keepdim=True)
    rival = lost.detach().scatter(1, top, -torch.inf).argmax(-1, keepdim=True)
    stays = (kept.gather(1, top) - kept.gather(1, rival)).squeeze(1)
    goes = (lost.gather(1, top) - lost.gather(1, rival)).squeeze(1)
    return stays.clamp(max=KAPPA) - goes


def _nearer(
    pair: Pair, batch: Batch, place: int, start: Tensor, far: Tensor, hit: Tensor
) -> Tensor:
    """Along the line from each seed to its witness, the nearest point that halving finds."""
    if not bool(hit.any()):
        return far
    low = torch.zeros(batch.size)
    high = torch.ones(batch.size)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        values = torch.lerp(start, far, _per_row(middle, start))
        apart = pair.differ(with_leaf(batch, place, values))
        high = torch.where(apart, middle, high)
        low = torch.where(apart, low, middle)
    return torch.lerp(start, far, _per_row(high, start))


def mix(pair: Pair, batch: Batch, numbers: list[int], domain: Domain) -> list[Found]:
    """Witnesses on the lines between seeds that the original decides differently: where one model
    has changed its mind already and the other has not."""
    values = leaf_of(batch, domain.place)
    decided, _ = pair.decisions(batch)
    partner, able = _partners(values, decided)
    if not bool(able.any()):
        return []
    other = values[partner]
    ends = torch.stack([_turn(pair, batch, domain.place, values, other, who) for who in (0, 1)])
    place = ends.amin(0) + 0.5 * (ends.amax(0) - ends.amin(0))
    mixed = torch.lerp(values, other, _per_row(place, values))
    hit = pair.differ(with_leaf(batch, domain.place, mixed)) & able
    nearest = _nearer(pair, batch, domain.place, values, mixed, hit)
    details = [f"with row {numbers[row]}" for row in partner.tolist()]
    return collect("mixture", details, batch, domain.place, nearest, hit, numbers)


def _partners(values: Tensor, decided: Tensor) -> tuple[Tensor, Tensor]:
    """For each row the nearest one that is decided otherwise, and whether there is any."""
    flat = values.reshape(len(values), -1)
    apart = torch.cdist(flat, flat)
    apart[decided[:, None] == decided[None, :]] = torch.inf
    return apart.argmin(1), torch.isfinite(apart.amin(1))


def _turn(pair: Pair, batch: Batch, place: int, values: Tensor, other: Tensor, who: int) -> Tensor:
    """How far along the line model `who` leaves the decision that it made at the start [N]."""
    first = pair.decisions(batch)[who]
    low, high = torch.zeros(batch.size), torch.ones(batch.size)
    for _ in range(HALVINGS + 2):
        middle = (low + high) / 2
        mixed = with_leaf(batch, place, torch.lerp(values, other, _per_row(middle, values)))
        turned = pair.decisions(mixed)[who] != first
        high = torch.where(turned, middle, high)
        low = torch.where(turned, low, middle)
    return high
