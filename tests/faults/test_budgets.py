"""Budgets that cannot be, and subjects that cannot be judged: what is said, and how it ends."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

import mpo
from mpo.cli import cli
from mpo.pipeline.optimize.doubts import at_chance, overlaps, tell_doubts
from mpo.records import Plan
from tests.pipeline.carrying import context_in, original_of
from tests.subjects import tiny

TINY = Path(__file__).parents[1] / "subjects" / "tiny.py"


def optimize(folder: Path, *budgets: str) -> Result:
    given = ["optimize", str(TINY), "-o", str(folder), "--threads", "1", "--effort", "quick"]
    return CliRunner().invoke(cli, [*given, *(part for one in budgets for part in ("-b", one))])


def stages(folder: Path) -> set[str]:
    return {path.name for path in (folder / "stages").iterdir()}


@pytest.mark.case(54)
@pytest.mark.case(55)
def test_a_budget_below_all_that_may_go_keeps_the_floor_and_names_it(tmp_path: Path) -> None:
    """Nothing is trained and no result appears: the closest plan is on record, with what binds."""
    result = optimize(tmp_path / "run", "params=1%")
    assert result.exit_code == 3, result.output
    assert "What no removal can touch needs at least" in result.output
    assert "it removes 1.0, 1.1, 1.2, 1.3, 1.4, 1.5" in result.output
    assert "recovery" not in stages(tmp_path / "run")
    assert not (tmp_path / "run" / "model.onnx").exists()
    plan = Plan.model_validate_json((tmp_path / "run" / "plan.json").read_text())
    assert len(plan.removed) == 6
    assert plan.notes


@pytest.mark.case(57)
def test_budgets_that_contradict_one_another_end_before_any_training(tmp_path: Path) -> None:
    """All may go for the first one, none for the second."""
    result = optimize(tmp_path / "run", "params=60%", "macs=1")
    assert result.exit_code == 3, result.output
    assert "macs" in result.output.lower()
    assert not {"recovery", "optimized"} & stages(tmp_path / "run")
    events = [json.loads(x) for x in (tmp_path / "run" / "journal.jsonl").read_text().splitlines()]
    assert {one["stage"] for one in events if one.get("part")} <= {"original"}


def rows(seed: int, batches: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    x, y = tiny.samples(seed, 16 * batches)
    return list(zip(x.split(16), y.split(16), strict=True))


@pytest.mark.case(59)
def test_an_original_no_better_than_chance_is_told_before_anything_is_trained(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The labels are shuffled: a subject whose labels do not fit its inputs."""
    wrong = [(x, y.roll(1)) for x, y in rows(2, 32)]
    data = mpo.Data(train=rows(1), validation=wrong, test=rows(3))
    with context_in(tmp_path / "run", data=data) as context:
        told = at_chance(context, original_of(context))
        with caplog.at_level(logging.WARNING):
            tell_doubts(told)
    assert len(told) == 1
    assert "always answering" in told[0]
    assert "loses means nothing" in caplog.text
    with context_in(tmp_path / "other") as context:
        assert at_chance(context, original_of(context)) == ()


@pytest.mark.case(60)
def test_examples_that_are_in_two_splits_are_told_with_how_many(tmp_path: Path) -> None:
    train = rows(1, 8)
    data = mpo.Data(train=train, validation=[*rows(2), *train[:1]], test=[*rows(3), *rows(2)[:2]])
    with context_in(tmp_path / "run", data=data) as context:
        told = overlaps(context)
    assert [text.split(" leading")[0] for text in told] == ["16 of the 80", "32 of the 96"]
    assert "in train too" in told[0]
    with context_in(tmp_path / "other") as context:
        assert overlaps(context) == ()
