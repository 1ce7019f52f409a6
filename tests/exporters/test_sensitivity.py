"""Mixed precision: the layer that int8 breaks is found, and only it stays float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from mpo.errors import InfeasibleError, UsageError
from mpo.exporters.converted import Feeds, run, write_graph
from mpo.exporters.quantize import quantize_static
from mpo.exporters.sensitivity import harm_of, sensitivity
from tests.exporters import pocket

BROKEN = 3
LAYERS = 8


class Agreement:
    """Share of the float32 model's decisions that a file keeps; counts how often it is asked."""

    def __init__(self, source: Path, feeds: Feeds) -> None:
        self.feeds, self.calls = feeds, 0
        self.wanted = [values["y"].argmax(-1) for values in run(source, feeds)]

    def __call__(self, path: Path) -> float:
        self.calls += 1
        found = [values["y"].argmax(-1) for values in run(path, self.feeds, optimize=True)]
        return float(np.mean(np.concatenate(self.wanted) == np.concatenate(found)))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A chain one of whose layers reads a feature a thousand times larger than the others."""
    path = tmp_path / "model.onnx"
    write_graph(pocket.chain(*[1.5] * LAYERS, outliers=BROKEN), path)
    return path


def test_the_layer_that_int8_breaks_is_found_and_only_it_is_kept(
    tmp_path: Path, source: Path
) -> None:
    feeds = pocket.vectors(8)
    judge = Agreement(source, feeds)
    mixed = sensitivity(source, tmp_path / "mixed.onnx", feeds, judge, 0.9)
    assert mixed.layers[0].nodes == (f"MatMul_{BROKEN}",)
    assert mixed.layers[0].harm > 10 * mixed.layers[1].harm
    assert len(mixed.layers) == LAYERS
    assert mixed.kept == (f"MatMul_{BROKEN}",)
    assert [kept.node for kept in mixed.converted.kept] == [f"MatMul_{BROKEN}"]
    assert mixed.quality >= 0.9
    assert judge(mixed.converted.path) == mixed.quality
    assert mixed.evaluations == judge.calls - 1 <= 12


def test_without_it_the_floor_is_missed(tmp_path: Path, source: Path) -> None:
    """The model above would prove nothing if plain int8 did as well."""
    feeds = pocket.vectors(8)
    plain = quantize_static(source, tmp_path / "int8.onnx", feeds)
    assert Agreement(source, feeds)(plain.path) < 0.7


def test_nothing_is_kept_when_plain_int8_is_good_enough(tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    write_graph(pocket.chain(*[1.5] * 4), source)
    feeds = pocket.vectors()
    mixed = sensitivity(source, tmp_path / "mixed.onnx", feeds, Agreement(source, feeds), 0.9)
    assert mixed.kept == ()
    assert mixed.evaluations == 1


def test_a_floor_above_float32_is_infeasible(tmp_path: Path, source: Path) -> None:
    feeds = pocket.vectors()
    with pytest.raises(InfeasibleError, match="Even in float32"):
        sensitivity(source, tmp_path / "mixed.onnx", feeds, Agreement(source, feeds), 1.5)
    assert not (tmp_path / "mixed.onnx").exists()


def test_a_floor_that_only_float32_reaches_is_infeasible(tmp_path: Path, source: Path) -> None:
    feeds = pocket.vectors()

    def judge(path: Path) -> float:
        """Happy with the float32 file only."""
        nodes = onnx.load(path).graph.node
        return float("QuantizeLinear" not in {node.op_type for node in nodes})

    with pytest.raises(InfeasibleError, match="int8 in any of the 8 layers"):
        sensitivity(source, tmp_path / "mixed.onnx", feeds, judge, 0.5)


def test_evaluations_are_bounded_and_too_few_are_refused(tmp_path: Path, source: Path) -> None:
    feeds = pocket.vectors()
    judge = Agreement(source, feeds)
    mixed = sensitivity(source, tmp_path / "mixed.onnx", feeds, judge, 0.9, evaluations=6)
    assert mixed.evaluations <= 6
    with pytest.raises(UsageError, match="6 are needed"):
        sensitivity(source, tmp_path / "mixed.onnx", feeds, judge, 0.9, evaluations=5)


def test_harm_is_zero_for_equal_scores_and_the_kl_divergence_otherwise() -> None:
    first = np.log(np.asarray([[0.5, 0.5]], np.float32))
    second = np.log(np.asarray([[0.25, 0.75]], np.float32))
    single = np.asarray([1.0, 2.0], np.float32)
    assert harm_of([first], [first]) == 0.0
    wanted = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    assert harm_of([first], [second]) == pytest.approx(wanted, rel=1e-5)
    assert harm_of([single], [single * 1.1]) == pytest.approx(0.01, rel=1e-3)
    assert harm_of([first], [first * np.nan]) == float("inf")
