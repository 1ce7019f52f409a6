"""What training reads: a split's batches, pass after pass."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mpo.errors import UsageError
from mpo.optimizer.batches import Batch
from mpo.optimizer.splits import Split

NORMS = (_BatchNorm,)


def endless(split: Split, model: nn.Module) -> Iterator[Batch]:
    """The split's batches again and again.

    BatchNorm cannot train on one example: for a model that has it such batches are left out.

    Raises:
        UsageError: BatchNorm, and not one batch of two.
    """
    smallest = 2 if any(isinstance(m, NORMS) for m in model.modules()) else 1
    while True:
        used = 0
        for batch in split:
            if batch.size >= smallest:
                used += 1
                yield batch
        if not used:
            raise UsageError(
                f"Every batch of the {split.name} split holds one example, and BatchNorm cannot "
                "train on one.",
                hint="Let data() yield larger batches.",
            )


def some(batches: Iterator[Batch], count: int) -> Iterator[Batch]:
    """The next `count` batches."""
    for _, batch in zip(range(count), batches, strict=False):
        yield batch
