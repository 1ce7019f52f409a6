"""What a model decides: its outputs read as logits of one decision an example, with their margin.

Four readings of the deciding tensor:

* classes: [N, C] logits.
* positions: [N, T, C] or [N, C, H, W] logits, a decision for every token or pixel. Decisions of one
  example depend on each other, so one of them is drawn by seed to stand for the example: then
  examples being independent is enough for exact bounds.
* sides: one value an example, [N] or [N, 1], and a threshold t: the decision is the side, its
  logits -+(value - t) / 2, so that the margin is |value - t|.
* values: anything else; there is no decision, only a distance.

The margin is the largest logit less the second largest. A change d = z' - z of the logits keeps the
decision when max d - min d < margin: then z'_top - z'_c >= margin - (max d - min d) > 0 for every
c. It is the condition "largest change below half the margin" after the shift, equal for all
classes, that makes the largest change least.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpo.errors import UsageError
from mpo.optimizer.blocks.activations import find_mask
from mpo.optimizer.data.batches import Batch, primary
from mpo.optimizer.data.subject import Kind
from mpo.optimizer.data.tasks import IGNORED, class_last, is_classification

Outputs = Literal["classes", "positions", "sides", "values"]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Reading:
    """How outputs are read.

    Attributes:
        outputs: what they are.
        threshold: between the two sides.
        classes: how many; None for values.
    """

    outputs: Outputs
    threshold: float = 0.0
    classes: int | None = None

    def logits(self, outputs: Any, batch: Batch) -> Tensor:
        """[N, C] for classes and sides, [N, P, C] for positions.

        Raises:
            UsageError: another number of classes, or of values, than the reading says.
        """
        if self.outputs == "sides":
            value = primary(outputs).float().reshape(-1) - self.threshold
            return torch.stack([-value / 2, value / 2], dim=1)
        found = class_last(outputs, batch.targets).float()
        if found.shape[-1] != self.classes:
            raise UsageError(
                f"One model decides among {self.classes} classes, the other among "
                f"{found.shape[-1]}.",
                hint="A contract is between models of one label space.",
            )
        if self.outputs == "positions":
            return found.reshape(found.shape[0], -1, found.shape[-1])
        return found


def reading_of(outputs: Any, batch: Batch, kind: Kind | None, threshold: float | None) -> Reading:
    """How the original's outputs on a batch are read.

    Args:
        kind: what the subject says of its outputs; None lets outputs and targets tell.
        threshold: between two sides of one value an example; None for any other reading.

    Raises:
        UsageError: a threshold for outputs that are not one value an example.
    """
    tensor = primary(outputs)
    if threshold is not None:
        if tensor.numel() != tensor.shape[0]:
            raise UsageError(
                f"--split-at needs one value an example; the model gives {tuple(tensor.shape)}.",
                hint="Leave it out.",
            )
        return Reading("sides", threshold, 2)
    if kind == "values" or (kind is None and not is_classification(outputs, batch.targets)):
        return Reading("values")
    logits = class_last(outputs, batch.targets)
    if logits.dim() < 2 or logits.shape[-1] < 2:
        raise UsageError(
            f"Outputs of shape {tuple(tensor.shape)} are no logits of two classes.",
            hint="For one value an example, name the threshold: --split-at 0.",
        )
    if logits.dim() == 2:
        return Reading("classes", classes=logits.shape[-1])
    return Reading("positions", classes=logits.shape[-1])


def counted(logits: Tensor, batch: Batch) -> Tensor:
    """Which positions [N, P] count: under the attention mask, with targets not left out."""
    size, positions = logits.shape[:2]
    counts = torch.ones(size, positions, dtype=torch.bool)
    mask = find_mask(batch)
    if mask is not None and mask.shape == counts.shape:
        counts &= mask.cpu()
    if isinstance(batch.targets, Tensor) and batch.targets.numel() == counts.numel():
        counts &= batch.targets.reshape(size, -1).cpu() != IGNORED
    return counts


def margins(logits: Tensor) -> Tensor:
    """Largest less second largest logit [...]."""
    top = logits.topk(2, dim=-1).values
    return top[..., 0] - top[..., 1]


def half_range(change: Tensor) -> Tensor:
    """Half of what the change of the logits differs by between classes [...]."""
    return (change.amax(-1) - change.amin(-1)) / 2


def kl_of(original: Tensor, candidate: Tensor) -> Tensor:
    """KL(softmax(original) || softmax(candidate)) in nats [...]."""
    truth = original.log_softmax(-1)
    return (truth.exp() * (truth - candidate.log_softmax(-1))).sum(-1).clamp_min(0)


@dataclass
class Tallied:
    """Decisions of both models on examples, one of each, as they come in.

    Attributes:
        reading: how outputs are read.
        seed: of the position that stands for an example.
        positions: all decisions compared, several an example where there are.
        equal: how many of them are equal.
    """

    reading: Reading
    seed: int = 0
    positions: int = 0
    equal: int = 0
    _parts: dict[str, list[Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = torch.Generator().manual_seed(self.seed)

    def add(self, batch: Batch, original: Any, candidate: Any) -> None:
        """Take in both models' outputs on a batch.

        Raises:
            UsageError: outputs of another shape than the original's.
        """
        if self.reading.outputs == "values":
            self._put(distance=_distance(original, candidate))
            return
        ours = self.reading.logits(original, batch)
        theirs = self.reading.logits(candidate, batch)
        if ours.shape != theirs.shape:
            raise UsageError(
                f"The original decides on {tuple(ours.shape[:-1])} things, the candidate on "
                f"{tuple(theirs.shape[:-1])}.",
                hint="A contract is between models of one output shape.",
            )
        if self.reading.outputs == "positions":
            self._positions(batch, ours, theirs)
            return
        self.positions += len(ours)
        self.equal += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
        self._decided(ours, theirs, kl_of(ours, theirs))

    def _positions(self, batch: Batch, ours: Tensor, theirs: Tensor) -> None:
        counts = counted(ours, batch)
        same, apart = ours.argmax(-1) == theirs.argmax(-1), kl_of(ours, theirs)
        self.positions += int(counts.sum())
        self.equal += int((same & counts).sum())
        some = counts.any(1)
        mean = (apart * counts).sum(1)[some] / counts.sum(1)[some]
        drawn = torch.multinomial(counts[some].float(), 1, generator=self._random)[:, 0]
        place = torch.arange(len(drawn))
        self._decided(ours[some][place, drawn], theirs[some][place, drawn], mean)

    def _decided(self, ours: Tensor, theirs: Tensor, kl: Tensor) -> None:
        self._put(
            decided=ours.argmax(-1),
            other=theirs.argmax(-1),
            margin=margins(ours),
            change=half_range(theirs - ours),
            kl=kl,
        )

    def _put(self, **values: Tensor) -> None:
        for name, value in values.items():
            self._parts.setdefault(name, []).append(value.detach().double().cpu())

    def __len__(self) -> int:
        return sum(len(part) for part in next(iter(self._parts.values()), []))

    def column(self, name: str) -> Floats:
        """One figure of every example [n]: decided, other, margin, change, kl, or distance."""
        parts = self._parts.get(name, [])
        return torch.cat(parts).numpy() if parts else np.zeros(0)

    @property
    def differ(self) -> NDArray[np.bool_]:
        """Which examples are decided differently."""
        return np.asarray(self.column("decided") != self.column("other"))

    @property
    def certified(self) -> NDArray[np.bool_]:
        """Which decisions the change of the logits cannot have turned."""
        return np.asarray(2 * self.column("change") < self.column("margin"))


def _distance(original: Any, candidate: Any) -> Tensor:
    ours, theirs = primary(original).float(), primary(candidate).float()
    if ours.shape != theirs.shape:
        raise UsageError(
            f"The original gives values of shape {tuple(ours.shape)}, the candidate "
            f"{tuple(theirs.shape)}.",
            hint="A contract is between models of one output shape.",
        )
    return (ours - theirs).abs().reshape(len(ours), -1).amax(1)
