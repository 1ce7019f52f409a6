"""Numbers with units."""

import pytest

from mpo.errors import UsageError
from mpo.units import (
    format_bytes,
    format_count,
    format_ms,
    parse_duration,
    parse_quantity,
    parse_share,
)


@pytest.mark.parametrize(
    ("text", "value", "dimension"),
    [
        ("50MB", 50e6, "bytes"),
        ("1 KiB", 1024, "bytes"),
        ("12ms", 12, "ms"),
        ("1.5s", 1500, "ms"),
        ("50%", 0.5, "factor"),
        ("0.5x", 0.5, "factor"),
        ("3M", 3e6, "count"),
        ("5", 5, "count"),
    ],
)
def test_a_number_with_its_unit_is_read(text: str, value: float, dimension: str) -> None:
    quantity = parse_quantity(text)
    assert quantity.value == pytest.approx(value)
    assert quantity.dimension == dimension


@pytest.mark.parametrize(
    "text", ["", "MB", "12 parsecs", "-5MB", "0ms", "nan", "1e999", "5mb", "12ms;"]
)
@pytest.mark.case(61)
def test_what_is_not_a_number_with_a_unit_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_quantity(text)
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_a_share_is_read_with_and_without_a_percent_sign() -> None:
    assert parse_share("1%") == pytest.approx(0.01)
    assert parse_share("0.02") == pytest.approx(0.02)
    assert parse_share("0") == parse_share("0.0") == 0.0
    for wrong in ("1", "50", "0.5x", "500k", "x", "-1%"):
        with pytest.raises(UsageError):
            parse_share(wrong)
    with pytest.raises(UsageError):
        parse_share("5MB")


def test_numbers_are_printed_with_three_digits() -> None:
    assert format_bytes(50_000_000) == "50 MB"
    assert format_bytes(1_234_567) == "1.23 MB"
    assert format_ms(0.0123) == "12.3 us"
    assert format_ms(2500) == "2.5 s"
    assert format_count(853_018) == "853 k"


def test_a_number_that_rounds_up_to_the_next_unit_is_printed_in_it() -> None:
    assert format_ms(999.7) == "1 s"
    assert format_ms(0.9997) == "1 ms"
    assert format_count(999_999) == "1 M"
    assert format_bytes(999_999) == "1 MB"
    assert format_bytes(1.5e12) == "1500 GB"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30m", 1800), ("30min", 1800), ("90s", 90), ("1.5 h", 5400), ("250ms", 0.25)],
)
def test_the_time_that_a_run_may_take_is_read_with_its_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "said"),
    [("30", "no unit"), ("30d", "unknown unit 'd'"), ("0s", "no time"), ("", "not a time"),
     ("-5m", "not a time"), ("1" + "0" * 400 + "s", "no time")],
)  # fmt: skip
def test_a_time_without_a_unit_or_of_nothing_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_duration(text)
    assert said in caught.value.message
    assert "30m" in caught.value.hint or "min" in caught.value.hint
