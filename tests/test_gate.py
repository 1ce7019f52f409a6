"""Intervals and verdicts against scipy, tables and brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mpo.errors import UsageError
from mpo.gate import (
    ALPHA_FAIL,
    LOOKS,
    bootstrap_interval,
    decide,
    decide_apart,
    hodges_lehmann,
    mean_interval,
    minimum_detectable,
    percentile,
    ratio_interval,
    sequential,
    signed_rank_counts,
    wilcoxon_critical,
    wilcoxon_interval,
    wilson_interval,
)

logs = st.lists(st.floats(-1, 1), min_size=8, max_size=14)


def test_the_signed_rank_distribution_is_that_of_all_sign_patterns() -> None:
    patterns = itertools.product((0, 1), repeat=6)
    sums = [sum(rank for rank, sign in enumerate(signs, 1) if sign) for signs in patterns]
    assert signed_rank_counts(6) == np.bincount(sums, minlength=22).tolist()


@pytest.mark.parametrize(
    ("pairs", "alpha", "critical"),
    # The usual tables: reject when W <= critical.
    [
        (5, 0.025, -1),
        (6, 0.025, 0),
        (8, 0.025, 3),
        (10, 0.025, 8),
        (20, 0.025, 52),
        (8, 0.005, 0),
        (10, 0.005, 3),
    ],
)
def test_critical_values_are_those_of_the_printed_tables(
    pairs: int, alpha: float, critical: int
) -> None:
    assert wilcoxon_critical(pairs, alpha) == critical


def test_hodges_lehmann_is_the_median_of_all_pair_means() -> None:
    assert hodges_lehmann([1, 2, 9]) == pytest.approx(3.5)  # of 1, 1.5, 2, 5, 5.5, 9
    assert hodges_lehmann([4.0]) == 4.0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(6, 12))
def test_the_interval_holds_exactly_the_centres_that_the_signed_rank_test_accepts(
    seed: int, pairs: int
) -> None:
    values = np.random.default_rng(seed).normal(size=pairs)
    interval = wilcoxon_interval(values, 0.025)
    for centre, inside in (
        (interval.low - 1e-6, False),
        (interval.low + 1e-6, True),
        (interval.high - 1e-6, True),
        (interval.high + 1e-6, False),
    ):
        p = stats.wilcoxon(values - centre, method="exact").pvalue
        assert (p > 0.05) == inside


def test_too_few_pairs_bound_nothing() -> None:
    interval = wilcoxon_interval([0.1] * 5, 0.025)
    assert (interval.low, interval.high) == (-math.inf, math.inf)
    assert ratio_interval([0.1] * 5).high == math.inf


@given(logs, st.floats(-0.5, 0.5))
def test_the_interval_moves_with_the_values_and_turns_with_their_sign(
    values: list[float], shift: float
) -> None:
    plain = wilcoxon_interval(values, 0.025)
    moved = wilcoxon_interval(np.add(values, shift), 0.025)
    turned = wilcoxon_interval(np.negative(values), 0.025)
    assert plain.low <= plain.estimate <= plain.high
    assert moved.low == pytest.approx(plain.low + shift, abs=1e-9)
    assert turned.high == pytest.approx(-plain.low, abs=1e-12)


def test_the_verdicts_need_their_evidence() -> None:
    noise = np.linspace(-0.004, 0.004, 8)
    assert decide(noise, 1.03)[0] == "PASS"
    assert decide(noise + 0.05, 1.03)[0] == "FAIL"
    assert decide(noise + 0.0290, 1.03)[0] == "INCONCLUSIVE"
    assert decide([0.0] * 5, 1.03)[0] == "INCONCLUSIVE"
    assert decide([0.5] * 7, 1.03)[0] == "INCONCLUSIVE"
    assert decide(noise - 0.6, 0.6)[0] == "PASS"
    assert decide(noise - 0.3, 0.6)[0] == "FAIL"


@given(logs, st.floats(0, 0.5))
def test_a_slower_model_never_gets_a_better_verdict(values: list[float], slower: float) -> None:
    order = ["PASS", "INCONCLUSIVE", "FAIL"]
    before, after = decide(values, 1.03)[0], decide(np.add(values, slower), 1.03)[0]
    assert order.index(after) >= order.index(before)


def test_two_thousand_unchanged_models_raise_hardly_any_alarm() -> None:
    random = np.random.default_rng(0)
    verdicts = [decide(random.normal(0, 0.02, 8), 1.03)[0] for _ in range(2000)]
    assert verdicts.count("FAIL") <= 20


def test_the_wilson_interval_matches_scipy_and_stays_a_share() -> None:
    for successes, trials in ((0, 10), (7, 10), (10, 10), (496, 497), (1, 1)):
        want = stats.binomtest(successes, trials).proportion_ci(method="wilson")
        assert wilson_interval(successes, trials) == pytest.approx((want.low, want.high), abs=1e-12)
    assert wilson_interval(0, 10)[0] == 0.0
    assert wilson_interval(10, 10)[1] == 1.0


def test_the_bootstrap_of_a_mean_agrees_with_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(10, 2, 400)
    found = mean_interval(values)
    half = 1.96 * values.std() / 20
    assert found.estimate == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.03)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03)
    assert found == mean_interval(values)


def test_a_percentile_lies_between_neighbours() -> None:
    assert percentile([1, 2, 3, 4], 0.5) == 2.5
    assert percentile([5], 0.9) == 5


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_what_is_no_finite_number_is_refused(values: list[float]) -> None:
    with pytest.raises(UsageError):
        percentile(values, 0.5)
    with pytest.raises(UsageError):
        decide(values, 1.03)


def test_impossible_shares_and_limits_are_refused() -> None:
    for successes, trials in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(UsageError):
            wilson_interval(successes, trials)
    with pytest.raises(UsageError):
        decide([0.0] * 8, 0)
    with pytest.raises(UsageError):
        bootstrap_interval(0, lambda rows: 0.0)


# MEASURING.md 1.3 c: standard deviations of a process and of the drift within a pair.
HOSTED = (0.010, 0.004)
NOISY = (0.025, 0.010)


def noise(random: np.random.Generator, kind: tuple[float, float], pairs: int = 40) -> list[float]:
    """ln(new / old) of pairs of one and the same model."""
    process, drift = kind
    apart = random.normal(0, process, (2, pairs))
    return (apart[0] - apart[1] + random.normal(0, drift, pairs)).tolist()


@pytest.mark.parametrize("kind", [HOSTED, NOISY])
def test_looking_four_times_raises_hardly_any_alarm_on_an_unchanged_model(
    kind: tuple[float, float],
) -> None:
    random = np.random.default_rng(0)
    verdicts = [sequential(noise(random, kind), 1.03).verdict for _ in range(2000)]
    assert verdicts.count("FAIL") <= 20
    assert verdicts.count("PASS") >= 1900


def test_five_per_cent_more_fails_a_gate_of_three_on_a_hosted_machine() -> None:
    random = np.random.default_rng(1)
    found = [sequential(np.add(noise(random, HOSTED), math.log(1.05)), 1.03) for _ in range(1000)]
    assert sum(one.verdict == "FAIL" for one in found) >= 990
    assert np.mean([one.pairs for one in found]) < 10


def test_a_regression_of_just_the_limit_seldom_passes() -> None:
    random = np.random.default_rng(2)
    values = [np.add(noise(random, HOSTED), math.log(1.03)) for _ in range(2000)]
    assert sum(sequential(one, 1.03).verdict == "PASS" for one in values) <= 0.05 * 2000


def test_two_modes_leave_the_question_open() -> None:
    values = [0.0, 0.09] * 6  # a machine that is fast or slow, by turns
    found = sequential(values, 1.03, looks=LOOKS[:1])
    assert (found.verdict, found.pairs) == ("INCONCLUSIVE", 8)
    assert found.interval.low <= 1 < 1.03 <= found.interval.high


def test_the_first_look_that_decides_has_the_word() -> None:
    quiet = np.linspace(-0.004, 0.004, 8)
    early = sequential([*(quiet + 0.05), *[0.0] * 32], 1.03)
    assert (early.verdict, early.pairs) == ("FAIL", 8)
    assert sequential(quiet[:7], 1.03).verdict == "INCONCLUSIVE"
    # Between two looks nothing is decided.
    odd = [*np.linspace(-0.04, 0.08, 8), *[0.001] * 3]
    assert sequential(odd, 1.03).pairs == 8


def test_rules_that_are_asked_together_share_the_alarms() -> None:
    slower = np.linspace(0.046, 0.054, 12)
    assert sequential(slower, 1.03).pairs == 8
    both = sequential(slower, 1.03, rules=2)
    assert (both.verdict, both.pairs) == ("FAIL", 12)
    assert wilcoxon_critical(8, ALPHA_FAIL / 2) == -1
    assert sequential(slower - 0.05, 1.03, rules=2).pairs == 8  # to pass needs no share


@given(logs, st.floats(0, 0.5))
def test_more_work_never_helps_in_any_number_of_looks(values: list[float], slower: float) -> None:
    order = ["PASS", "INCONCLUSIVE", "FAIL"]
    many = (values * 5)[:40]
    before = sequential(many[:8], 1.03).verdict
    after = sequential(np.add(many[:8], slower), 1.03).verdict
    assert order.index(after) >= order.index(before)


@given(logs)
def test_a_regression_seen_from_the_other_model_is_an_improvement(values: list[float]) -> None:
    there, back = decide(values, 1.03), decide(np.negative(values), 1.03)
    assert there[1].estimate == pytest.approx(1 / back[1].estimate)
    if there[0] == "FAIL":
        assert back[0] == "PASS"


def test_what_can_be_detected_is_detected_nine_times_in_ten() -> None:
    random, spread = np.random.default_rng(3), 0.012
    size = minimum_detectable(spread, 12, 1.03)
    assert 1.03 < size < 1.05
    shifted = [random.normal(math.log(size), spread, 12) for _ in range(1000)]
    found = [decide(one, 1.03)[0] for one in shifted]
    assert 870 <= found.count("FAIL") <= 930
    assert minimum_detectable(2 * spread, 12) > minimum_detectable(spread, 12) > 1
    assert minimum_detectable(0.0, 8, 1.03) == pytest.approx(1.03)
    # Two rules cannot fail with 8 pairs: the figure is that of the next look.
    assert minimum_detectable(spread, 8, rules=2) == minimum_detectable(spread, LOOKS[1], rules=2)


def test_figures_of_different_times_decide_only_beyond_all_that_was_seen() -> None:
    old = [10.0, 10.1, 10.2]
    assert decide_apart([10.1, 10.0, 10.3], old, 1.10)[0] == "PASS"
    assert decide_apart([10.1, 10.0, 10.3], old, 1.02)[0] == "INCONCLUSIVE"
    assert decide_apart([12.0, 12.1], old, 1.10)[0] == "FAIL"
    drifted = decide_apart([12.0, 12.1], old, 1.10, drift=0.08)
    assert drifted[0] == "INCONCLUSIVE"
    assert drifted[1].low == pytest.approx(12.0 / 10.2 / 1.08)
    with pytest.raises(UsageError):
        decide_apart([0.0], old, 1.1)
