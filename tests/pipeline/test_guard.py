"""The contract as a guard of `mpo optimize`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import mpo
from mpo.cli import cli
from mpo.errors import UsageError
from mpo.pipeline.contract.guard import parse_contract
from mpo.records import Contract, Report

TINY = Path(__file__).parents[1] / "subjects" / "tiny.py"


def test_terms_are_read_from_one_text() -> None:
    terms = parse_contract("eps=2%, region=10%, mass=20%, confidence=0.9, claims=overall+region")
    assert terms.eps == {"overall": 0.02, "region": 0.1, "class": 0.02}
    assert (terms.mass, terms.confidence, terms.strata) == (0.2, 0.9, ("overall", "region"))
    assert parse_contract("eps=5%").strata == ("overall", "region")


@pytest.mark.parametrize(
    "text",
    [
        *("eps", "shore=5%", "mass=all", "eps=100%", "confidence=sure", "confidence=2"),
        *("claims=shore", "looks=3", "look=2", "strata=overall", "tau=nan", "split_at=inf"),
    ],
)
def test_terms_that_say_nothing_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_contract(text)


def test_bad_terms_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    asked = ["optimize", str(TINY), "-b", "50%", "-o", str(tmp_path / "run"), "--contract", "eps"]
    result = CliRunner().invoke(cli, asked)
    assert result.exit_code == 2
    assert "says nothing" in result.output
    assert not (tmp_path / "run").exists()


def test_a_run_that_breaks_its_contract_says_so_and_shows_witnesses(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    report = mpo.optimize(
        TINY,
        "params=30%",
        output=folder,
        epochs=0,
        max_drop="90%",
        threads=1,
        effort="quick",
        candidates=1,
        contract="eps=0.1%,mass=20%",
        harm="boundary",
    )
    assert report.status == "contract-broken"
    assert not report.met
    assert report.contract is not None
    assert report.contract.verdict == "broken"
    assert "contract on validation: broken" in (report.recovery.note if report.recovery else "")
    kept = Contract.model_validate_json((folder / "contract.json").read_text())
    assert kept == report.contract
    with np.load(folder / "witnesses.npz") as saved:
        assert len(saved["about"]) >= len(kept.witnesses) > 0
    page = (folder / "report.html").read_text()
    assert "Contract broken" in page
    assert Report.model_validate_json((folder / "report.json").read_text()) == report
    again = mpo.contract(TINY, folder, eps=0.001, mass=0.2, strata=("overall", "region"))
    assert [claim.differ for claim in again.claims] == [c.differ for c in kept.claims]
