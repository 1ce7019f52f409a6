"""How much worse can a model be, by the same examples judged with the original and with it? Pure.

For decisions that are right or wrong, only discordant pairs tell: b examples lost (the original was
right, the candidate is not) and c gained, of n. The drop is p_b - p_c, and its bound inverts the
score test of a difference of paired shares (Tango 1998, Statistics in Medicine 17, 891-908):
the largest D whose

    z(D) = (b - c - n D) / sqrt(n (2 q + D - D^2))

is not below -z_alpha, q being the likeliest p_c given D. An approximation: over a grid of n from 50
to 5,000 and discordant shares up to 20 %, computed exactly, it misses in at most 1.04 alpha of all
cases at alpha = 2.5 % and in alpha or less below that (at 5 %, which is never used here, in 1.19
alpha). Where nothing can be gained, as when agreement with the original itself is judged, the drop
is a plain share, and Clopper and Pearson's exact bound holds (mpo/bounds.py).

For anything else examples are drawn anew, the same ones for both models, and a quantile of drops is
taken (percentile bootstrap, Efron & Tibshirani 1993, ch. 13). What no example shows is not drawn:
so the bound is never nearer to the drop than 1 - alpha^(1/n), what a kind of example may weigh that
was missed by all n (the exact bound of a share with no event).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import special

from mpo.bounds import clopper_pearson

RESAMPLES = 1000
MOST = 10**8  # examples, beyond which no number is named
HALVINGS = 60
Rows = NDArray[np.int64]


def score_bound(lost: float, gained: float, samples: float, alpha: float) -> float:
    """Upper bound of p_lost - p_gained, missed with probability alpha (see the module's head).

    Args:
        lost: examples that only the original got right; fractions are fine.
        gained: examples that only the candidate got right.
        samples: all examples, n > 0.
        alpha: in (0, 0.5).
    """
    z = float(special.ndtri(1 - alpha))
    low, high = (lost - gained) / samples, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if _score(lost, gained, samples, middle) < -z:
            high = middle
        else:
            low = middle
    return high


def _score(lost: float, gained: float, samples: float, drop: float) -> float:
    a = 2 * samples
    b = -lost - gained + (2 * samples - lost + gained) * drop
    c = -gained * drop * (1 - drop)
    share = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    spread = samples * (2 * share + drop - drop * drop)
    return (lost - gained - samples * drop) / math.sqrt(max(spread, 1e-300))


def share_bound(lost: int, samples: int, alpha: float) -> float:
    """Exact upper bound of p_lost where nothing can be gained."""
    return clopper_pearson(lost, samples, alpha).high


def resampled_bound(
    drop: Callable[[Rows], float], samples: int, alpha: float, *, seed: int = 0
) -> float | None:
    """Upper bound of a drop from examples drawn anew; None when half of the draws give no number.

    Args:
        drop: the drop on these examples, as indices [n]; NaN where it is not defined.
        samples: all examples, n > 0.
        alpha: in (0, 1); below 1 / 1000 more examples are drawn, or the largest draw, which then
            stands for the quantile, would be missed more often than that.
    """
    generator = np.random.default_rng(seed)
    point, draws = drop(np.arange(samples)), max(RESAMPLES, math.ceil(1 / alpha))
    drawn = [drop(generator.integers(samples, size=samples)) for _ in range(draws)]
    finite = sorted(one for one in drawn if math.isfinite(one))
    if not math.isfinite(point) or 2 * len(finite) < draws:
        return None
    place = math.ceil((len(finite) + 1) * (1 - alpha)) - 1
    unseen = -math.expm1(math.log(alpha) / samples)
    return max(finite[min(place, len(finite) - 1)], point + unseen)


def samples_needed(bound: Callable[[float], float], samples: int, allowed: float) -> int | None:
    """The fewest examples with which the bound is at most `allowed`, if their shares stay as they
    are; None when no number up to a hundred million is enough.

    Args:
        bound: the bound with this many times as many examples.
        samples: how many there are.
    """
    high = 1.0
    while bound(high) > allowed:
        high *= 2
        if high * samples > MOST:
            return None
    low = high / 2
    while (high - low) * samples > 1:
        middle = (low + high) / 2
        low, high = (low, middle) if bound(middle) <= allowed else (middle, high)
    return math.ceil(high * samples)
