"""The subject: a trained model, its data, its loss and its metric, however the user hands them
over."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mpo.errors import MpoError, UsageError
from mpo.optimizer.batches import Batch, leaves, rows
from mpo.optimizer.tasks import cross_entropy, top1_accuracy

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
    """Read one item of a split.

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
        return Batch((), dict(inputs), targets)
    if isinstance(inputs, (tuple, list)):
        return Batch(tuple(inputs), {}, targets)
    return Batch((inputs,), {}, targets)


class Split:
    """A split as batches that can be iterated again and again."""

    def __init__(self, source: Iterables, name: str) -> None:
        self.source, self.name = source, name

    def __iter__(self) -> Iterator[Batch]:
        source = self.source() if callable(self.source) else self.source
        for item in source:
            yield item if isinstance(item, Batch) else to_batch(item)

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
    missing = [name for name in ("validation", "test") if given[name] is None]
    notes: list[str] = []
    if missing:
        parts = _carve_rows([*Split(data.train, "train")], missing, seed)
        given |= parts
        sizes = ", ".join(f"{sum(b.size for b in parts[name])} for {name}" for name in missing)
        notes.append(f"Carved off the train split with seed {seed}: {sizes}.")
    splits = {name: Split(source, name) for name, source in given.items() if source is not None}
    for split in splits.values():
        if next(iter(split), None) is None:
            raise UsageError(
                f"The {split.name} split is empty.",
                hint="Let data() give at least one batch per split.",
            )
    return Splits(**splits, notes=tuple(notes))


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


Loss = Callable[[Any, Any], Tensor]
Metric = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Subject:
    """A trained model with what is needed to judge it.

    Args:
        model: the trained module, or a callable that builds it with its weights
            loaded.
        data: `Data`, a callable that returns it, or None with `inputs` random batches.
        loss: (outputs, targets) -> scalar tensor; cross-entropy when None.
        metric: (outputs, targets) -> float, called once on a whole split; higher is better unless
            the function has a true attribute `lower_is_better`; top-1 accuracy when None.
        name: what reports call it.
        notes: sentences that every report repeats (random inputs, for one).
    """

    model: nn.Module | Callable[[], nn.Module]
    data: Data | Callable[[], Data]
    loss: Loss | None = None
    metric: Metric | None = None
    name: str = "model"
    notes: tuple[str, ...] = field(default=())

    def build(self) -> nn.Module:
        """A fresh copy of the trained model in eval mode.

        Raises:
            UsageError: the factory raised, or returned no torch module.
        """
        if isinstance(self.model, nn.Module):
            return copy.deepcopy(self.model).eval()
        built = guarded("model()", self.model)
        if not isinstance(built, nn.Module):
            raise UsageError(
                f"model() of {self.name} returned {type(built).__name__}, not a torch.nn.Module.",
                hint="Return the trained module itself.",
            )
        return built.eval()

    def splits(self, seed: int = 0) -> Splits:
        """The three splits, made anew so that every stage sees the same order of examples."""
        data = self.data if isinstance(self.data, Data) else guarded("data()", self.data)
        if not isinstance(data, Data):
            raise UsageError(
                f"data() of {self.name} returned {type(data).__name__}, not mpo.Data.",
                hint="Return mpo.Data(train=..., validation=..., test=...).",
            )
        splits = carve(data, seed)
        return replace(splits, notes=(*self.notes, *splits.notes))


def guarded(what: str, call: Callable[[], Any]) -> Any:
    """Call the user's function; whatever it raises becomes a UsageError with its own words."""
    try:
        return call()
    except MpoError:
        raise
    except Exception as error:
        place = _own_frame(error)
        raise UsageError(
            f"{what} raised {type(error).__name__}: {first_line(error)}{place}",
            hint="Run the subject file in Python alone to see the whole trace.",
        ) from error


def first_line(error: BaseException) -> str:
    """The first line of an error's text, for messages of one sentence."""
    return str(error).strip().split("\n")[0][:300]


def _own_frame(error: Exception) -> str:
    frames = inspect.getinnerframes(error.__traceback__) if error.__traceback__ else []
    return (
        f" (line {frames[-1].lineno} of {frames[-1].filename.rsplit('/', 1)[-1]})" if frames else ""
    )


Kind = Literal["logits", "values"]


def task_loss(subject: Subject) -> Loss:
    """The subject's loss, or cross-entropy."""
    return subject.loss or cross_entropy


def task_metric(subject: Subject) -> Metric:
    """The subject's metric, or top-1 accuracy."""
    return subject.metric or top1_accuracy
