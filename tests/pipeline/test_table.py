"""The costs stage of a run: made of what the budgets need, kept, and corrected by measuring."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from mpo.optimizer.blocks.costs import count_macs, count_params
from mpo.pipeline.plan.table import cost_tables, refitted
from mpo.pipeline.run.analysis import analyze
from mpo.pipeline.run.budgets import key_of
from mpo.pipeline.run.context import Context, subject_of
from mpo.pipeline.run.measuring import Measured, measure_model
from mpo.pipeline.run.places import places_of
from mpo.profiles.local import LocalTarget
from mpo.recipe import make_recipe, to_toml
from mpo.records import Analysis, CostTable, Metric, PlanCandidate
from mpo.runfolder import fingerprint
from mpo.store import open_run

SUBJECT = Path(__file__).parents[1] / "subjects" / "tiny.py"
World = tuple[Context, Analysis, Measured]


def world(folder: Path, *budgets: str, **options: Any) -> Iterator[World]:
    """A run's context, its analysis and its measured original."""
    recipe = make_recipe(subject=str(SUBJECT), budget=budgets, threads=1, effort="quick", **options)
    with open_run(folder, to_toml(recipe)) as run:
        context = Context(
            recipe, subject_of(recipe), run, lambda *step: None, places_of(recipe, [LocalTarget()])
        )
        analysis = analyze(context)
        original = measure_model(context, context.original, folder / "original.onnx", "original")
        yield context, analysis, original


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    yield from world(tmp_path_factory.mktemp("run") / "tiny", "latency.p50=70%", "size=60%")


@pytest.fixture(scope="module")
def table(run: World) -> CostTable:
    """The run's table, measured once."""
    context, analysis, original = run
    (found,) = cost_tables(context, analysis, original, BUDGETED)
    return found


BUDGETED: tuple[Metric, ...] = ("latency_p50_ms", "size_bytes")


def test_a_table_of_a_run_predicts_its_models(run: World, table: CostTable, tmp_path: Path) -> None:
    context, analysis, original = run
    assert set(table.fits) == set(get_args(Metric))  # so that another budget finds them
    assert [unit.name for unit in table.units] == [b.name for b in analysis.blocks if b.removable]
    assert [unit.how for unit in table.units] == ["measured", *["like"] * 5]
    whole = table.predict(())
    assert whole["size_bytes"] == pytest.approx(original.figures.size_bytes, rel=0.002)
    assert whole["latency_p50_ms"] == pytest.approx(original.figures.latency_ms.p50, rel=0.3)
    assert table.fingerprint == context.places[0].fingerprint
    assert abs(table.fits["size_bytes"].residual or 0.0) < 0.002
    removed = [table.units[0].name, table.units[4].name]
    smaller = measure_model(context, context.without(removed), tmp_path / "m.onnx", "smaller")
    assert smaller.figures.size_bytes == pytest.approx(
        table.predict(removed)["size_bytes"], rel=0.002
    )


def test_the_same_question_again_is_answered_from_the_folder(
    run: World, table: CostTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, analysis, original = run
    before = json.loads((context.folder.path / "stages/analysis/stage.json").read_text())
    chain = fingerprint([before["key"], before["files"]])
    monkeypatch.setattr(context.folder, "_chain", chain)  # as the next command would come here
    made = (context.folder.path / "stages/costs/stage.json").read_bytes()
    assert cost_tables(context, analysis, original, BUDGETED) == (table,)
    assert (context.folder.path / "stages/costs/stage.json").read_bytes() == made


def test_counts_need_no_file_and_are_exact(tmp_path: Path) -> None:
    for context, analysis, original in world(tmp_path / "run", "params=60%", "macs=60%"):
        (table,) = cost_tables(context, analysis, original, ("params", "macs"))
        assert set(table.fits) == {"params", "macs"}
        assert {unit.how for unit in table.units} == {"counted"}
        removed = [table.units[1].name, table.units[2].name]
        model = context.without(removed)
        assert table.predict(removed) == {
            "params": count_params(model),
            "macs": count_macs(model, context.batch),
        }


def test_measured_candidates_correct_the_tables_of_their_target(table: CostTable) -> None:
    removed = tuple(unit.name for unit in table.units[:3])
    slow = 2 * table.predict(removed)["latency_p50_ms"]
    costs = {"latency_p50_ms": slow, key_of("latency_p50_ms", "far"): slow / 4}
    tried = [PlanCandidate(removed=removed, harm=0.0, costs=costs, measured=True)]
    found = refitted({"": table, "far": table}, tried)
    assert found[""].predict(removed)["latency_p50_ms"] > table.predict(removed)["latency_p50_ms"]
    assert (
        found["far"].predict(removed)["latency_p50_ms"] < table.predict(removed)["latency_p50_ms"]
    )
