"""The first node at which two graphs part, found in a few runs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, numpy_helper

from mpo.errors import UsageError
from mpo.exporters.bisect import against, first_divergence
from mpo.exporters.converted import run, write_graph
from mpo.exporters.halves import to_half
from mpo.exporters.quantize import quantize_static
from tests.exporters import pocket


def tampered(model: ModelProto, weight: str, factor: float = 1.5) -> ModelProto:
    """A copy with one weight scaled."""
    copy = ModelProto()
    copy.CopyFrom(model)
    tensor = next(item for item in copy.graph.initializer if item.name == weight)
    array = numpy_helper.to_array(tensor) * np.float32(factor)
    tensor.CopyFrom(numpy_helper.from_array(array, weight))
    return copy


@pytest.mark.parametrize("place", range(12))
@pytest.mark.case(49)
def test_the_node_that_was_tampered_with_is_named(place: int) -> None:
    model = pocket.chain(*[1.5] * 12)
    found = first_divergence(model, tampered(model, f"w{place}"), pocket.vectors(2))
    assert found is not None
    assert found.node == f"MatMul_{place}"
    assert found.op == "MatMul"
    assert found.error == pytest.approx(0.5, rel=0.01)
    assert found.got == pytest.approx(1.5 * found.want, rel=0.01)


def test_it_takes_about_log2_of_the_nodes_runs() -> None:
    model = pocket.chain(*[1.5] * 32)
    found = first_divergence(model, tampered(model, "w9"), pocket.vectors(1))
    assert found is not None
    assert found.node == "MatMul_9"
    assert found.runs <= math.ceil(math.log2(len(model.graph.node))) + 1


def test_equal_graphs_do_not_part() -> None:
    model = pocket.chain(1.0, 1.0)
    assert first_divergence(model, model, pocket.vectors()) is None


def test_a_residual_branch_does_not_mislead(tmp_path: Path) -> None:
    """The other branch agrees after the fault; the shortcut carries sound values past it."""
    source = pocket.convolutions(tmp_path / "model.onnx")
    model = onnx.load(source)
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    for node in convs:
        found = first_divergence(model, tampered(model, node.input[1]), pocket.images(1))
        assert found is not None
        assert found.node == node.name


def test_a_transformer_s_faulty_layer_is_named(tmp_path: Path) -> None:
    source = pocket.transformer(tmp_path / "model.onnx")
    model = onnx.load(source)
    node = next(node for node in model.graph.node if "words.weight" in node.input)
    found = first_divergence(source, tampered(model, "words.weight", 1.1), pocket.sentences(1))
    assert found is not None
    assert (found.node, found.op) == (node.name, "Gather")


def test_nan_is_a_divergence_however_large_the_tolerance() -> None:
    model = pocket.chain(1.0, 1.0, 1.0)
    found = first_divergence(model, tampered(model, "w1", float("nan")), pocket.vectors(1), 1e9)
    assert found is not None
    assert found.node == "MatMul_1"
    assert math.isinf(found.error)


def test_a_converted_file_within_its_tolerance_does_not_part(tmp_path: Path) -> None:
    source = pocket.convolutions(tmp_path / "model.onnx")
    feeds = pocket.images(2)
    half = to_half(source, tmp_path / "half.onnx", feeds).path
    assert first_divergence(source, half, feeds, 0.01) is None
    first = first_divergence(source, half, feeds, 1e-6)
    assert first is not None
    assert first.node == "Conv_0"


def test_values_behind_quantized_layers_are_matched_by_name(tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    model = pocket.chain(*[1.5] * 6)
    write_graph(model, source)
    feeds = pocket.vectors(2)
    write_graph(tampered(model, "w3", 3.0), tmp_path / "wrong.onnx")
    wrong = quantize_static(tmp_path / "wrong.onnx", tmp_path / "int8.onnx", feeds)
    found = first_divergence(source, wrong.path, feeds, 0.2)
    assert found is not None
    assert found.node == "MatMul_3"


def test_graphs_without_a_common_value_cannot_be_compared() -> None:
    model = pocket.chain(1.0)
    other = pocket.chain(1.0)
    other.graph.node[0].output[0] = other.graph.output[0].name = "z"
    with pytest.raises(UsageError, match="no value of the same name"):
        first_divergence(model, other, pocket.vectors())


def test_references_from_torch_name_the_first_layer_that_differs() -> None:
    model = pocket.chain(1.0, 1.0, 1.0)
    feeds = pocket.vectors(2)
    references = []
    for feed in feeds:
        value, own = torch.from_numpy(feed["x"]), {}
        for place, weight in enumerate(model.graph.initializer):
            factor = 2.0 if place == 1 else 1.0
            value = value @ torch.from_numpy(numpy_helper.to_array(weight).copy()) * factor
            if place < 2:
                own[f"product{place}"] = value.numpy()
                value = value.relu()
        references.append({**own, "y": value.numpy()})
    found = against(model, references, feeds)
    assert found is not None
    assert found.node == "MatMul_1"
    assert found.want == pytest.approx(2 * found.got, rel=1e-3)
    sound = [dict(values) for values in run(model, feeds, ["product0", "product1", "y"])]
    assert against(model, sound, feeds) is None


def test_references_of_other_names_are_refused() -> None:
    with pytest.raises(UsageError, match="0 names"):
        against(pocket.chain(1.0), [{"other": np.zeros(1)}], pocket.vectors(1))


def test_a_divergence_reads_as_one_sentence() -> None:
    model = pocket.chain(1.0, 1.0)
    text = str(first_divergence(model, tampered(model, "w0", 2.0), pocket.vectors(1)))
    assert text.startswith("MatMul 'MatMul_0' is the first node that differs: its output")
