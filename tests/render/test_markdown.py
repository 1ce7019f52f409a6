"""The report as Markdown."""

import re

import pytest
from markdown_it import MarkdownIt

from mpo.records import Report
from mpo.render.markdown import code, escape, markdown


def cells(line: str) -> int:
    """How many bars of a table row GitHub would read as borders."""
    return len(re.findall(r"(?<!\\)\|", line))


def test_every_row_of_a_table_has_as_many_cells_as_its_head(report: Report) -> None:
    for block in markdown(report).split("\n\n"):
        lines = block.splitlines()
        if lines and lines[0].startswith("|"):
            assert len({cells(line) for line in lines}) == 1


def test_a_markdown_reader_finds_tables_and_no_html_and_no_link(report: Report) -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown(report))
    inner = [child for token in tokens for child in token.children or ()]
    kinds = {token.type for token in (*tokens, *inner)}
    assert "table_open" in kinds
    assert not kinds & {"html_block", "html_inline", "link_open", "image", "em_open"}


def test_no_text_from_outside_becomes_markup(reports: dict[str, Report]) -> None:
    text = markdown(reports["hostile"])
    outside_code = re.sub(r"(`+).*?\1", "", text)
    assert "<" not in outside_code.replace("\\<", "")
    assert "https://" not in outside_code
    assert "\x1b" not in text
    assert "\u202e" not in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*a*", "\\*a\\*"),
        ("<b>", "\\<b\\>"),
        ("[x](y)", "\\[x\\]\\(y\\)"),
        ("a|b", "a\\|b"),
        ("@team", "@\u2060team"),
        ("https://x", "https\\://x"),
    ],
)
def test_prose_is_escaped(text: str, expected: str) -> None:
    assert escape(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a", "`a`"), ("a`b", "`` a`b ``"), ("a|b", "`a\\|b`"), ("", "` `"), ("``", "``` `` ```")],
)
def test_a_code_span_outlasts_backticks_and_bars(text: str, expected: str) -> None:
    assert code(text) == expected


def test_the_report_leads_with_the_verdict_and_names_each_file_with_its_hash(
    reports: dict[str, Report],
) -> None:
    text = markdown(reports["good"])
    assert text.startswith("# ✅ Met")
    assert "3f" * 32 in text
    assert "**chosen**" in text
