"""Pass, fail or inconclusive, and the intervals that say so. Pure: numbers in, numbers out.

A paired value is ln(new / old) of one process that timed both models in turn: the process is the
statistical unit, because iterations inside one are not independent (MEASURING.md 0.1). The
Hodges-Lehmann estimate with exact Wilcoxon signed-rank bounds assumes only that the differences are
symmetric about their median.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from mpo.errors import UsageError

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]
Floats = NDArray[np.float64]
ALPHA_FAIL = 0.005  # one-sided: how often an unchanged model may be called changed, per look
ALPHA_PASS = 0.0125  # one-sided: how often a model at the limit may pass, per look
# Looking again after more pairs is a new chance to be wrong: the alphas above are 0.02 and 0.05,
# split evenly over these four looks (MEASURING.md 1.3 d).
LOOKS = (8, 12, 20, 40)
POWER = 0.9  # how often a change of the minimum detectable size is confirmed
DRAWS = 4000


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Decision:
    """A verdict with the ratio and the bounds that decided, and after how many pairs."""

    verdict: Verdict
    interval: Interval
    pairs: int


def _finite(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64).reshape(-1)
    if len(array) == 0 or not np.isfinite(array).all():
        raise UsageError(f"{len(array)} values, not all of them finite, decide nothing.")
    return array


def percentile(values: ArrayLike, share: float) -> float:
    """The `share` quantile (0.9 for p90), linear between neighbours.

    Raises:
        UsageError: no values, or values that are not finite.
    """
    return float(np.quantile(_finite(values), share))


def walsh_averages(values: ArrayLike) -> Floats:
    """Sorted means of all pairs i <= j: n (n + 1) / 2 of them."""
    array = _finite(values)
    first, second = np.triu_indices(len(array))
    return np.sort((array[first] + array[second]) / 2)


def signed_rank_counts(pairs: int) -> list[int]:
    """How many of the 2^n sign patterns give each sum of positive ranks, 0 to n (n + 1) / 2."""
    counts = [0] * (pairs * (pairs + 1) // 2 + 1)
    counts[0] = 1
    for rank in range(1, pairs + 1):
        for total in range(len(counts) - 1, rank - 1, -1):
            counts[total] += counts[total - rank]
    return counts


@functools.cache
def wilcoxon_critical(pairs: int, alpha: float) -> int:
    """The largest c with P(W+ <= c) <= alpha when nothing differs; -1 when there is none."""
    below, everything = 0, 2**pairs
    for total, count in enumerate(signed_rank_counts(pairs)):
        below += count
        if below / everything > alpha:
            return total - 1
    return pairs * (pairs + 1) // 2


def hodges_lehmann(values: ArrayLike) -> float:
    """The median of the Walsh averages: robust centre of paired differences."""
    return float(np.median(walsh_averages(values)))


def wilcoxon_interval(values: ArrayLike, alpha: float) -> Interval:
    """Hodges-Lehmann with exact one-sided bounds, each missed with probability at most `alpha`.

    A two-sided 95 % interval is alpha = 0.025. Bounds are infinite when there are too few values: a
    bound at alpha needs 2^-n <= alpha, so 0.025 needs 6 pairs and 0.005 needs 8.
    """
    averages = walsh_averages(values)
    critical = wilcoxon_critical(len(_finite(values)), alpha)
    estimate = float(np.median(averages))
    if critical < 0:
        return Interval(estimate, -math.inf, math.inf)
    return Interval(estimate, float(averages[critical]), float(averages[-1 - critical]))


def ratio_interval(log_ratios: ArrayLike, confidence: float = 0.95) -> Interval:
    """Ratio new / old with a two-sided interval, from one ln(new / old) per pair."""
    found = wilcoxon_interval(log_ratios, (1 - confidence) / 2)
    high = math.exp(found.high) if found.high < math.inf else math.inf
    return Interval(math.exp(found.estimate), math.exp(found.low), high)


def decide(log_ratios: ArrayLike, limit: float, *, rules: int = 1) -> tuple[Verdict, Interval]:
    """Is new / old below `limit`? The verdict with the ratio and the bounds that decided.

    PASS says so: the upper bound (one-sided 98.75 %) is below the limit. FAIL: the estimate reaches
    the limit and the ratio is above min(limit, 1) by its lower bound (one-sided 99.5 %). Else
    INCONCLUSIVE: "not significant" never means PASS.

    Args:
        log_ratios: ln(new / old), one per pair; below 8 pairs nothing can fail, below 7 nothing
            pass.
        limit: 1.03 allows three per cent more.
        rules: how many such questions are asked at once. Each of them could raise a false alarm,
            so they share the alpha of FAIL (Bonferroni); to PASS all must pass, which needs no
            correction.

    Raises:
        UsageError: a limit that is not positive, no values, or values that are not finite.
    """
    if not (math.isfinite(limit) and limit > 0):
        raise UsageError(f"A limit of {limit:g} is no ratio; it must be greater than zero.")
    lower = wilcoxon_interval(log_ratios, ALPHA_FAIL / rules)
    upper = wilcoxon_interval(log_ratios, ALPHA_PASS).high
    interval = Interval(
        math.exp(lower.estimate),
        math.exp(lower.low),
        math.exp(upper) if upper < math.inf else math.inf,
    )
    bound = math.log(limit)
    if upper < bound:
        return "PASS", interval
    if lower.estimate >= bound and lower.low > min(bound, 0.0):
        return "FAIL", interval
    return "INCONCLUSIVE", interval


def sequential(
    log_ratios: ArrayLike, limit: float, *, looks: Sequence[int] = LOOKS, rules: int = 1
) -> Decision:
    """The verdict of the first look that decides; INCONCLUSIVE when none of those reached does.

    Args:
        log_ratios: ln(new / old), one per pair, in the order in which they were measured.
        limit: of the ratio, as `decide` takes it.
        looks: after how many pairs a verdict is sought; pairs beyond the last look reached do not
            count, because every other moment of looking would cost alpha of its own.
        rules: as `decide` takes it.

    Raises:
        UsageError: as `decide` does.
    """
    values = _finite(log_ratios)
    reached = [look for look in looks if look <= len(values)]
    for look in reached:
        verdict, interval = decide(values[:look], limit, rules=rules)
        if verdict != "INCONCLUSIVE":
            return Decision(verdict, interval, look)
    pairs = reached[-1] if reached else len(values)
    return Decision("INCONCLUSIVE", decide(values[:pairs], limit, rules=rules)[1], pairs)


def decide_apart(
    new: ArrayLike, old: ArrayLike, limit: float, *, drift: float = 0.0
) -> tuple[Verdict, Interval]:
    """Is new / old below `limit`, when both were measured at different times?

    Nothing then cancels what the machine did meanwhile, so the bounds are the widest there can be:
    the smallest new figure over the largest old one, the largest over the smallest, both widened by
    `drift`. PASS and FAIL need the limit outside of them.

    Args:
        new: one positive figure a process.
        old: the same, measured before.
        limit: of the ratio.
        drift: by how much the machine itself may have changed: 0.08 for 8 %.

    Raises:
        UsageError: no figures, or figures that are not finite and positive.
    """
    first, second = _finite(new), _finite(old)
    if min(first.min(), second.min()) <= 0:
        raise UsageError("Figures that are zero or less have no ratio.")
    interval = Interval(
        float(np.median(first) / np.median(second)),
        float(first.min() / second.max()) / (1 + drift),
        float(first.max() / second.min()) * (1 + drift),
    )
    if interval.high < limit:
        return "PASS", interval
    return ("FAIL" if interval.low >= limit else "INCONCLUSIVE"), interval


def minimum_detectable(sd_log: float, pairs: int, limit: float = 1.0, *, rules: int = 1) -> float:
    """The ratio new / old that `decide` would call FAIL nine times in ten, with so much noise.

    A true shift moves estimate and bound alike, so each draw of pure noise tells the shift that it
    needs: until the lower bound passes zero and the estimate reaches the limit.

    Args:
        sd_log: standard deviation of ln(new / old) over pairs; noise is taken as normal.
        pairs: how many; with fewer than can ever fail, the fewest looked at that can.
        limit: of the ratio; 1 asks only what noise hides.
        rules: as `decide` takes it.
    """
    able = [look for look in LOOKS if wilcoxon_critical(look, ALPHA_FAIL / rules) >= 0]
    estimates, lows = _noise_draws(max(pairs, *able[:1], 1), rules)
    needed = np.maximum(-sd_log * lows, math.log(limit) - sd_log * estimates)
    return math.exp(float(np.quantile(needed, POWER)))


@functools.cache
def _noise_draws(pairs: int, rules: int) -> tuple[Floats, Floats]:
    """Estimates and lower bounds of normal noise with standard deviation 1; the seed is fixed."""
    random = np.random.default_rng(0)
    found = [
        wilcoxon_interval(random.standard_normal(pairs), ALPHA_FAIL / rules) for _ in range(DRAWS)
    ]
    return np.array([one.estimate for one in found]), np.array([one.low for one in found])


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share, both bounds in [0, 1] (Wilson 1927).

    Raises:
        UsageError: no trials, or more successes than trials.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise UsageError(f"{successes} of {trials} is no share.")
    z = float(special.ndtri(0.5 + confidence / 2))
    share, square = successes / trials, z * z / trials
    centre = (share + square / 2) / (1 + square)
    half = z * math.sqrt(share * (1 - share) / trials + square / (4 * trials)) / (1 + square)
    # At the ends the formula gives exactly 0 and 1, but for rounding.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return low, high


def bootstrap_interval(
    count: int,
    statistic: Callable[[NDArray[np.intp]], float],
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap of any figure over examples (Efron 1979).

    Args:
        count: examples.
        statistic: the figure of the examples with these indices [count], drawn with replacement.

    Raises:
        UsageError: no examples, or a figure that is not finite on every draw.
    """
    if count < 1:
        raise UsageError("An interval needs at least one example.")
    random = np.random.default_rng(seed)
    drawn = [statistic(random.integers(0, count, count)) for _ in range(resamples)]
    tail = (1 - confidence) / 2
    return percentile(drawn, tail), percentile(drawn, 1 - tail)


def mean_interval(values: Sequence[float] | Floats, confidence: float = 0.95) -> Interval:
    """The mean with its bootstrap interval."""
    array = _finite(values)
    low, high = bootstrap_interval(
        len(array), lambda rows: float(array[rows].mean()), confidence=confidence
    )
    return Interval(float(array.mean()), low, high)
