"""Lines, agreement and margins: arithmetic on figures whose truth is known."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpo.profiles.calibration import (
    agree,
    fit,
    fit_all,
    line_through,
    refit,
    shared_by_macs,
    spread_over,
    verdict,
)
from mpo.records import Anchor, CostTable, Metric, SessionOptions, UnitCost
from mpo.records.costs import EMPTY, FEW, FULL, MIDDLE

NAMES = ("a", "b", "c", "d")
SHARES = {"a": 0.1, "b": 0.1, "c": 0.2, "d": 0.4}
UNITS = tuple(
    UnitCost(name=n, how="measured", share=SHARES[n], size_bytes=100 * (i + 1), params=7, macs=9)
    for i, n in enumerate(NAMES)
)
METRICS: tuple[Metric, ...] = ("latency_p50_ms", "latency_p90_ms", "size_bytes", "params", "macs")


def anchor(name: str, removed: tuple[str, ...], share: float | None, **figures: float) -> Anchor:
    kept = tuple(n for n in NAMES if n not in removed)
    return Anchor(name=name, removed=removed, kept=kept, share=share, figures=figures)


def world(middle: float = 0.6) -> list[Anchor]:
    """A model of 10 ms whose blocks take 1.05 of what they take alone; 0.16 without any."""
    counted = {"params": 100.0, "macs": 50.0}
    return [
        anchor(FULL, (), 1.0, latency_p50_ms=10, latency_p90_ms=12, size_bytes=2000, **counted),
        anchor(EMPTY, NAMES, 0.16, size_bytes=900, params=72, macs=14),
        anchor(MIDDLE, ("b", "d"), middle, size_bytes=1340, params=86, macs=32),
    ]


def table(middle: float = 0.475) -> CostTable:
    anchors = world(middle)
    fits = fit_all(METRICS, UNITS, anchors, {"latency_p50_ms": 0.004})
    return CostTable(
        target="t", fingerprint="f", session=SessionOptions(), batch=1, units=UNITS,
        anchors=tuple(anchors), fits=fits,
    )  # fmt: skip


def test_the_line_is_exact_at_the_whole_and_at_the_empty_model() -> None:
    found = table()
    assert found.predict(())["latency_p50_ms"] == pytest.approx(10)
    assert found.predict(NAMES)["latency_p50_ms"] == pytest.approx(1.6)
    assert found.predict(NAMES)["latency_p90_ms"] == pytest.approx(0.16 * 12)
    assert found.predict(())["size_bytes"] == pytest.approx(2000)
    assert found.predict(("a", "b", "c")) | {"latency_p50_ms": 0.0} == pytest.approx(
        {"latency_p50_ms": 0.0, "latency_p90_ms": (0.16 + 1.05 * 0.4) * 12,
         "size_bytes": 900 + 1.1 * 400, "params": 79, "macs": 23}
    )  # fmt: skip


def test_savings_add_up_to_the_prediction_for_every_set() -> None:
    found, dice = table(), random.Random(0)
    savings, full = found.savings(), found.predict(())
    for _ in range(10):
        removed = [n for n in NAMES if dice.random() < 0.5]
        wanted = found.predict(removed)
        for metric in METRICS:
            summed = full[metric] - sum(savings[n][metric] for n in removed)
            assert summed == pytest.approx(wanted[metric])


def test_the_residual_at_the_middle_is_signed_and_widens_the_margin() -> None:
    right = fit("latency_p50_ms", UNITS, world(0.475), 0.004)
    assert right is not None
    assert right.residual == pytest.approx(0)
    assert right.margin == 0.02  # one point that fits by luck proves nothing
    low = fit("latency_p50_ms", UNITS, world(0.5), 0.004)
    assert low is not None
    assert low.residual == pytest.approx(-0.05)
    assert low.margin == pytest.approx(0.05)
    loud = fit("latency_p50_ms", UNITS, world(0.475), 0.03)
    assert loud is not None
    assert loud.margin == pytest.approx(0.06)


def test_a_first_block_that_brings_shared_buffers_does_not_bend_the_line() -> None:
    def true(kept: float) -> float:
        return 0.15 + kept  # with any block; 0.05 without

    removed = {FULL: (), MIDDLE: ("b", "d"), FEW: ("b", "c", "d")}
    anchors = [
        anchor(name, gone, true(0.8 - sum(SHARES[n] for n in gone)) / 0.95, latency_p50_ms=10)
        for name, gone in removed.items()
    ]
    anchors.append(anchor(EMPTY, NAMES, 0.05 / 0.95))
    found = fit("latency_p50_ms", UNITS, anchors, 0.0)
    assert found is not None
    assert found.jump == pytest.approx(0.1 / 0.95)
    assert found.worst == pytest.approx(0, abs=1e-9)
    predicted = found.line.slope * 0.4 + found.line.intercept
    assert predicted == pytest.approx(10 * true(0.4) / 0.95)
    anchors[-1] = anchor(EMPTY, NAMES, 0.15 / 0.95)
    near = fit("latency_p50_ms", UNITS, anchors, 0.0)
    assert near is not None
    assert near.jump == 0


def test_bounds_are_predictions_raised_by_the_margin_of_the_whole_model() -> None:
    found = table(0.5)
    assert found.bounds(("a",))["latency_p50_ms"] == pytest.approx(
        found.predict(("a",))["latency_p50_ms"] + 0.05 * found.predict(())["latency_p50_ms"]
    )


def test_a_middle_more_than_a_tenth_off_is_not_additive() -> None:
    far = fit_all(METRICS, UNITS, world(0.6), {})
    assert any("latency_p50_ms" in said and "-20.8%" in said for said in verdict(1.0, far))
    near = fit_all(METRICS, UNITS, world(0.475), {})
    assert verdict(1.0, near) == []
    assert "sum up to 113%" in verdict(1.13, near)[0]
    assert "sum up to 88%" in verdict(0.88, near)[0]


def test_blocks_whose_removal_saves_no_time_are_not_additive() -> None:
    anchors = [anchor(FULL, (), 1.0, latency_p50_ms=10), anchor(EMPTY, NAMES, 1.1)]
    assert "does not fall" in verdict(1.0, fit_all(METRICS, UNITS, anchors, {}))[0]


def test_memory_is_never_trusted_below_the_steps_in_which_a_heap_grows() -> None:
    anchors = [
        anchor(FULL, (), None, memory_bytes=5_000_000),
        anchor(EMPTY, NAMES, None, memory_bytes=1_000_000),
    ]
    found = fit("memory_bytes", UNITS, anchors, 0.0)
    assert found is not None
    assert found.margin == pytest.approx(0.2)


def test_without_the_empty_model_counts_still_add_up_and_measured_figures_save_nothing() -> None:
    fits = fit_all(METRICS, UNITS, world()[:1], {})
    assert fits["params"].line.slope == 1
    assert fits["params"].line.intercept == 100 - 28
    assert fits["size_bytes"].line.slope == 0


def test_refitting_goes_through_what_was_measured_and_counts_no_candidate_twice() -> None:
    before = table(0.5)
    slow: dict[Metric, float] = {"latency_p50_ms": 7.0, "latency_p90_ms": 8.4}
    quick: dict[Metric, float] = {"latency_p50_ms": 4.2}
    after = refit(before, [(("a", "b"), slow), (("c", "d"), quick)])
    was = abs(before.predict(("c", "d"))["latency_p50_ms"] - 4.2)
    assert abs(after.predict(("c", "d"))["latency_p50_ms"] - 4.2) < was
    assert [one.name for one in after.anchors][3:] == ["candidate 3", "candidate 4"]
    assert after.fits["latency_p50_ms"].worst > 0
    assert refit(after, [(("b", "a"), slow)]) == after
    assert after.units[0].latency_ms == pytest.approx(after.fits["latency_p50_ms"].line.slope * 0.1)
    assert before.anchors == tuple(world(0.5))


def test_a_table_survives_its_file() -> None:
    found = table()
    written = found.model_dump_json()
    assert json.loads(written)["schema"] == "mpo.costs/1"
    assert CostTable.model_validate_json(written) == found


def test_one_disturbed_process_of_four_does_not_move_a_figure() -> None:
    assert agree([1.0, 1.01, 1.005, 1.6]).value == pytest.approx(1.005)
    assert agree([1.0, 1.01, 1.005, 1.6]).spread == pytest.approx(0.01 / 1.005)


def test_the_first_three_processes_must_all_agree() -> None:
    assert agree([1.0, 1.0, 1.6]).spread == pytest.approx(0.6)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=8))
def test_what_processes_say_together_lies_between_them(values: list[float]) -> None:
    found = agree(values)
    assert min(values) <= found.value <= max(values)
    assert 0 <= found.spread <= (max(values) - min(values)) / min(values) + 1e-9
    assert agree([5 * value for value in values]).spread == pytest.approx(found.spread, abs=1e-9)


@given(st.floats(-5, 5), st.floats(10, 20), st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_points_on_a_line_give_that_line(slope: float, base: float, xs: list[float]) -> None:
    found = line_through([(x, slope * x + base) for x in xs])
    for x in xs:
        assert found.slope * x + found.intercept == pytest.approx(slope * x + base, rel=1e-6)


def test_a_block_that_cannot_run_alone_is_shared_by_macs() -> None:
    known, macs = {"a": 0.2, "b": 0.4}, {"a": 100, "b": 200}
    assert shared_by_macs(known, {"c": 50}, macs, 0.9) == pytest.approx({"c": 0.1})
    assert shared_by_macs({}, {"c": 50, "d": 150}, {}, 0.8) == pytest.approx({"c": 0.2, "d": 0.6})
    assert shared_by_macs({}, {"c": 0, "d": 0}, {}, 0.8) == pytest.approx({"c": 0.4, "d": 0.4})


def test_noise_of_a_sum_counts_alike_blocks_together() -> None:
    one = agree([0.099, 0.1, 0.101])
    assert spread_over({"k": (4, one)}) == pytest.approx(one.spread)
    assert spread_over({"k": (1, one), "l": (1, one)}) == pytest.approx(one.spread / 2**0.5)
    assert spread_over({}) == 0


def test_memory_of_small_models_follows_the_empty_and_the_lightest_measured_one() -> None:
    anchors = [
        anchor(FULL, (), None, memory_bytes=5e6),
        anchor(MIDDLE, ("b", "d"), None, memory_bytes=3e6),
        anchor(FEW, ("a", "c", "d"), None, memory_bytes=1.5e6),
        anchor(EMPTY, NAMES, None, memory_bytes=1.2e6),
    ]
    found = table().model_copy(
        update={
            "anchors": tuple(anchors),
            "fits": fit_all(("memory_bytes",), UNITS, anchors, {}),
        }
    )
    line = found.fits["memory_bytes"].line
    assert line.intercept < 1.2e6
    assert found.predict(NAMES)["memory_bytes"] == 1.2e6
    assert found.predict(("b", "c", "d"))["memory_bytes"] == pytest.approx(1.35e6)  # halfway
    assert found.predict(())["memory_bytes"] > 4e6
