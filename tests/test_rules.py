"""The language of --fail-on."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpo.errors import UsageError
from mpo.rules import MEASURES, OTHER_NAMES, Rule, parse_rules


def test_the_rules_of_the_documents_are_read() -> None:
    text = "latency>3%, memory>2%,size>0;accuracy<-0.5pp\nlatency.p90>12ms"
    found = [(one.metric, one.kind, one.above, one.value) for one in parse_rules(text)]
    assert found == [
        ("latency", "relative", True, 0.03),
        ("memory", "relative", True, 0.02),
        ("size", "relative", True, 0.0),
        ("accuracy", "points", False, -0.005),
        ("latency.p90", "absolute", True, 12.0),
    ]


@pytest.mark.parametrize(
    ("text", "metric", "kind", "limit"),
    [
        ("latency>12ms", "latency.p90", "absolute", 12.0),  # as in budgets
        ("latency.p10>3%", "latency", "relative", 1.03),
        ("latency>-20%", "latency", "relative", 0.8),  # at least a fifth faster
        ("LATENCY.P50 > 1s", "latency.p50", "absolute", 1000.0),
        ("memory.peak>50MB", "memory", "absolute", 50e6),
        ("params>500k", "params", "absolute", 5e5),
        ("size>0%", "size", "relative", 1.0),
        ("accuracy<0.92", "accuracy", "absolute", 0.92),
        ("quality>1%", "accuracy", "relative", 1.01),
    ],
)
def test_every_kind_of_limit(text: str, metric: str, kind: str, limit: float) -> None:
    (rule,) = parse_rules(text)
    assert (rule.metric, rule.kind) == (metric, kind)
    assert rule.limit == pytest.approx(limit)
    assert rule.needs_baseline == (kind != "absolute")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no rule"),
        (" , ", "names no rule"),
        ("latency", "is no rule"),
        ("latency=3%", "is no rule"),
        ("latncy>3%", "Did you mean 'latency'?"),
        ("latency.p95>3%", "unknown metric 'latency.p95'"),
        ("latency>3", "no limit for latency"),
        ("latency>3MB", "no limit for latency"),
        ("memory>3ms", "no limit for memory"),
        ("size>-5kB", "no limit for size"),
        ("latency<3%", "being better"),
        ("latency>0", "no room"),
        ("memory>0%", "no room"),
        ("latency>-100%", "less than nothing"),
        ("latency.p10>3ms", "ratio only"),
        ("accuracy<0.5pp", "as good as the baseline"),
        ("accuracy<five", "no limit for accuracy"),
        ("latency>nan%", "not a number"),
        ("latency>5XB", "unknown unit"),
        ("latency>3%%", "unknown unit"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_says_why(text: str, said: str) -> None:
    with pytest.raises(UsageError) as found:
        parse_rules(text)
    assert said in found.value.message
    assert found.value.hint


@given(st.text(max_size=40))
def test_any_text_is_rules_or_a_usage_error(text: str) -> None:
    try:
        rules = parse_rules(text)
    except UsageError:
        return
    assert rules
    assert all(rule.metric in MEASURES and math.isfinite(rule.value) for rule in rules)


@given(
    st.sampled_from(sorted({*MEASURES, *OTHER_NAMES} - {"accuracy", "accuracy.top1", "quality"})),
    st.decimals("0.01", "500", places=2),
)
def test_every_metric_takes_a_percentage(name: str, percent: object) -> None:
    (rule,) = parse_rules(f"{name}>{percent}%")
    assert rule == Rule(f"{name}>{percent}%", rule.metric, "relative", True, rule.value)
    assert rule.value == pytest.approx(float(str(percent)) / 100)
