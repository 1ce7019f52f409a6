"""Any name, in any view: nothing that steers a terminal, opens an element or starts a command."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from mpo.cli import cli
from mpo.records import Report
from mpo.render.ci import command_data, command_property
from mpo.render.html import html
from mpo.render.junit import junit_error
from mpo.render.markdown import code, escape, markdown
from mpo.render.names import clean, shorten
from mpo.render.svg import label
from mpo.render.terminal import terminal
from tests.render.conftest import HOSTILE, build, names_of

STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
# Pieces that mean something somewhere, joined at random.
PIECES = st.sampled_from(
    [
        *HOSTILE,
        "\x1b]0;t\x07",
        "\u2028",
        "\r\n::error::x",
        "%0A",
        "=cmd()",
        "</style>",
        "{{x}}",
        "\\",
    ]
)
NAMES = st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=4).map("".join))
quickly = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


class Elements(HTMLParser):
    """Counts elements and their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, ...]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, *(key for key, _ in attributes)))


def elements(page: str) -> list[tuple[str, ...]]:
    parser = Elements()
    parser.feed(page)
    return parser.seen


def named(name: str) -> Report:
    """A report whose every text from outside is this name."""
    names = tuple(f"{name}{place}" for place in range(6))
    report = build(names=names, removed=names[1:3])
    return report.model_copy(
        update={"subject": name, "target": name, "warnings": (name,), "method": name}
    )


def plain() -> Report:
    return named("layer")


def on_terminal(report: Report) -> str:
    console = Console(width=200, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(terminal(report))
    return captured.get()


@quickly
@given(NAMES)
@example("".join(HOSTILE))
def test_no_name_steers_a_terminal(name: str) -> None:
    assert not STEERING.search(clean(name))
    assert "\n" not in clean(name)
    shown = on_terminal(named(name))
    assert not STEERING.search(shown.replace("\u2060", ""))


@quickly
@given(NAMES)
@example("".join(HOSTILE))
def test_no_name_adds_an_element_to_the_page(name: str) -> None:
    page = html(named(name))
    assert not STEERING.search(page)
    tags = {"a", "base", "embed", "form", "iframe", "img", "input", "link", "object", "script"}
    assert not tags & {seen[0] for seen in elements(page)}
    assert not [seen for seen in elements(page) if any(key.startswith("on") for key in seen[1:])]


@quickly
@given(NAMES)
@example("".join(HOSTILE))
def test_no_name_leaves_its_place_in_markdown(name: str) -> None:
    text = markdown(named(name))
    heads = re.findall(r"^#+ ", text, re.MULTILINE)
    assert heads == re.findall(r"^#+ ", markdown(plain()), re.MULTILINE)
    assert "\n" not in escape(name)
    assert not re.search(r"(?<!\\)[<>|`]", escape(name))
    assert "\n" not in code(name)


@quickly
@given(NAMES)
def test_no_name_breaks_xml_or_svg(name: str) -> None:
    root = ET.fromstring(junit_error(name, name, "2026-11-21T00:00:00Z"))
    assert len(list(root.iter("testcase"))) == 1
    drawn = ET.fromstring(str(label(1, 2, clean(name).replace("\ufffe", "").replace("\uffff", ""))))
    assert not list(drawn)


@quickly
@given(NAMES)
def test_no_name_starts_a_workflow_command(name: str) -> None:
    assert not re.search("[\r\n]", command_data(name))
    assert not re.search("[\r\n:,]", command_property(name))


def test_a_name_of_a_megabyte_is_cut() -> None:
    assert len(shorten("x" * 1_000_000, 40)) == 40


def test_hostile_text_in_an_error_stays_plain(capsys: pytest.CaptureFixture[str]) -> None:
    name = "no\x1b[2Jsuch\n::error::x\u202e.onnx"
    for options in ((), ("-v",), ("--json", "-")):
        result = CliRunner().invoke(cli, ["bench", name, *options])
        assert result.exit_code == 2
        assert "\x1b" not in result.output
        assert "\u202e" not in result.output
        assert not [line for line in result.output.splitlines() if line.startswith("::")]


def test_names_of_blocks_survive_in_the_record(reports: dict[str, Report]) -> None:
    """Views are cleaned, records are not: what a model calls its blocks is data."""
    report = build(names=tuple(HOSTILE[:6]), removed=())
    again = Report.model_validate_json(report.model_dump_json())
    assert again.analysis.names == tuple(HOSTILE[:6])
    assert json.loads(report.model_dump_json())["analysis"]["names"] == list(HOSTILE[:6])
    assert names_of(2) == ("layer1.0", "layer2.0")
