"""How sure counts make: exact bounds of a share, sample sizes, many claims, several looks. Pure.

A claim is "P(event | stratum) <= eps". Given how many samples fell into the stratum, the events
among them are independent draws of one probability, so Clopper and Pearson's bounds (1934) hold for
any sample size and any probability: no normal approximation is made anywhere here.

Every bound is one-sided. A claim is *kept* when the upper bound is at most eps, *broken* when the
lower bound is above eps, *undecided* otherwise; each of the two errors has probability alpha at
most. A claim that is true can only be called broken, a false one only kept, so with alpha shared
out over m claims (Bonferroni) no verdict is wrong with confidence 1 - delta, whatever the claims
have in common; so do all upper bounds hold together, and all lower ones. Upper and lower ones at
once, as two-sided intervals, hold with 1 - 2 delta. Looking again at grown data is a new chance to
be wrong: planned looks share alpha evenly, and an open-ended series spends delta / (j (j + 1)) at
look j, which sums to delta however often one looks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from scipy import special

from mpo.errors import UsageError

Judgement = Literal["kept", "broken", "undecided"]
MOST = 10**6  # samples, beyond which no number is named


@dataclass(frozen=True)
class Bounds:
    """One-sided lower and upper bound of a share, each missed with probability alpha at most."""

    low: float
    high: float


def clopper_pearson(events: int, samples: int, alpha: float) -> Bounds:
    """Exact bounds of a probability from `events` in `samples` (Clopper & Pearson 1934).

    low = BetaInv(alpha; k, n - k + 1), high = BetaInv(1 - alpha; k + 1, n - k). Without samples
    nothing is known: 0 and 1.

    Raises:
        UsageError: more events than samples, or an alpha outside (0, 1).
    """
    _check(events, samples, alpha)
    low = special.betaincinv(events, samples - events + 1, alpha) if events else 0.0
    high = special.betainccinv(events + 1, samples - events, alpha) if events < samples else 1.0
    return Bounds(float(low), float(high))


def hoeffding(events: int, samples: int, alpha: float) -> Bounds:
    """Bounds k / n -+ sqrt(ln(1 / alpha) / (2 n)) (Hoeffding 1963): valid too, and wider; what
    `clopper_pearson` is compared with.

    Raises:
        UsageError: more events than samples, or an alpha outside (0, 1).
    """
    _check(events, samples, alpha)
    if not samples:
        return Bounds(0.0, 1.0)
    share, half = events / samples, math.sqrt(-math.log(alpha) / (2 * samples))
    return Bounds(max(0.0, share - half), min(1.0, share + half))


def _check(events: int, samples: int, alpha: float) -> None:
    if not 0 <= events <= samples:
        raise UsageError(f"{events} of {samples} is no share.")
    if not 0 < alpha < 1:
        raise UsageError(
            f"A probability of error of {alpha:g} is none.",
            hint="Give a confidence between 0 and 1, such as 0.95.",
        )


def judge(events: int, samples: int, eps: float, alpha: float) -> Judgement:
    """Is P(event) <= eps? Kept or broken when a bound says so, each wrongly with probability alpha
    at most; else undecided.

    With eps = 0 a single event breaks the claim for sure, and no number of samples keeps it.
    """
    found = clopper_pearson(events, samples, alpha)
    if found.high <= eps:
        return "kept"
    return "broken" if found.low > eps else "undecided"


def samples_to_keep(eps: float, alpha: float, share: float = 0.0) -> int | None:
    """The fewest samples that keep a claim when this share of them are events; None when no number
    up to a million does.

    With share 0 it is ceil(ln alpha / ln(1 - eps)).
    """
    if not 0 <= share < eps:
        return None
    if eps >= 1:
        return 0
    if share == 0:
        return max(1, math.ceil(math.log(alpha) / math.log1p(-eps) - 1e-12))
    return _fewest(lambda n: clopper_pearson(math.ceil(share * n), n, alpha).high <= eps)


def samples_to_break(eps: float, alpha: float, share: float) -> int | None:
    """The fewest samples that break a claim when this share of them are events."""
    if share <= eps:
        return None
    return _fewest(lambda n: clopper_pearson(math.floor(share * n), n, alpha).low > eps)


def more_samples(events: int, samples: int, eps: float, alpha: float) -> int | None:
    """How many more samples decide an undecided claim if the share of events stays as it is.

    None when no number up to a million would: the share is too near eps, or eps is 0 and nothing
    was found.
    """
    share = events / samples if samples else 0.0
    needed = (
        samples_to_keep(eps, alpha, share) if share < eps else samples_to_break(eps, alpha, share)
    )
    return None if needed is None else max(1, needed - samples)


def _fewest(enough: Callable[[int], bool]) -> int | None:
    """The fewest samples that are enough, up to the steps that whole events make."""
    high = 1
    while not enough(high):
        high *= 2
        if high > MOST:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def claim_alpha(confidence: float, claims: int, spent: float = 1.0) -> float:
    """The alpha of each of so many claims: (1 - confidence) * spent / claims (Bonferroni).

    Args:
        spent: the share of 1 - confidence that this look may spend.

    Raises:
        UsageError: a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise UsageError(
            f"A confidence of {confidence:g} is none.", hint="Give one between 0 and 1: 0.95."
        )
    return (1 - confidence) * spent / max(1, claims)


def planned_share(looks: int) -> float:
    """What each of so many planned looks may spend of the probability of error."""
    return 1.0 / max(1, looks)


def open_share(look: int) -> float:
    """What look number `look` (from 1) may spend when nobody knows how many will follow:
    1 / (j (j + 1)), which sums to 1."""
    return 1.0 / (look * (look + 1))


def look_sizes(samples: int, looks: int) -> tuple[int, ...]:
    """After how many samples a verdict is sought: each look doubles what the one before saw."""
    sizes = [math.ceil(samples / 2**before) for before in reversed(range(max(1, looks)))]
    return tuple(dict.fromkeys(sizes))
