"""The report on a terminal."""

import io

import pytest
from rich.console import Console

from mpo.records import Report
from mpo.render.terminal import analysis_table, terminal


def printed(report: Report, width: int, color: bool = False) -> str:
    """What a terminal of this width would show."""
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=color, legacy_windows=False).print(
        terminal(report)
    )
    return stream.getvalue()


@pytest.mark.parametrize("width", [40, 80, 160])
def test_no_line_is_wider_than_the_terminal(report: Report, width: int) -> None:
    assert all(len(line) <= width for line in printed(report, width).splitlines())


def test_the_verdict_comes_before_the_figures_and_every_figure_has_a_unit(
    reports: dict[str, Report],
) -> None:
    text = printed(reports["good"], 80)
    assert text.index("Met: 3 of 3 budgets hold") < text.index("Parameters")
    for part in ("3.52 MB", "2.05 ms", "0.52x [0.51, 0.54]", "99.8 % [98.5, 100.0]", "layer1.1-4"):
        assert part in text


def test_a_missed_budget_says_so_in_words_with_its_numbers(reports: dict[str, Report]) -> None:
    assert "NOT MET  latency=1ms: Latency p90 2.31 ms > 1 ms" in printed(reports["infeasible"], 100)


def test_every_target_has_its_own_figures_and_its_own_verdict_on_a_budget(
    reports: dict[str, Report],
) -> None:
    text = printed(reports["two_targets"], 120)
    assert "On ssh://pi@edge-7" in text
    assert "31 ms" in text
    assert "0.50x [0.48, 0.52]" in text
    assert "20MB on ssh://pi@edge-7: Peak memory 9 MB <= 20 MB" in text
    assert "20MB on local" in text
    assert " on local" not in printed(reports["good"], 120)


def test_names_are_shown_as_they_are_and_steer_nothing(reports: dict[str, Report]) -> None:
    text = printed(reports["hostile"], 120)
    assert "[red]x[/red]" in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\x1b[31mb" not in printed(reports["hostile"], 120, color=True)


@pytest.mark.parametrize("width", [60, 80, 160])
def test_an_analysis_fits_the_terminal_and_says_why_a_block_stays(
    report: Report, width: int
) -> None:
    stream = io.StringIO()
    Console(file=stream, width=width).print(analysis_table(report.analysis))
    lines = stream.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    assert ("stays" in stream.getvalue()) == bool(report.analysis.blocks)
    assert "\x1b" not in stream.getvalue()
