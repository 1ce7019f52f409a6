"""What there is to doubt about a subject, said before hours are spent on it: an original no better
than chance, and examples that are in two splits."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor

from mpo.optimizer.data.batches import Batch, leaves
from mpo.optimizer.data.splits import Split
from mpo.optimizer.data.tasks import IGNORED
from mpo.pipeline.run.context import SEEN, Context
from mpo.records import Quality

CHANCE, MARGIN = 1.1, 0.1  # times the chance, or a tenth of the way from there to perfect
TRAIN, HELD = 20_000, 2_000  # leading examples that are compared
BYTES = 2**28  # of a split's inputs that are read for it
SHARED = 0.01  # of the held-out examples: fewer are the odd duplicate


def doubts(context: Context, validation: Quality) -> tuple[str, ...]:
    """Sentences for the report, the first ones the gravest; none for random inputs."""
    if context.recipe.input:
        return ()
    return (*at_chance(context, validation), *overlaps(context))


def tell_doubts(told: Iterable[str]) -> None:
    """Say it now, on stderr, and not only in the report at the end."""
    for sentence in told:
        logging.getLogger("mpo").warning("warning: %s", sentence)


def at_chance(context: Context, validation: Quality) -> tuple[str, ...]:
    """A warning when the original's accuracy on validation is no better than always giving the
    commonest label: at most 1.1 times it, or a tenth of what is left to perfect above it.

    Of a metric of the user's own nobody knows what chance gives.
    """
    if validation.metric != "accuracy":
        return ()
    counts: Counter[int] = Counter()
    for batch in context.splits().validation:
        labels = torch.as_tensor(batch.targets).reshape(-1)
        kinds, times = labels[labels != IGNORED].unique(return_counts=True)  # pixels are many
        counts.update(dict(zip(kinds.tolist(), times.tolist(), strict=True)))
    commonest, count = counts.most_common(1)[0]
    chance = count / counts.total()
    if validation.value > min(CHANCE * chance, chance + MARGIN * (1 - chance)):
        return ()
    return (
        f"The original is right on {100 * validation.value:.1f} % of {validation.samples:,} "
        f"validation examples; always answering {commonest} would be right on "
        f"{100 * chance:.1f} %. Check weights, labels and preprocessing: what a model at chance "
        "loses means nothing.",
    )


def overlaps(context: Context) -> tuple[str, ...]:
    """A warning for held-out splits whose leading examples are also in the split they are held
    out of."""
    splits = context.splits()
    known, told = set(digests(splits.train, TRAIN)), list[str]()
    for split, where in ((splits.validation, "train"), (splits.test, "train or validation")):
        found = list(digests(split, HELD))
        both = sum(one in known for one in found)
        known.update(found)
        if both >= max(1.0, SHARED * len(found)):
            told.append(
                f"{both:,} of the {len(found):,} leading {split.name} examples are in {where} too: "
                "figures on them tell what was learned by heart. Give splits that share nothing."
            )
    return tuple(told)


def digests(split: Split, most: int) -> Iterator[bytes]:
    """A digest of the inputs of each leading example, up to `most` and 256 MiB; of at most 32
    batches, which other stages read too, where nothing is learned from the split."""
    batches: Iterable[Batch] = split if split.name == "train" else islice(split, SEEN)
    seen = read = 0
    for batch in batches:
        tensors = [leaf for leaf in leaves((batch.args, batch.kwargs)) if leaf.dim()]
        for row in range(batch.size):
            if seen >= most or read >= BYTES:
                return
            digest = hashlib.blake2b(digest_size=16)
            for tensor in tensors:
                raw = _bytes(tensor[row]) if tensor.shape[0] == batch.size else b""
                digest.update(raw)
                read += len(raw)
            seen += 1
            yield digest.digest()


def _bytes(values: Tensor) -> bytes:
    flat = values.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()
