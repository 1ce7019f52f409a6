"""What training reads: a split's batches, pass after pass, in an order that can be had again."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mpo.errors import UsageError
from mpo.optimizer.data.batches import Batch
from mpo.optimizer.data.splits import Split
from mpo.optimizer.ground.randomness import seed_all

NORMS = (_BatchNorm,)


class Feed:
    """Batches without end, counted.

    Each pass starts every generator from a seed of its own, so that a pass can be replayed without
    training: loaders with generators of their own advance by being read.

    Args:
        split: what is read again and again.
        model: the smallest batch it can be trained on is asked of it.
        seed: of the first pass; the next one has the next seed.

    Attributes:
        drawn: batches handed out so far.
    """

    def __init__(self, split: Split, model: nn.Module, seed: int = 0) -> None:
        self._batches = endless(split, model, seed)
        self.drawn = 0

    def take(self, count: int) -> list[Batch]:
        """The next `count` batches."""
        self.drawn += count
        return [next(self._batches) for _ in range(count)]

    def skip(self, count: int) -> None:
        """Read `count` batches and forget them: they have been trained on before."""
        for _ in range(count):
            next(self._batches)
        self.drawn += count


def smallest_batch(model: nn.Module) -> int:
    """Examples that the model needs to train: BatchNorm cannot train on one."""
    return 2 if any(isinstance(module, NORMS) for module in model.modules()) else 1


def endless(split: Split, model: nn.Module, seed: int = 0) -> Iterator[Batch]:
    """The split's batches again and again.

    BatchNorm cannot train on one example: for a model that has it such batches are left out.

    Raises:
        UsageError: BatchNorm, and not one batch of two.
    """
    smallest, number = smallest_batch(model), 0
    while True:
        used = 0
        seed_all(seed + number)
        for batch in split:
            if batch.size >= smallest:
                used += 1
                yield batch
        number += 1
        if not used:
            raise UsageError(
                f"Every batch of the {split.name} split holds one example, and BatchNorm cannot "
                "train on one.",
                hint="Let data() yield larger batches.",
            )
