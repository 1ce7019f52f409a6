"""A contract in words, as a section and as a page: safe, whole, one plain sentence."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from mpo.records import (
    Certificate,
    Claim,
    Contract,
    ContractData,
    ContractSide,
    Divergence,
    MarginBin,
    Mining,
    Picture,
    Region,
    Report,
    Witness,
)
from mpo.render.contracthtml import page, section
from mpo.render.contracttext import percent, sentence
from mpo.render.html import html
from mpo.render.markdown import markdown
from mpo.render.terminal import terminal
from mpo.render.text import verdict
from tests.render.test_html import Page


def claim(stratum: Any, differ: int, samples: int, verdict: Any, **changes: Any) -> Claim:
    fields = {
        "stratum": stratum,
        "eps": 0.05,
        "alpha": 0.025,
        "samples": samples,
        "differ": differ,
        "rate": differ / samples,
        "low": 0.081234,
        "high": 0.191234,
        "hoeffding": 0.3,
        "needed": 72,
        "verdict": verdict,
    }
    return Claim(**(fields | changes))


def build(**changes: Any) -> Contract:
    """A broken contract with a picture and a hostile text among its witnesses."""
    grey = Picture(width=4, height=2, grey="00ff00ff80808080")
    witness = {"seed_row": 3, "original": 1, "candidate": 2, "seed_decision": 1, "margin": 0.12}
    fields: dict[str, Any] = {
        "tool": {"name": "mpo", "version": "0"},
        "created": "2026-11-21T17:00:00+00:00",
        "original": ContractSide(name="<script>alert(1)</script>", kind="subject", digest="0"),
        "candidate": ContractSide(name="run\u202e", kind="run", digest="1"),
        "data": ContractData(
            subject="s.py", bound_split="test", samples=500, duplicates=0,
            tau_split="validation", tau_samples=300, statement="The bounds stand on 500 examples.",
        ),
        "outputs": "classes",
        "classes": 3,
        "confidence": 0.95,
        "seed": 0,
        "looks": 1,
        "look": 0,
        "region": Region(tau=1.5, asked_mass=0.1, mass=0.11, mass_ci95=(0.08, 0.14)),
        "claims": (
            claim("overall", 10, 500, "kept", low=0.01, high=0.034),
            claim("region", 8, 60, "broken"),
        ),
        "curve": tuple(
            MarginBin(low=x, high=x + 1, samples=50, agreement=min(1, 0.8 + x / 10), ci95=(0.7, 1))
            for x in range(10)
        ),
        "certificate": Certificate(samples=500, certified=400, share=0.8, region_share=0.1),
        "divergence": Divergence(mean=0.02, ci95=(0.01, 0.03), decisions=500, agreement=0.98),
        "mining": Mining(
            seeds=32, radius_of_range=0.1, forward_passes=10,
            found={"data": 1, "gradient": 2, "mixture": 0}, smallest={"data": 0, "gradient": 0.013},
        ),
        "witnesses": (
            Witness(search="gradient", linf=0.1, linf_of_range=0.013, before=grey, after=grey,
                    **witness),
            Witness(search="tokens", tokens=1, text_before="good <b>", text_after="bad <b>",
                    **witness),
            Witness(search="data", linf=0, linf_of_range=0, before=grey, after=grey, **witness),
        ),
        "verdict": "broken",
        "exit_code": 4,
    }  # fmt: skip
    return Contract(**(fields | changes))


def test_bounds_are_rounded_to_their_safe_side() -> None:
    assert percent(0.0123) == "1.2 %"
    assert percent(0.01201, up=True) == "1.3 %"
    assert percent(0.01299, up=False) == "1.2 %"
    assert percent(0.000123, up=True) == "0.02 %"
    assert percent(0.0) == "0 %"


def test_a_broken_contract_is_told_by_its_worst_claim() -> None:
    told = sentence(build())
    assert told == (
        "With 95 % confidence the candidate decides differently from the original on at least "
        "8.1 % of inputs near the decision boundary; 5.0 % is allowed."
    )


def test_a_kept_contract_is_told_by_all_its_bounds() -> None:
    claims = (
        claim("overall", 1, 500, "kept", high=0.011),
        claim("region", 1, 90, "kept", high=0.0489),
        claim("class", 1, 90, "kept", high=0.031, label="0"),
        claim("class", 1, 90, "kept", high=0.042, label="1"),
    )
    told = sentence(build(claims=claims, verdict="kept"))
    assert "at most 1.1 % of all inputs, on at most 4.9 % of inputs near" in told
    assert told.endswith("on at most 4.2 % in any class.")


def test_the_page_is_whole_and_nothing_in_it_is_obeyed() -> None:
    text = page(build())
    found = Page(text)
    assert found.open == []
    names = {tag for tag, _ in found.tags}
    assert not names & {"script", "link", "iframe", "a", "img"}
    assert "\u202e" not in text
    assert "<script>" not in text
    ids = found.values("id")
    assert len(ids) == len(set(ids))
    assert not found.values("style")
    shown = "".join(found.text)
    for word in ("Agreement against margin", "bad <b>", "1.3 % of the range", "near the boundary"):
        assert word in shown


def test_witnesses_stand_side_by_side() -> None:
    found = Page(str(section(build())))
    pictures = [a for tag, a in found.tags if tag == "svg" and a.get("class") == "picture"]
    assert len(pictures) == 3  # seed and witness; an example of the data once
    paths = [a["d"] or "" for tag, a in found.tags if tag == "path" and "fill" in a]
    assert any("h4" in path for path in paths)  # four equal pixels are one stroke


@pytest.fixture
def broken(report: Report) -> Report:
    return report.model_copy(update={"contract": build(), "status": "contract-broken"})


def test_a_report_shows_its_contract_and_names_it_in_the_verdict(broken: Report) -> None:
    found = Page(html(broken))
    assert found.open == []
    ids = found.values("id")
    assert len(ids) == len(set(ids))
    assert "contract-head" in ids
    assert "**Contract broken:** With 95 %" in markdown(broken)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(terminal(broken))
    assert "broken  With 95 % confidence" in console.export_text()
    told = verdict(broken)
    assert (told.word, told.tone) == ("Contract broken", "bad")
    assert "at least 8.1 % of inputs near" in told.sentence
