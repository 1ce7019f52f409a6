"""Inputs whose length differs from batch to batch stay free in the exported file."""

from pathlib import Path

import onnx
import pytest
import torch

from mpo.exporters.axes import varying_axes
from mpo.exporters.onnx import export_onnx
from mpo.exporters.parity import Call, check_parity
from mpo.optimizer.data.batches import primary


def call(rows: int, length: int) -> tuple[tuple[()], dict[str, torch.Tensor]]:
    tokens = torch.arange(rows * length).reshape(rows, length) % 50
    mask = torch.ones(rows, length, dtype=torch.long)
    mask[0, -1] = 0
    return (), {"input_ids": tokens, "attention_mask": mask}


def test_only_axes_that_differ_vary() -> None:
    assert varying_axes([call(2, 5), call(3, 9)]) == [{1}, {1}]
    assert varying_axes([call(2, 5), call(3, 5)]) == [set(), set()]
    image: Call = ((torch.zeros(2, 3, 8, 8),), {})
    assert varying_axes([image, ((torch.zeros(1, 3, 16, 8),), {})]) == [{2}]
    assert varying_axes([]) == []


@pytest.mark.case(46)
def test_a_padded_batch_of_any_length_runs_in_parity(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, num_labels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config).eval()
    calls = [call(2, 7), call(3, 12), call(1, 5)]
    path = tmp_path / "model.onnx"
    export = export_onnx(model, *calls[0], path, varying=varying_axes(calls))
    assert export.warnings == ()
    parity = check_parity(model, path, calls, primary)
    assert parity.ok, parity.reason
    graph = onnx.load(path).graph
    names = [size.dim_param for size in graph.input[0].type.tensor_type.shape.dim]
    assert names == ["batch", "input_ids_1"]
