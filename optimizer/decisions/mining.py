"""Counterexamples: inputs within the valid range on which two models decide differently.

They are searched, not drawn: they refute "never", and say nothing about how often. Every search
starts from seeds that both models decide alike, those with the least margin first, and every
witness is run again alone, by both models, before it counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mpo.optimizer.blocks.activations import find_mask
from mpo.optimizer.data.batches import Batch, concatenate, leaves, map_tensors, rows

Logits = Callable[[Batch], Tensor]
SEEDS = 32


@dataclass
class Pair:
    """Both models as functions from a batch to logits [N, C].

    Attributes:
        original: gives gradients when `original_bends`.
        candidate: the same.
        passes: forward passes of examples so far, both models counted.
    """

    original: Logits
    candidate: Logits
    original_bends: bool = False
    candidate_bends: bool = False
    passes: int = 0

    def logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Both models' logits, with their graphs where gradients are on."""
        self.passes += 2 * batch.size
        return self.original(batch), self.candidate(batch)

    def decisions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Both models' decisions [N]."""
        with torch.no_grad():
            ours, theirs = self.logits(batch)
        return ours.argmax(-1), theirs.argmax(-1)

    def differ(self, batch: Batch) -> Tensor:
        """Which examples are decided differently [N]."""
        ours, theirs = self.decisions(batch)
        return ours != theirs


@dataclass(frozen=True)
class Domain:
    """Where inputs may lie: the values that the data showed, per channel, and the tokens seen.

    Attributes:
        place: of the tensor that is changed, among the leaves of a batch.
        low: least values, to broadcast over it.
        high: largest values.
        tokens: those seen, for integer inputs; empty for floating ones.
    """

    place: int
    low: Tensor
    high: Tensor
    tokens: tuple[int, ...] = ()

    @property
    def range(self) -> Tensor:
        """high - low."""
        return self.high - self.low

    def clip(self, values: Tensor) -> Tensor:
        """Values brought into the range."""
        return torch.minimum(torch.maximum(values, self.low), self.high)


@dataclass(frozen=True)
class Found:
    """One witness: a batch of one example and the seed that it came from."""

    search: str
    detail: str
    seed: Batch
    witness: Batch
    seed_row: int


@dataclass
class Seeds:
    """Examples to start from, in groups of one shape.

    Attributes:
        groups: batches with the rows' numbers in the split.
        natural: examples of the split that both models decide differently as they are.
    """

    groups: list[tuple[Batch, list[int]]] = field(default_factory=list)
    natural: list[Found] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many seeds there are."""
        return sum(len(numbers) for _, numbers in self.groups)


def leaf_of(batch: Batch, place: int) -> Tensor:
    """The tensor at this place among the batch's inputs."""
    return leaves((batch.args, batch.kwargs))[place]


def with_leaf(batch: Batch, place: int, value: Tensor) -> Batch:
    """The batch with another tensor at this place, without targets."""
    count = -1

    def change(tensor: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return value if count == place else tensor

    args = map_tensors(batch.args, change)
    return Batch(args, map_tensors(batch.kwargs, change), None)


def domain_of(batches: Iterable[Batch]) -> Domain | None:
    """What the data show of the first floating input, or else of the token ids; None when there is
    neither."""
    domain: Domain | None = None
    seen: set[int] = set()
    for batch in batches:
        inputs = leaves((batch.args, batch.kwargs))
        place = next((i for i, leaf in enumerate(inputs) if leaf.is_floating_point()), None)
        if place is None:
            place = _token_place(batch, inputs)
            if place is None:
                return None
            seen |= set(inputs[place].unique().tolist())
            empty = torch.zeros(())
            domain = Domain(place, empty, empty, tuple(sorted(seen)))
            continue
        low, high = _ends(inputs[place])
        if domain is not None:
            if low.shape != domain.low.shape:
                low, high, domain = low.min(), high.max(), _plain(domain)
            low, high = torch.minimum(low, domain.low), torch.maximum(high, domain.high)
        domain = Domain(place, low, high)
    return domain


def _plain(domain: Domain) -> Domain:
    """One range for all values: axis 1 is no channel where its length differs (sequences)."""
    return Domain(domain.place, domain.low.min(), domain.high.max())


def _token_place(batch: Batch, inputs: Sequence[Tensor]) -> int | None:
    mask = find_mask(batch)
    for place, leaf in enumerate(inputs):
        whole = not leaf.is_floating_point() and leaf.dtype is not torch.bool and leaf.dim() == 2
        is_mask = (
            mask is not None and leaf.shape == mask.shape and bool((leaf.bool() == mask).all())
        )
        if whole and not (is_mask and int(leaf.max()) <= 1):
            return place
    return None


def _ends(values: Tensor) -> tuple[Tensor, Tensor]:
    """Least and largest value of each channel (axis 1), shaped to broadcast over a batch."""
    if values.dim() < 2:
        return values.min(), values.max()
    axes = [axis for axis in range(values.dim()) if axis != 1]
    return values.amin(axes, keepdim=True), values.amax(axes, keepdim=True)


def seeds_of(
    pair: Pair, split: Iterable[Batch], margin_of: Callable[[Tensor], Tensor], count: int = SEEDS
) -> Seeds:
    """The agreed examples of a split with the least margin, and those not agreed on.

    Args:
        margin_of: logits [N, C] to margins [N].
    """
    ranked: list[tuple[float, int, Batch]] = []
    natural: list[tuple[float, Found]] = []
    start = 0
    for batch in split:
        with torch.no_grad():
            ours, theirs = pair.logits(batch)
        margin, same = margin_of(ours), ours.argmax(-1) == theirs.argmax(-1)
        worst = ranked[-1][0] if len(ranked) >= count else float("inf")
        for row in range(batch.size):
            value = float(margin[row])
            if same[row] and value >= worst:
                continue
            one = rows(Batch(batch.args, batch.kwargs), torch.tensor([row]))
            if same[row]:
                ranked.append((value, start + row, one))
            else:
                natural.append((value, Found("data", "", one, one, start + row)))
        ranked = sorted(ranked, key=lambda item: item[:2])[:count]
        start += batch.size
    natural.sort(key=lambda item: -item[0])  # the clearest first
    return Seeds(grouped([(one, number) for _, number, one in ranked]), [one for _, one in natural])


def grouped(singles: Sequence[tuple[Batch, int]]) -> list[tuple[Batch, list[int]]]:
    """Single examples as batches of one shape each."""
    groups: dict[tuple[object, ...], list[tuple[Batch, int]]] = {}
    for one, number in singles:
        shape = tuple(leaf.shape for leaf in leaves((one.args, one.kwargs)))
        groups.setdefault(shape, []).append((one, number))
    return [
        (
            Batch(
                concatenate([one.args for one, _ in group]),
                concatenate([one.kwargs for one, _ in group]) if group[0][0].kwargs else {},
            ),
            [number for _, number in group],
        )
        for group in groups.values()
    ]


def confirmed(pair: Pair, found: Iterable[Found]) -> list[Found]:
    """Those that both models, asked again with this example alone, still decide differently."""
    return [one for one in found if bool(pair.differ(one.witness)[0])]


def collect(
    search: str,
    details: Sequence[str],
    batch: Batch,
    place: int,
    values: Tensor,
    hit: Tensor,
    numbers: Sequence[int],
) -> list[Found]:
    """A witness for every row that was hit."""
    changed = with_leaf(batch, place, values)
    return [
        Found(
            search,
            details[row],
            rows(batch, torch.tensor([row])),
            rows(changed, torch.tensor([row])),
            numbers[row],
        )
        for row in hit.nonzero().flatten().tolist()
    ]
