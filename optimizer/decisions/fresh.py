"""Telling examples apart by their content: which of a split are fresh, seen nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b

import torch

from mpo.optimizer.data.batches import Batch, leaves, rows

Key = bytes


def row_keys(batch: Batch) -> list[Key]:
    """A digest of each example's inputs: equal inputs, and only they, have equal keys."""
    size = batch.size
    tensors = [
        leaf.detach().cpu().contiguous()
        for leaf in leaves((batch.args, batch.kwargs))
        if leaf.dim() > 0 and leaf.shape[0] == size
    ]
    keys = []
    for row in range(size):
        digest = blake2b(digest_size=16)
        for tensor in tensors:
            value = tensor[row]
            digest.update(f"{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
        keys.append(digest.digest())
    return keys


def known_keys(*splits: Iterable[Batch]) -> set[Key]:
    """The keys of every example of these splits."""
    return {key for split in splits for batch in split for key in row_keys(batch)}


class Fresh:
    """The examples of a split that are not known, batch by batch.

    Attributes:
        duplicates: how many were left out so far.
    """

    def __init__(self, split: Iterable[Batch], known: set[Key]) -> None:
        self._split, self._known = split, known
        self.duplicates = 0

    def __iter__(self) -> Iterator[Batch]:
        self.duplicates = 0
        for batch in self._split:
            kept = [row for row, key in enumerate(row_keys(batch)) if key not in self._known]
            self.duplicates += batch.size - len(kept)
            if len(kept) == batch.size:
                yield batch
            elif kept:
                yield rows(batch, torch.tensor(kept))


def shuffled(batches: Iterable[Batch], seed: int) -> tuple[int, Callable[[int, int], list[Batch]]]:
    """How many examples there are, and what gives those from one place to another of a random
    order. They are read into memory.

    A split that is sorted by class is no sample of the whole until its end.
    """
    held = list(batches)
    places = [(number, row) for number, batch in enumerate(held) for row in range(batch.size)]
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed)).tolist()

    def part(start: int, end: int) -> list[Batch]:
        # examples of one batch stay together: batches may differ in length (padding)
        chosen: dict[int, list[int]] = {}
        for place in order[start:end]:
            number, row = places[place]
            chosen.setdefault(number, []).append(row)
        return [rows(held[number], torch.tensor(picked)) for number, picked in chosen.items()]

    return len(places), part
