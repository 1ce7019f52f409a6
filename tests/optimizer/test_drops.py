"""Bounds of a drop: how often they are missed, computed and not assumed."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import special, stats

from mpo.optimizer.data.drops import (
    resampled_bound,
    samples_needed,
    score_bound,
    share_bound,
)


def misses(samples: int, lost: float, gained: float, alpha: float) -> float:
    """The exact probability that the bound is below the true drop: a sum over all outcomes."""
    most = [int(stats.binom.ppf(1 - 1e-7, samples, share)) + 1 for share in (lost, gained)]
    total = 0.0
    for b, c in itertools.product(range(most[0] + 1), range(most[1] + 1)):
        rest = samples - b - c
        if rest < 0 or score_bound(b, c, samples, alpha) >= lost - gained - 1e-12:
            continue
        logs = special.gammaln(samples + 1) - sum(special.gammaln(x + 1) for x in (b, c, rest))
        logs += special.xlogy(b, lost) + special.xlogy(c, gained)
        total += math.exp(logs + special.xlogy(rest, 1 - lost - gained))
    return total


@pytest.mark.parametrize("alpha", [0.025, 0.05 / 6])
@pytest.mark.parametrize(
    ("samples", "lost", "gained"),
    [(50, 0.1, 0.06), (200, 0.03, 0.0), (200, 0.05, 0.05), (500, 0.01, 0.003), (1000, 0.01, 0.01)],
)
def test_the_score_bound_is_missed_no_oftener_than_promised(
    samples: int, lost: float, gained: float, alpha: float
) -> None:
    assert misses(samples, lost, gained, alpha) <= 1.05 * alpha


def test_the_score_bound_is_that_of_one_share_when_nothing_is_gained_or_lost() -> None:
    z = float(special.ndtri(0.975))
    assert score_bound(0, 0, 1000, 0.025) == pytest.approx(z * z / (1000 + z * z))
    assert score_bound(0, 0, 1000, 0.025) >= share_bound(0, 1000, 0.025)


def test_the_score_bound_stands_where_the_score_is_minus_z() -> None:
    """Against the quadratic's own definition: the likeliest nuisance share by brute force."""
    b, c, n, alpha = 30.0, 18.0, 400.0, 0.025
    bound = score_bound(b, c, n, alpha)
    grid = np.linspace(1e-6, 0.5, 200_001)
    inside = 1 - 2 * grid - bound
    fits = inside > 0
    likelihood = (
        b * np.log(grid[fits] + bound) + c * np.log(grid[fits]) + (n - b - c) * np.log(inside[fits])
    )
    q = grid[fits][likelihood.argmax()]
    score = (b - c - n * bound) / math.sqrt(n * (2 * q + bound - bound**2))
    assert score == pytest.approx(-special.ndtri(1 - alpha), abs=1e-3)


def test_the_bootstrap_bound_of_a_mean_is_near_the_exact_one_and_never_below_the_unseen() -> None:
    draws = np.random.default_rng(0).normal(0.0, 1.0, 400)
    found = resampled_bound(lambda rows: float(draws[rows].mean()), 400, 0.025)
    assert found is not None
    assert found == pytest.approx(draws.mean() + 1.96 / 20, abs=0.02)
    same = resampled_bound(lambda rows: 0.0, 100, 0.025)
    assert same == pytest.approx(1 - 0.025 ** (1 / 100))


def test_draws_that_give_no_number_give_no_bound() -> None:
    assert resampled_bound(lambda rows: math.nan, 10, 0.025) is None


def test_the_samples_that_would_prove_a_drop_prove_it_and_one_in_ten_less_do_not() -> None:
    def bound(times: float) -> float:
        return score_bound(7 * times, 8 * times, 512 * times, 0.025)

    needed = samples_needed(bound, 512, 0.01)
    assert needed is not None
    assert bound(needed / 512) <= 0.01 < bound(0.9 * needed / 512)
    assert samples_needed(lambda times: 0.02, 512, 0.01) is None
