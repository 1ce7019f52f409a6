"""Change points against what is known to be there; files that grow; what people see."""

from __future__ import annotations

import io
import json
import math
import statistics
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from mpo.cli import cli
from mpo.errors import UsageError
from mpo.pipeline.bench.history import _distances, append, change_points, read, series_of
from mpo.records import HistoryEntry
from mpo.render.history import sparkline, svg, terminal


def entries(values: list[float], fingerprint: str = "f", model: str = "m.onnx") -> Any:
    return [
        HistoryEntry(
            run_id=str(place),
            created=f"2026-11-{1 + place % 28:02d}T00:00:00+00:00",
            model=model,
            sha256="0",
            note=f"c{place}",
            fingerprints={"local": fingerprint},
            values={"latency.p50 on local": value, "size": 100.0},
            units={"latency.p50 on local": "ms", "size": "B"},
        )
        for place, value in enumerate(values)
    ]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=14))
def test_distances_from_the_median_are_those_of_the_definition(line: list[float]) -> None:
    found = _distances(line)
    for start in range(len(line)):
        for end in range(start + 1, len(line) + 1):
            part = line[start:end]
            middle = statistics.median(part)
            wanted = sum(abs(value - middle) for value in part)
            assert found[start, end] == pytest.approx(wanted, abs=1e-9)


def noisy(levels: list[float], each: int, spread: float, seed: int) -> list[float]:
    random = np.random.default_rng(seed)
    return [level * math.exp(random.normal(0, spread)) for level in levels for _ in range(each)]


def test_steps_are_found_where_they_are() -> None:
    values = noisy([10, 10.8, 10.1], 40, 0.015, 0)
    values[20] *= 1.4  # one outlier is no level
    found = change_points(values)
    assert [one.place for one in found] == [pytest.approx(40, abs=2), pytest.approx(80, abs=2)]
    assert [one.ratio for one in found] == pytest.approx([1.08, 10.1 / 10.8], abs=0.015)


def test_noise_alone_changes_nothing() -> None:
    found = [change_points(noisy([10], 60, 0.03, seed)) for seed in range(100)]
    assert sum(map(bool, found)) <= 1


def test_exact_figures_change_at_once_and_short_series_never() -> None:
    assert [one.place for one in change_points([5.0] * 6 + [6.0] * 3)] == [6]
    assert [one.place for one in change_points([0.0] * 6 + [6.0] * 6)] == [6]
    assert change_points([5.0, 6.0] * 2) == ()
    assert change_points([5.0] * 50) == ()


def test_other_devices_and_models_are_other_series(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    for entry in [*entries([1.0] * 6), *entries([2.0] * 6, "g"), *entries([3.0], model="n.onnx")]:
        append(path, entry)
    found = list(series_of(read(path)))
    assert len(found) == 5  # two devices and another model for latency, two models for size
    assert not any(one.changes for one in found)
    assert [one.values for one in series_of(read(path), ["size"])] == [(100.0,) * 12, (100.0,)]
    with pytest.raises(UsageError, match=r"latency\.p90") as unknown:
        list(series_of(read(path), ["latency.p90"]))
    assert "latency.p50" in unknown.value.hint


@pytest.mark.parametrize("line", ["{}", "no json", '{"schema": "mpo.history/2"}'])
def test_a_line_that_is_no_entry_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "h.jsonl"
    append(path, entries([1.0])[0])
    with path.open("a") as file:
        file.write(f"\n{line}\n")
    with pytest.raises(UsageError, match="line 3"):
        read(path)
    with pytest.raises(UsageError, match="Cannot read"):
        read(tmp_path / "none.jsonl")


def test_the_command_reports_and_never_fails_a_build(tmp_path: Path) -> None:
    path, drawing = tmp_path / "h.jsonl", tmp_path / "h.svg"
    for entry in entries(noisy([10, 12], 15, 0.01, 1)):
        append(path, entry)
    result = CliRunner().invoke(cli, ["history", str(path), "--svg", str(drawing)])
    assert result.exit_code == 0, result.output
    assert "1 change of level" in result.output
    assert "c15: 10 ms to 12 ms (+" in " ".join(result.output.split())
    root = ET.fromstring(drawing.read_text())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(list(root.iter("{http://www.w3.org/2000/svg}circle"))) == 60
    told = json.loads(CliRunner().invoke(cli, ["history", str(path), "--json"]).output)
    assert {one["metric"]: len(one["changes"]) for one in told} == {
        "latency.p50 on local": 1,
        "size": 0,
    }


def test_hostile_notes_and_names_stay_text() -> None:
    evil = "<script>x</script>&]]>\x1b[2J[red]"
    found = [
        one.model_copy(update={"note": evil, "model": evil})
        for one in entries([1.0] * 5 + [2.0] * 5)
    ]
    series = list(series_of(found))
    drawing = svg(series)
    ET.fromstring(drawing)
    assert "<script" not in drawing
    out = io.StringIO()
    Console(file=out, width=200, color_system=None).print(terminal(series))
    assert "[red]" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_a_sparkline_spans_its_values() -> None:
    assert sparkline([1, 2, 3]) == "▁▅█"
    assert sparkline([5, 5]) == "▁▁"
