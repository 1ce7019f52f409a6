"""The report as one HTML file."""

import re
import time
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from mpo.records import Report
from mpo.render.html import html
from mpo.render.removed import gone

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Reads a page and keeps what the tests ask about; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def values(self, key: str) -> list[str]:
        """Every value of one attribute, in order."""
        return [value for _, attrs in self.tags if (value := attrs.get(key)) is not None]


def test_the_page_is_balanced_and_its_ids_are_unique(report: Report) -> None:
    page = Page(html(report))
    assert page.open == []
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    named = [name for value in page.values("aria-labelledby") for name in value.split()]
    assert set(named) <= set(ids)


def test_nothing_is_fetched_and_nothing_can_run(report: Report) -> None:
    text = html(report)
    page = Page(text)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "form", "a", "img"}
    for _, attrs in page.tags:
        assert not set(attrs) & {"style", "src", "href", "xlink:href", "srcset"}
        assert not [key for key in attrs if key.startswith("on")]
    markup = "".join(re.findall(r"<[^>]*>", text)) + "".join(
        re.findall(r"<style>.*?</style>", text, re.S)
    )
    assert "@import" not in markup
    assert not re.findall(r"url\((?!#)", markup)
    policy = next(
        a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")


def test_a_page_without_hostile_names_holds_no_address_at_all(reports: dict[str, Report]) -> None:
    assert not re.findall(r"https?://", html(reports["good"]))


def test_hostile_names_are_shown_as_text(reports: dict[str, Report]) -> None:
    text = html(reports["hostile"])
    shown = "".join(Page(text).text)
    assert "<script>alert(1)</script>" in shown
    assert "[red]x[/red]" in shown
    assert "<script" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_the_page_can_be_read_aloud(report: Report) -> None:
    page = Page(html(report))
    assert ("html", {"lang": "en"}) in page.tags
    headings = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(step <= 1 for step in (b - a for a, b in pairwise(headings)))
    assert all("scope" in attrs for tag, attrs in page.tags if tag == "th")
    for tag, attrs in page.tags:
        if tag == "svg":
            assert attrs.get("role") == "img"
            assert attrs.get("aria-label") or attrs.get("aria-labelledby")


def test_the_page_holds_every_part_of_the_proof(reports: dict[str, Report]) -> None:
    text = html(reports["good"])
    for part in (
        "3 of 3 budgets hold",
        "CKA similarity of the blocks",
        "Harm of removing each block alone",
        "Cost of each block",
        "Nearest that stays",
        "Predicted parameters",
        "−49 to −46 %, both models in turn",
        "[13.8 MB, 14.3 MB]",
        "Harm against each cost",
        "Parameters against harm",
        "Latency p90 against harm",
        "Validation quality in recovery",
        "Latency of single inferences",
        "Intel Xeon Platinum 8481C",
        "3f" * 32,
        "layer1.1-4, layer2.2-5, layer3.2-6",
        "The clock is not locked",
    ):
        assert part in text
    assert text.count('class="cluster"') == 2
    assert text.count('class="t small gone-name"') == 4 * 13


def test_undefined_similarities_are_hatched(reports: dict[str, Report]) -> None:
    assert html(reports["good"]).count('class="undefined-cell"') == 1
    assert html(reports["infeasible"]).count('class="undefined-cell"') == 1 + 2 * 27 - 1


def test_what_is_missing_leaves_no_empty_chart(reports: dict[str, Report]) -> None:
    text = html(reports["bare"])
    for key in ("cka", "harm", "front-params", "recovery"):
        assert f'id="{key}-title"' not in text


def test_sixty_blocks_make_a_page_under_300_kb_in_under_a_second(
    reports: dict[str, Report],
) -> None:
    html(reports["good"])
    start = time.perf_counter()
    text = html(reports["large"])
    assert time.perf_counter() - start < 1
    assert len(text.encode()) < 300_000


def test_the_same_report_gives_the_same_page(report: Report) -> None:
    assert html(report) == html(report)


def colours(block: str) -> dict[str, str]:
    """The custom properties of a rule."""
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.2."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(reports: dict[str, Report], theme: str) -> None:
    rules = re.findall(r":root \{(.*?)\}", html(reports["bare"]), re.S)
    chosen = colours(rules[0] if theme == "light" else rules[1])
    pairs = [(ink, ground) for ink in ("ink", "muted") for ground in ("page", "card")]
    pairs += [(ink, "card") for ink in ("old-ink", "new-ink", "gone-ink", "good", "bad")]
    pairs += [("good", "good-back"), ("bad", "bad-back"), ("note-ink", "note-back")]
    pairs += [("ink", "good-back"), ("ink", "bad-back")]
    for ink, ground in pairs:
        high, low = sorted((luminance(chosen[ink]), luminance(chosen[ground])), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, f"{ink} on {ground}"
    drawn = [luminance(chosen[name]) for name in ("old", "new", "gone")]
    ground_light = luminance(chosen["card"])
    for light in drawn:
        high, low = sorted((light, ground_light), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 2.8


def test_every_removed_block_is_shown_with_what_stays_in_its_place(
    reports: dict[str, Report],
) -> None:
    good = reports["good"]
    found = {one.name: one for one in gone(good)}
    assert set(found) == set(good.removed)
    one = found["layer1.1"]
    assert (one.twin, one.cka) == ("layer1.0", "0.970")
    assert one.params == "18 k (2.1 %)"
    assert one.macs == "4.7 M (3.7 %)"


def test_what_was_not_analysed_is_not_compared(reports: dict[str, Report]) -> None:
    assert gone(reports["bare"]) == ()
    undefined = reports["infeasible"]
    blind = {one.name for one in gone(undefined) if not one.twin}
    assert blind <= set(undefined.removed)
    assert "Nearest that stays" not in html(reports["bare"])
