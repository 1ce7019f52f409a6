"""The data as the user gives it, and as everything else reads it: three splits of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

import torch

from mpo.errors import UsageError
from mpo.optimizer.data.batches import Batch, leaves, map_tensors, rows
from mpo.optimizer.data.tasks import IGNORED
from mpo.optimizer.ground.usercode import guarded, seeded

Iterables = Iterable[Any] | Callable[[], Iterable[Any]]


@dataclass(frozen=True)
class Data:
    """The user's splits: re-iterables (or callables that give a fresh iterable) of batches.

    A batch is `(inputs, targets)`, or bare inputs when there are no labels; inputs are a tensor, a
    tuple of tensors (positional) or a mapping (keywords). A missing split is carved off `train`
    with a seed.
    """

    train: Iterables
    validation: Iterables | None = None
    test: Iterables | None = None


def to_batch(item: Any) -> Batch:
    """Read one item of a split; floating inputs become float32, as the model is.

    Raises:
        UsageError: the item holds no tensor.
    """
    inputs, targets = item, None
    if isinstance(item, (tuple, list)) and len(item) == 2:
        inputs, targets = item
    elif isinstance(item, Mapping) and "labels" in item:
        inputs = {key: value for key, value in item.items() if key != "labels"}
        targets = item["labels"]
    if not leaves(inputs):
        raise UsageError(
            f"A batch of the data is a {type(item).__name__} with no tensor among its inputs.",
            hint="Yield (inputs, targets); inputs: a tensor, a tuple or a dict of tensors.",
        )
    if isinstance(inputs, Mapping):
        inputs = dict(inputs)
    inputs = map_tensors(inputs, lambda t: t.float() if t.is_floating_point() else t)
    if isinstance(inputs, dict):
        return Batch((), inputs, targets)
    if isinstance(inputs, (tuple, list)):
        return Batch(tuple(inputs), {}, targets)
    return Batch((inputs,), {}, targets)


def shift_targets(batch: Batch) -> Batch:
    """Targets [N, T] moved one token to the left, the last one left out of count (-100).

    So position t, whose logits foretell token t + 1, is judged by token t + 1.
    """
    targets = torch.as_tensor(batch.targets).roll(-1, dims=1)
    targets[:, -1] = IGNORED
    return Batch(batch.args, batch.kwargs, targets)


class Split:
    """A split as batches that can be iterated again and again.

    Every pass starts from its own seed, so that a loader that shuffles by torch's global generator
    gives the same order in every process, whatever was drawn before; the next pass differs.
    """

    def __init__(self, source: Iterables, name: str, seed: int = 0, *, shift: bool = False) -> None:
        self.source, self.name, self.seed, self.shift = source, name, seed, shift
        self._passes = 0

    def __iter__(self) -> Iterator[Batch]:
        with seeded(self.seed + self._passes):
            self._passes += 1
            source = self.source() if callable(self.source) else self.source
            items = guarded(f"The {self.name} split", lambda: iter(source))
            # loaders draw their permutation when the first item is asked for
            first = guarded(f"The {self.name} split", lambda: list(islice(items, 1)))
        for item in chain(first, items):
            batch = item if isinstance(item, Batch) else to_batch(item)
            yield shift_targets(batch) if self.shift else batch

    def __len__(self) -> int:
        """Batches in one pass; counted by a pass when the source does not know."""
        try:
            return len(self.source)  # type: ignore[arg-type]
        except TypeError:
            return sum(1 for _ in self)


@dataclass(frozen=True)
class Splits:
    """The three splits, with notes on what was carved."""

    train: Split
    validation: Split
    test: Split
    notes: tuple[str, ...] = ()
    carved: bool = False
    bare_labels: bool = False

    def shifted(self) -> Splits:
        """The same splits with targets moved one token to the left."""
        parts = [
            Split(s.source, s.name, s.seed, shift=True)
            for s in (self.train, self.validation, self.test)
        ]
        return replace(self, train=parts[0], validation=parts[1], test=parts[2])


def carve(data: Data, seed: int) -> Splits:
    """Complete the splits: a missing validation or test split takes a tenth of `train` each, by
    seed.

    Carving reads all of `train` into memory once, because a source that reshuffles would leak.

    Raises:
        UsageError: a split is empty, or a one-shot iterator.
    """
    given = {"train": data.train, "validation": data.validation, "test": data.test}
    for name, source in given.items():
        if isinstance(source, Iterator):
            raise UsageError(
                f"The {name} split is a one-shot iterator; splits are iterated many times.",
                hint="Give a list, a DataLoader, or a callable that returns a fresh iterator.",
            )
    bare = _bare_labels(data.train)
    missing = [name for name in ("validation", "test") if given[name] is None]
    notes: list[str] = []
    if missing:
        parts = _carve_rows([*Split(data.train, "train", seed)], missing, seed)
        given |= parts
        sizes = ", ".join(f"{sum(b.size for b in parts[name])} for {name}" for name in missing)
        notes.append(f"Carved off the train split with seed {seed}: {sizes}.")
    splits = {
        name: Split(source, name, seed) for name, source in given.items() if source is not None
    }
    for split in splits.values():
        if next(iter(split), None) is None:
            raise UsageError(
                f"The {split.name} split is empty.",
                hint="Let data() give at least one batch per split.",
            )
    return Splits(
        **splits,
        notes=tuple(notes),
        carved=bool(missing),
        bare_labels=bare,
    )


def _bare_labels(source: Any) -> bool:
    """Whether items are mappings with their own "labels", as Hugging Face loaders give them."""
    with seeded(0):
        item = next(iter(source() if callable(source) else source), None)
    return isinstance(item, Mapping) and "labels" in item


def _carve_rows(batches: list[Batch], missing: list[str], seed: int) -> dict[str, Any]:
    total = sum(batch.size for batch in batches)
    part = total // 10
    if part == 0:
        raise UsageError(
            f"The train split has {total} examples, too few to carve "
            f"{' and '.join(missing)} off it.",
            hint="Give at least 10 examples, or all three splits.",
        )
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    owner = torch.zeros(total, dtype=torch.long)
    for number, _ in enumerate(missing, start=1):
        owner[order[(number - 1) * part : number * part]] = number
    parts: dict[str, list[Batch]] = {"train": [], **{name: [] for name in missing}}
    start = 0
    for batch in batches:
        own = owner[start : start + batch.size]
        start += batch.size
        for number, name in enumerate(parts):
            chosen = (own == number).nonzero().flatten()
            if len(chosen):
                parts[name].append(rows(batch, chosen))
    return parts
