"""What a contract is judged on: the two models, the data, and what is fixed before the first fresh
sample is looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mpo.errors import UsageError
from mpo.optimizer.data.batches import Batch, limit, primary
from mpo.optimizer.data.labels import shifts_labels
from mpo.optimizer.data.quality import Predict, check_predict, require_finite
from mpo.optimizer.data.splits import Splits
from mpo.optimizer.data.subject import Subject
from mpo.optimizer.decisions.decisions import Reading, Tallied, counted, margins, reading_of
from mpo.pipeline.contract.claims import Terms
from mpo.pipeline.contract.deciders import Decider, Named, both, data_subject
from mpo.units import parse_share

Progress = Callable[[str, int, int], None]
CALIBRATION, BOUND = "validation", "test"


@dataclass(frozen=True)
class Asked:
    """What `mpo contract` is asked.

    Attributes:
        original: as `deciders.decider` takes it.
        candidate: the same.
        data: a subject with data; None for the one of both models that has some.
        terms: what is claimed.
        seed: of everything drawn.
        strict: an undecided contract ends with 5.
        mine: search for counterexamples; None where they can be searched.
        radius: of the search, as a share of the inputs' range.
        witnesses: where the found inputs are saved; None to save none.
    """

    original: Named
    candidate: Named
    data: Named | None = None
    terms: Terms = field(default_factory=Terms)
    seed: int = 0
    strict: bool = False
    mine: bool | None = False
    radius: float = 0.1
    witnesses: Path | None = None


@dataclass(frozen=True)
class Scene:
    """Both models, the data, and how outputs are read."""

    subject: Subject
    original: Decider
    candidate: Decider
    splits: Splits
    reading: Reading


@dataclass(frozen=True)
class Calibrated:
    """What the validation split fixed before the first fresh sample was looked at.

    Attributes:
        tau: the region's margin; None for values.
        limit: the tolerance of values.
        spread: the original's standard deviation, for values.
        samples: examples that were read.
    """

    tau: float | None
    limit: float
    spread: float
    samples: int


def set_scene(asked: Asked, progress: Progress) -> Scene:
    """Load both models and the data, and make sure that they can be compared at all."""
    progress("contract: load", 0, 1)
    subject = data_subject(asked.data, asked.original, asked.candidate)
    original, candidate = both(asked.original, asked.candidate)
    splits = subject.splits(asked.seed)
    first = limit(splits.validation, 8)[0]
    module = original.module or candidate.module
    if splits.bare_labels and module is not None and shifts_labels(module, first):
        splits = splits.shifted()
        first = limit(splits.validation, 8)[0]
    outputs = check_predict(original.predict, first, "The original")
    others = check_predict(candidate.predict, first, "The candidate")
    reading = reading_of(outputs, first, subject.outputs, asked.terms.split_at)
    Tallied(reading).add(first, outputs, others)  # raises when the shapes differ
    progress("contract: load", 1, 1)
    return Scene(subject, original, candidate, splits, reading)


def calibrate(
    predict: Predict, reading: Reading, split: Iterable[Batch], terms: Terms
) -> Calibrated:
    """Fix the region, or the tolerance, by the original's outputs on a split.

    Raises:
        UsageError: a mass outside (0, 1), or a negative tau or tolerance.
    """
    if not 0 < terms.mass < 1 or (terms.tau is not None and terms.tau < 0):
        raise UsageError(
            f"A region of mass {terms.mass:g} or margin {terms.tau} holds nothing or all.",
            hint="Give --mass in (0, 1), such as 10%, or a --tau of 0 or more.",
        )
    values = reading.outputs == "values"
    if terms.tau is not None and not values:
        return Calibrated(terms.tau, 0.0, 0.0, 0)
    seen: list[torch.Tensor] = []
    samples = 0
    for batch in split:
        outputs = predict(batch)
        require_finite(primary(outputs), CALIBRATION)
        samples += batch.size
        if values:
            seen.append(primary(outputs).double().reshape(-1))
        else:
            seen.append(_margins(reading.logits(outputs, batch), batch))
    column = torch.cat(seen).numpy()
    if values:
        spread = float(column.std())
        return Calibrated(None, _tolerance(terms.tolerance, spread), spread, samples)
    tau = float(np.quantile(column, terms.mass, method="higher"))
    return Calibrated(tau, 0.0, 0.0, samples)


def _margins(logits: Tensor, batch: Batch) -> Tensor:
    """Of every decision that counts."""
    found = margins(logits).double()
    return found if logits.dim() == 2 else found[counted(logits, batch)]


def _tolerance(text: str, spread: float) -> float:
    if text.strip().endswith("%"):
        return parse_share(text) * spread
    try:
        value = float(text)
    except ValueError as error:
        raise UsageError(
            f"{text!r} is no tolerance.", hint="Write a number in the outputs' unit, or 5%."
        ) from error
    if not (np.isfinite(value) and value >= 0):
        raise UsageError(f"A tolerance of {text} is none.", hint="Give 0 or more, or 5%.")
    return value
