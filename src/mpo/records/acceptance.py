"""What the guard of a run said of a trained model."""

from __future__ import annotations

from typing import Literal

from mpo.records.base import Record

AcceptanceMethod = Literal["score", "exact", "bootstrap", "point"]


class Acceptance(Record):
    """Whether a model's drop in quality respects the allowed one, judged on the validation split
    beside the original on the same examples.

    Attributes:
        verdict: accepted: the bound is within what is allowed; rejected: the drop itself is not;
            unproven: the drop is, the bound is not.
        drop: how much worse than the original: points for a metric in [0, 1], else relative.
        bound: one-sided upper bound of the drop, missed with probability `alpha`; None where the
            metric cannot be resampled, and the drop alone decided.
        allowed: by --max-drop.
        samples: examples in the validation split.
        alpha: what this look at the split may spend of 5 %.
        look: its number.
        method: score (paired shares, Tango 1998), exact (Clopper and Pearson 1934), bootstrap
            (paired), or point when there is no bound.
        lost: decisions that only the original got right; None for other metrics.
        gained: decisions that only this model got right.
        needed: examples in all that would prove it, if shares stay as they are; None when it is
            not unproven, or no number would.
    """

    verdict: Literal["accepted", "unproven", "rejected"]
    drop: float
    bound: float | None
    allowed: float
    samples: int
    alpha: float
    look: int
    method: AcceptanceMethod
    lost: int | None = None
    gained: int | None = None
    needed: int | None = None


class Round(Record):
    """One step of a removal that is carried out in several.

    Attributes:
        removed: the blocks that went in it.
        gone: how many are gone after it, were it kept.
        epochs: that it trained.
        acceptance: what the guard said.
        kept: False when the next step started from the model before it.
    """

    removed: tuple[str, ...]
    gone: int
    epochs: int
    acceptance: Acceptance
    kept: bool
