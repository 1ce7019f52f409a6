"""A subject narrowed to some of its classes: the same decisions, told as those classes or "other".

The narrowed original gives the logits of the chosen classes and, as the last one, the largest of
all others. So it decides exactly as the whole model does, "other" standing for whatever class is
not asked about, and a margin between two others counts no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mpo.errors import UsageError
from mpo.optimizer.data.batches import primary
from mpo.optimizer.data.splits import Data
from mpo.optimizer.data.subject import Subject
from mpo.optimizer.data.tasks import IGNORED


class Narrow(nn.Module):
    """A classifier that tells `classes` apart and calls all others one.

    Args:
        model: gives logits [N, C].
        classes: numbers below C, at least one and not all.
    """

    def __init__(self, model: nn.Module, classes: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.classes = tuple(classes)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Logits [N, len(classes) + 1], the last one that of all other classes."""
        logits = primary(self.model(*args, **kwargs))
        count = logits.shape[-1]
        if logits.dim() != 2 or max(self.classes) >= count or len(self.classes) >= count:
            raise UsageError(
                f"Outputs of shape {tuple(logits.shape)} have no classes {self.classes} "
                "and others beside them.",
                hint="Name some, not all, of the classes of a model that gives [N, C] logits.",
            )
        others = [number for number in range(count) if number not in self.classes]
        own = torch.index_select(logits, 1, torch.tensor(self.classes, device=logits.device))
        rest = torch.index_select(logits, 1, torch.tensor(others, device=logits.device))
        return torch.cat([own, rest.amax(1, keepdim=True)], dim=1)


class _Retold:
    """A split with its targets told as the narrowed classes; iterated as often as the source."""

    def __init__(self, source: Any, classes: Sequence[int]) -> None:
        self._source, self._classes = source, classes

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[Any]:
        source = self._source() if callable(self._source) else self._source
        for item in source:
            if isinstance(item, (tuple, list)) and len(item) == 2 and item[1] is not None:
                yield item[0], retold(item[1], self._classes)
            else:
                yield item


def retold(targets: Any, classes: Sequence[int]) -> Tensor:
    """Class numbers as places in `classes`, all others as len(classes); -100 stays.

    Raises:
        UsageError: targets that are no class numbers.
    """
    labels = targets if isinstance(targets, Tensor) else torch.as_tensor(targets)
    if labels.is_floating_point():
        raise UsageError(
            f"Targets of {labels.dtype} are no class numbers.",
            hint="Only a classifier can be narrowed to classes.",
        )
    found = torch.full_like(labels, len(classes))
    for place, number in enumerate(classes):
        found[labels == number] = place
    return found.masked_fill(labels == IGNORED, IGNORED)


def narrowed(subject: Subject, classes: Sequence[int]) -> Subject:
    """The subject that decides among these classes and "other"; its quality is accuracy at that.

    Raises:
        UsageError: no class, one twice, or a negative number.
    """
    chosen = tuple(classes)
    if not chosen or len(set(chosen)) < len(chosen) or min(chosen) < 0:
        raise UsageError(
            f"{', '.join(map(str, chosen)) or 'Nothing'} names no set of classes.",
            hint="Write --classes 0,3.",
        )

    def build() -> nn.Module:
        return Narrow(subject.build(), chosen)

    dropped = ["loss()"] * (subject.loss is not None) + ["metric()"] * (subject.metric is not None)
    note = f"Narrowed to the classes {', '.join(map(str, chosen))}; all others count as one."
    also = f" The subject's own {' and '.join(dropped)} served all classes and is not used."
    return replace(
        subject,
        model=build,
        data=lambda: _data(subject, chosen),
        loss=None,
        metric=None,
        outputs="logits",
        notes=(*subject.notes, note + (also if dropped else "")),
    )


def _data(subject: Subject, classes: Sequence[int]) -> Data:
    given: Any = subject.data
    data = given if isinstance(given, Data) else given()

    def retell(source: Any) -> Any:
        if source is None or isinstance(source, Iterator):
            return source
        return _Retold(source, classes)

    parts: dict[str, Callable[[], Any] | Any] = {
        name: retell(getattr(data, name)) for name in ("train", "validation", "test")
    }
    return Data(**parts)
