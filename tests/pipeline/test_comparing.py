"""Rules on what has no noise."""

from __future__ import annotations

import pytest

from mpo.errors import BaselineError, MpoError, UsageError
from mpo.pipeline.bench.comparing import judge_exact, judge_quality, sharing
from mpo.records import Quality
from mpo.rules import parse_rules


def quality(value: float, *, metric: str = "accuracy", samples: int = 100) -> Quality:
    lower = metric == "perplexity"
    return Quality(
        metric=metric, value=value, samples=samples, ci95=(value, value), lower_is_better=lower
    )


@pytest.mark.parametrize(
    ("text", "new", "old", "verdict", "estimate"),
    [
        ("size>0", 101, 100, "fail", 1.0),
        ("size>0", 100, 100, "pass", 0.0),
        ("size>1%", 101, 100, "pass", 1.0),
        ("nodes>0", 99, 100, "pass", -1.0),
        ("params>0", 0, 0, "pass", 0.0),
        ("params>0", 5, 0, "fail", None),
        ("macs>1k", 1001, None, "fail", 1001),
        ("size>-10%", 91, 100, "fail", -9.0),
    ],
)
def test_exact_figures_are_compared_to_the_last_byte(
    text: str, new: float, old: float | None, verdict: str, estimate: float | None
) -> None:
    (rule,) = parse_rules(text)
    found = judge_exact(rule, new, old)
    assert (found.verdict, found.pairing) == (verdict, "exact")
    assert found.estimate == (None if estimate is None else pytest.approx(estimate))


def test_a_figure_that_cannot_be_had_is_a_failure_never_a_pass() -> None:
    (rule,) = parse_rules("macs>0")
    for new, old in ((None, 5.0), (5.0, None)):
        with pytest.raises(MpoError, match="cannot be judged") as found:
            judge_exact(rule, new, old)
        assert found.value.exit_code == 1


@pytest.mark.parametrize(
    ("text", "new", "old", "verdict"),
    [
        ("accuracy<-0.5pp", 0.915, 0.92, "pass"),  # just half a point, whatever binary makes of it
        ("accuracy<-0.5pp", 0.914, 0.92, "fail"),
        ("accuracy<-1%", 0.912, 0.92, "pass"),
        ("accuracy<-1%", 0.91, 0.92, "fail"),
        ("accuracy<0.92", 0.92, 0.1, "pass"),
        ("accuracy<0", 0.92, 0.92, "pass"),
    ],
)
def test_quality_may_lose_what_the_rule_allows(
    text: str, new: float, old: float, verdict: str
) -> None:
    (rule,) = parse_rules(text)
    assert judge_quality(rule, quality(new), quality(old)).verdict == verdict


def test_a_metric_of_which_less_is_better_is_gated_upwards() -> None:
    (rule,) = parse_rules("quality>1%")
    old = quality(10.0, metric="perplexity")
    assert judge_quality(rule, quality(10.05, metric="perplexity"), old).verdict == "pass"
    assert judge_quality(rule, quality(10.2, metric="perplexity"), old).verdict == "fail"
    with pytest.raises(UsageError, match="more accuracy is better"):
        judge_quality(rule, quality(0.9), quality(0.9))


def test_quality_on_other_data_is_not_compared() -> None:
    (rule,) = parse_rules("accuracy<-1pp")
    for old in (None, quality(0.9, samples=50)):
        with pytest.raises(BaselineError):
            judge_quality(rule, quality(0.9), old)


def test_only_questions_put_to_noise_share_the_alarms() -> None:
    rules = parse_rules("latency>3%,memory>2%,size>0,latency.p90>12ms,accuracy<-1pp")
    assert sharing(rules, 2, stored=False) == 6
    assert sharing(rules, 1, stored=True) == 1
