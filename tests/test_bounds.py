"""Exact bounds of a share, against the definition, published figures and counted coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mpo.bounds import (
    claim_alpha,
    clopper_pearson,
    hoeffding,
    judge,
    look_sizes,
    more_samples,
    open_share,
    planned_share,
    samples_to_break,
    samples_to_keep,
)
from mpo.errors import UsageError


@pytest.mark.parametrize(
    ("events", "samples", "high"),
    [(0, 300, 0.0099), (0, 1000, 0.0030), (5, 1000, 0.0105), (10, 1000, 0.0169)],
)
def test_upper_bounds_equal_published_figures(events: int, samples: int, high: float) -> None:
    assert clopper_pearson(events, samples, 0.05).high == pytest.approx(high, abs=5e-5)


@given(st.integers(1, 400), st.floats(0, 1), st.sampled_from([0.001, 0.05, 0.2]))
def test_bounds_solve_the_binomial_tails_that_define_them(n: int, share: float, a: float) -> None:
    k = round(share * n)
    found = clopper_pearson(k, n, a)
    assert found.low <= k / n <= found.high
    if k < n:
        assert stats.binom.cdf(k, n, found.high) == pytest.approx(a, rel=1e-6)
    if k > 0:
        assert stats.binom.sf(k - 1, n, found.low) == pytest.approx(a, rel=1e-6)


def test_no_probability_is_covered_less_often_than_stated() -> None:
    n, alpha = 40, 0.05
    high = np.array([clopper_pearson(k, n, alpha).high for k in range(n + 1)])
    for p in np.linspace(0.001, 0.999, 301):
        missed = stats.binom.pmf(np.arange(n + 1), n, p)[high < p].sum()
        assert missed <= alpha + 1e-12, p


def test_exact_bounds_are_tighter_than_hoeffdings_where_events_are_rare() -> None:
    assert hoeffding(0, 1000, 0.05).high == pytest.approx(0.0387, abs=5e-5)
    for k in (0, 5, 50):
        assert clopper_pearson(k, 1000, 0.05).high < hoeffding(k, 1000, 0.05).high


def test_without_samples_nothing_is_known() -> None:
    assert (clopper_pearson(0, 0, 0.05).low, clopper_pearson(0, 0, 0.05).high) == (0.0, 1.0)
    assert judge(0, 0, 0.5, 0.05) == "undecided"


@pytest.mark.parametrize(("eps", "alpha", "samples"), [(0.01, 0.05, 299), (0.005, 0.01, 919)])
def test_the_fewest_samples_without_an_event_are_the_published_ones(
    eps: float, alpha: float, samples: int
) -> None:
    assert samples_to_keep(eps, alpha) == samples
    assert judge(0, samples, eps, alpha) == "kept"
    assert judge(0, samples - 1, eps, alpha) == "undecided"


def test_the_samples_that_are_asked_for_decide() -> None:
    keep = samples_to_keep(0.05, 0.05, 0.02)
    assert keep is not None
    assert judge(math.ceil(0.02 * keep), keep, 0.05, 0.05) == "kept"
    broken = samples_to_break(0.05, 0.05, 0.1)
    assert broken is not None
    assert judge(math.floor(0.1 * broken), broken, 0.05, 0.05) == "broken"


def test_more_samples_are_told_until_none_would_help() -> None:
    assert more_samples(0, 100, 0.01, 0.05) == 199
    assert more_samples(5, 100, 0.05, 0.05) is None
    assert more_samples(0, 100, 0.0, 0.05) is None


def test_with_eps_zero_one_event_breaks_and_nothing_keeps() -> None:
    assert judge(1, 10**6, 0.0, 0.05) == "broken"
    assert judge(0, 10**6, 0.0, 0.05) == "undecided"


def test_claims_and_looks_share_the_probability_of_error() -> None:
    assert claim_alpha(0.95, 5) == pytest.approx(0.01)
    assert claim_alpha(0.95, 5, planned_share(4)) == pytest.approx(0.0025)
    assert sum(open_share(look) for look in range(1, 10_000)) == pytest.approx(1, abs=1e-3)
    assert look_sizes(1000, 3) == (250, 500, 1000)
    assert look_sizes(1, 4) == (1,)


def test_looking_four_times_raises_no_more_false_verdicts_than_stated() -> None:
    random = np.random.default_rng(0)
    eps, looks, trials = 0.05, look_sizes(800, 4), 2000
    alpha = claim_alpha(0.95, 1, planned_share(4))
    verdicts = {(k, n): judge(k, n, eps, alpha) for n in looks for k in range(n // 4)}
    # exactly at the limit "kept" is right and "broken" wrong; just above it is the other way round
    for p, wrong in ((eps, "broken"), (eps + 1e-9, "kept")):
        drawn = (random.random((trials, 800)) < p).cumsum(1)
        false = sum(any(verdicts[int(row[n - 1]), n] == wrong for n in looks) for row in drawn)
        assert false / trials <= 0.05


@pytest.mark.parametrize(("events", "samples", "alpha"), [(2, 1, 0.1), (-1, 5, 0.1), (1, 5, 0.0)])
def test_what_is_no_share_is_refused(events: int, samples: int, alpha: float) -> None:
    for bound in (clopper_pearson, hoeffding):
        with pytest.raises(UsageError):
            bound(events, samples, alpha)


def test_a_confidence_of_one_is_refused() -> None:
    with pytest.raises(UsageError, match="confidence"):
        claim_alpha(1.0, 3)
