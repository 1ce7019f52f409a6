"""What removing blocks does to the output, measured: forward passes with the blocks bypassed, no
training.

For logits z (original) and z' (bypassed) of one decision, KL = sum_c softmax(z)_c (log softmax(z)_c
- log softmax(z')_c) in nats, averaged over decisions (every leading position of [..., C]; padded
tokens left out). For outputs that are no
logits: sum ||y - y'||^2 / sum ||y - mean(y)||^2, the share of the original's variance that is lost.

With `boundary`, decisions near the original's boundary weigh most, and turned ones count
(optimizer/analysis/boundary.py).

Activations before the first removed block are recomputed: caching them needs to know which modules
read them, and a model with skips or key-value caches would silently get stale ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mpo.errors import UsageError
from mpo.optimizer.analysis.boundary import boundary_harm
from mpo.optimizer.analysis.halving import Halving
from mpo.optimizer.blocks.activations import evaluating, find_mask
from mpo.optimizer.blocks.bypass import bypass
from mpo.optimizer.data.batches import Batch, forward, primary
from mpo.optimizer.files import snapshots
from mpo.optimizer.files.snapshots import Keeper, Snapshot
from mpo.optimizer.ground.distributed import ALONE, Crew
from mpo.records import Harm
from mpo.timing import Stopwatch

Kind = Literal["logits", "values"]
WORST = (
    1e9  # harm of a removal that makes the outputs infinite or NaN; finite, so that it can be saved
)


@dataclass(frozen=True)
class Damage:
    """What a removal does on calibration data: `kl` (or the lost share of variance) and equal
    decisions.

    `agreement` is the share of decisions with the same argmax; for values 1 minus `kl`, not below
    0.
    """

    kl: float
    agreement: float


class HarmMeter:
    """Joint harm of removing sets of blocks from one model, on fixed batches; answers are
    remembered.

    Args:
        model: left as it is; run in evaluation mode without gradients.
        batches: calibration data; the original's outputs on it are kept in memory.
        kind: "logits" for outputs [..., C >= 2] that softmax turns into decisions, "values" for
            anything else.
        boundary: weigh decisions by how near the boundary they are; logits only. It needs all
            decisions at once: every process of a crew then measures all batches.
        crew: the processes that share the batches; all must ask for the same sets in the same
            order.

    Attributes:
        batches: those of this process.
        evaluations: forward passes over the batches made so far for removals.

    Raises:
        UsageError: no batches, outputs that are not finite, or "logits" of fewer than two classes.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Batch],
        kind: Kind = "logits",
        *,
        boundary: bool = False,
        crew: Crew = ALONE,
    ) -> None:
        self._model, self._boundary = model, boundary
        self._crew = ALONE if boundary else crew
        given = list(batches)
        self.batches = given[self._crew.rank :: self._crew.size]
        self._notes: list[str] = []
        self._ladder = Halving(model, "Harm")
        self._kind = kind
        self._known: dict[frozenset[str], Damage] = {frozenset(): Damage(0.0, 1.0)}
        self.evaluations = 0
        self._check_data(len(given))
        self._original = self._run(())
        self._check()

    def kl(self, removed: Collection[str]) -> float:
        """Harm of removing all of `removed` together; WORST when the outputs are not finite."""
        return self.measure(removed).kl

    def agreement(self, removed: Collection[str]) -> float:
        """The share of decisions that removing all of `removed` leaves as they are."""
        return self.measure(removed).agreement

    def measure(self, removed: Collection[str]) -> Damage:
        """Harm and agreement of removing all of `removed`; measured once a set."""
        key = frozenset(removed)
        if key not in self._known:
            self.evaluations += 1
            changed = self._run(sorted(key))
            self._known[key] = (
                near_boundary(self._original, changed)
                if self._boundary
                else compare(self._original, changed, self._kind, self._crew)
            )
        return self._known[key]

    def judge(self, predict: Callable[[Batch], Any]) -> Damage:
        """Harm and agreement of whatever answers a batch as the model does: an exported file."""
        return compare(self._original, self._answers(predict), self._kind)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader must know: how memory was spared, and what was noted."""
        return tuple(dict.fromkeys((*self._notes, *self._ladder.told)))

    def note(self, *told: str) -> None:
        """Add to the remarks."""
        self._notes.extend(told)

    def _run(self, removed: Sequence[str]) -> list[Tensor]:
        removal: AbstractContextManager[object] = bypass(self._model, removed)
        outputs: list[Tensor] = []
        with evaluating(self._model), removal, self._ladder as ladder:
            for batch in self.batches:
                parts = ladder.run(
                    batch, lambda part, _: self._of(part, forward(self._model, part))
                )
                outputs.append(torch.cat(parts) if len(parts) > 1 else parts[0])
        return outputs

    def _answers(self, predict: Callable[[Batch], Any]) -> list[Tensor]:
        return [self._of(batch, predict(batch)) for batch in self.batches]

    def _of(self, batch: Batch, outputs: Any) -> Tensor:
        result = primary(outputs).detach().float()
        return _decisions(result, batch) if self._kind == "logits" else result.clone()

    def _check_data(self, batches: int) -> None:
        if not batches:
            raise UsageError(
                "Harm needs calibration data and got no batch.", hint="Let data() yield some."
            )

    def _check(self) -> None:
        bad = sum(not bool(torch.isfinite(output).all()) for output in self._original)
        if bad:
            raise UsageError(
                f"The outputs are not finite on {bad} of {len(self.batches)} calibration batches.",
                hint="Check the weights and the inputs' scaling.",
            )
        if self._boundary and self._kind != "logits":
            raise UsageError(
                "Harm along the decision boundary needs class logits.", hint="Leave --harm out."
            )
        first = next(iter(self._original), None)
        if self._kind == "logits" and first is not None and first.shape[-1] < 2:
            raise UsageError(
                f"Outputs of shape {tuple(first.shape)} are no logits of two classes.",
                hint='Measure them as values: kind="values".',
            )


def near_boundary(original: Sequence[Tensor], changed: Sequence[Tensor]) -> Damage:
    """Harm and agreement weighted along the original's decision boundary."""
    if any(not bool(torch.isfinite(output).all()) for output in changed):
        return Damage(WORST, 0.0)
    harm, agreement = boundary_harm(original, changed)
    return Damage(min(harm, WORST), agreement)


def compare(
    original: Sequence[Tensor],
    changed: Sequence[Tensor],
    kind: Kind = "logits",
    crew: Crew = ALONE,
) -> Damage:
    """Harm and agreement of `changed` outputs against `original` ones, batch by batch, as the
    module's head defines.

    Args:
        original: one tensor a batch: [decisions, C] logits, or values of any shape.
        changed: the same shapes.
        kind: "logits" or "values".
        crew: the processes that hold the other batches.
    """
    changed = [after.to(before.device) for before, after in zip(original, changed, strict=True)]
    bad = sum(not bool(torch.isfinite(output).all()) for output in changed)
    if _total(crew, bad)[0]:
        return Damage(WORST, 0.0)
    measure = _compare_logits if kind == "logits" else _compare_values
    return measure(original, changed, crew)


def _total(crew: Crew, *numbers: float) -> list[float]:
    """Each number summed over all processes."""
    return crew.sum(torch.tensor(numbers, dtype=torch.float64)).tolist()


def _compare_logits(original: Sequence[Tensor], changed: Sequence[Tensor], crew: Crew) -> Damage:
    total, equal, count = 0.0, 0.0, 0.0
    for before, after in zip(original, changed, strict=True):
        truth = before.log_softmax(-1)
        total += float((truth.exp() * (truth - after.log_softmax(-1))).sum(dtype=torch.float64))
        equal += int((before.argmax(-1) == after.argmax(-1)).sum())
        count += before.shape[:-1].numel()
    total, equal, count = _total(crew, total, equal, count)
    # rounding can leave a sum of equal terms a hair below zero
    return Damage(min(max(total / count, 0.0), WORST), equal / count)


def _compare_values(original: Sequence[Tensor], changed: Sequence[Tensor], crew: Crew) -> Damage:
    sums = sum(float(before.sum(dtype=torch.float64)) for before in original)
    total, count = _total(crew, sums, sum(before.numel() for before in original))
    mean = total / count
    spread = sum(float((before.double() - mean).square().sum()) for before in original)
    error = sum(
        float((before.double() - after.double()).square().sum())
        for before, after in zip(original, changed, strict=True)
    )
    spread, error = _total(crew, spread, error)
    if error == 0:
        return Damage(0.0, 1.0)
    share = min(error / spread, WORST) if spread > 0 else WORST
    return Damage(share, max(0.0, 1.0 - share))


def _decisions(logits: Tensor, batch: Batch) -> Tensor:
    """[..., C] logits as [decisions, C], without the tokens that an attention mask leaves out."""
    mask = find_mask(batch)
    if mask is not None and logits.dim() == 3 and logits.shape[:2] == mask.shape:
        return logits[mask.to(logits.device)]
    return logits.reshape(-1, logits.shape[-1]).clone()


def measure_harm(
    model: nn.Module,
    names: Sequence[str],
    batches: Iterable[Batch],
    branch_ratio: Mapping[str, float],
    *,
    kind: Kind = "logits",
    meter: HarmMeter | None = None,
    keeper: Keeper | None = None,
) -> tuple[Harm, ...]:
    """The harm of removing each named block alone, in the order of `names`.

    Args:
        model: the original.
        names: blocks to bypass one at a time.
        batches: calibration data; unused when `meter` is given.
        branch_ratio: ||F(x)|| / ||x|| per block, as `measure_similarity` gives it; undefined ratios
            count as 0.
        kind: what the outputs are.
        meter: a meter to ask (and to fill: it remembers), instead of a new one.
        keeper: keeps what was measured, so that a killed pass goes on; for one process alone.
    """
    asked = meter if meter is not None else HarmMeter(model, batches, kind)
    kept = keeper.newest() if keeper else None
    known: dict[str, list[float]] = dict(kept.facts["damage"]) if kept else {}
    asked.note(*(kept.facts["told"] if kept else ()), *(keeper.warnings if keeper else ()))
    harms, watch = [], Stopwatch()
    for name in names:
        damage = Damage(*known[name]) if name in known else asked.measure((name,))
        known[name] = [damage.kl, damage.agreement]
        if keeper and watch.seconds >= snapshots.KEEP_SECONDS:
            facts = {"damage": known, "told": asked.remarks}
            keeper.keep(Snapshot(len(known), {}, facts))
            watch = Stopwatch()
        ratio = branch_ratio.get(name, 0.0)
        harms.append(
            Harm(
                name=name,
                kl=damage.kl,
                agreement=damage.agreement,
                branch_ratio=ratio if math.isfinite(ratio) else 0.0,
            )
        )
    return tuple(harms)
