"""The pieces that every view shares."""

from collections.abc import Callable

import pytest

from mpo.records import BudgetResult, Report
from mpo.render.text import (
    budget_line,
    candidates,
    chosen_candidate,
    format_seconds,
    quality_change,
    rows,
    signed,
    verdict,
)


@pytest.mark.parametrize(
    ("name", "word", "tone"),
    [
        ("good", "Met", "good"),
        ("already_met", "Already met", "good"),
        ("infeasible", "Infeasible", "bad"),
        ("large", "Below the quality floor", "bad"),
        ("bare", "Done", "good"),
    ],
)
def test_the_verdict_says_what_came_out(
    reports: dict[str, Report], name: str, word: str, tone: str
) -> None:
    outcome = verdict(reports[name])
    assert (outcome.word, outcome.tone) == (word, tone)


def test_an_infeasible_verdict_names_the_budget_that_binds_with_its_numbers(
    reports: dict[str, Report],
) -> None:
    assert "Latency p90 2.31 ms > 1 ms" in verdict(reports["infeasible"]).sentence
    assert "-0.4 points" in verdict(reports["infeasible"]).sentence


def test_a_budget_line_never_prints_two_equal_numbers_for_different_figures() -> None:
    close = BudgetResult(
        target="local", text="x", metric="params", limit=427_741, measured=427_742, met=False
    )
    assert budget_line(close) == "Parameters 427,742 > 427,741"


def test_the_latency_row_carries_the_paired_ratio_with_its_interval(
    reports: dict[str, Report],
) -> None:
    row = next(row for row in rows(reports["good"]) if row.label == "Latency p50")
    assert row.change == "0.52x [0.51, 0.54]"
    assert row.interval == (0.507, 0.538)


def test_a_metric_that_is_no_share_changes_in_percent(reports: dict[str, Report]) -> None:
    assert quality_change(reports["large"]) == "+36.8 %"


def test_a_change_that_rounds_to_zero_has_no_sign() -> None:
    assert [signed(value, 1) for value in (-0.04, 0.0, 0.06, -1.25)] == [
        "0.0",
        "0.0",
        "+0.1",
        "-1.2",
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(0.42, "0.4 s"), (75, "1 min 15 s"), (7300, "2 h 1 min")]
)
def test_durations_are_readable(value: float, text: str) -> None:
    assert format_seconds(value) == text


def test_the_chosen_plan_comes_first_and_every_set_of_blocks_once(
    reports: dict[str, Report],
) -> None:
    plan = reports["good"].plan
    chosen = chosen_candidate(plan)
    listed = candidates(plan)
    assert chosen is not None
    assert listed[0] == chosen
    sets = [frozenset(item.removed) for item in listed]
    assert len(sets) == len(set(sets))


def test_rendering_changes_nothing_from_call_to_call(report: Report) -> None:
    views: tuple[Callable[[Report], object], ...] = (verdict, rows)
    assert all(view(report) == view(report) for view in views)
