"""Weights in a file beside the graph."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from mpo.errors import UsageError
from mpo.exporters.external import DIGEST, PAGE, SMALLEST
from mpo.exporters.onnx import export_onnx
from mpo.exporters.parity import check_parity
from mpo.exporters.runtime import OnnxModel


class Wide(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Linear(8, 300), nn.ReLU(), nn.Linear(300, 200), nn.Tanh())
        self.head = nn.Linear(200, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).reshape(x.shape[0], -1))


ROWS = torch.linspace(-1, 1, 40).reshape(5, 8)


@pytest.mark.case(52)
def test_both_files_together_compute_what_torch_computes(tmp_path: Path) -> None:
    model, path = Wide().eval(), tmp_path / "model.onnx"
    export = export_onnx(model, (ROWS,), {}, path, external_data=True)
    parity = check_parity(model, path, [((ROWS[:1],), {}), ((ROWS,), {})], lambda out: out)
    assert parity.ok
    assert export.dynamic_batch
    data = tmp_path / "model.onnx.data"
    assert sorted(tmp_path.iterdir()) == [path, data]
    assert [file.path for file in export.files] == [path, data]
    for file in export.files:
        assert file.bytes == file.path.stat().st_size
        assert file.sha256 == hashlib.sha256(file.path.read_bytes()).hexdigest()
    assert export.bytes == path.stat().st_size + data.stat().st_size
    assert export.sha256 == export.files[0].sha256
    inside = export_onnx(model, (ROWS,), {}, tmp_path / "inside.onnx")
    assert [file.path for file in inside.files] == [inside.path]
    assert path.stat().st_size < inside.bytes / 10
    assert oct(data.stat().st_mode) == oct(inside.path.stat().st_mode)
    onnx.checker.check_model(str(path), full_check=True)


def test_large_weights_start_on_pages_and_small_ones_stay_in_the_graph(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(Wide(), (ROWS,), {}, path, external_data=True)
    graph = onnx.load(path, load_external_data=False).graph
    kept = {one.name for one in graph.initializer if one.data_location != onnx.TensorProto.EXTERNAL}
    sizes = {name: value.numel() * 4 for name, value in Wide().state_dict().items()}
    assert kept <= {name for name, size in sizes.items() if size < SMALLEST} | set()
    beside = [
        onnx.external_data_helper.ExternalDataInfo(one)
        for one in graph.initializer
        if one.name not in kept
    ]
    assert len(beside) >= 3
    assert any(size >= 65536 for size in sizes.values())
    for info in beside:
        assert info.offset is not None
        assert info.length is not None
        assert info.length < 65536 or info.offset % PAGE == 0


@pytest.mark.case(52)
def test_the_graphs_hash_vouches_for_its_weights(tmp_path: Path) -> None:
    one = export_onnx(Wide(0), (ROWS,), {}, tmp_path / "a.onnx", external_data=True)
    same = export_onnx(Wide(0), (ROWS,), {}, tmp_path / "a.onnx", external_data=True)
    other = export_onnx(Wide(1), (ROWS,), {}, tmp_path / "a.onnx", external_data=True)
    assert one.sha256 == same.sha256 != other.sha256
    notes = {item.key: item.value for item in onnx.load(tmp_path / "a.onnx").metadata_props}
    assert notes[DIGEST] == other.files[1].sha256


def test_weights_that_were_moved_away_are_an_error_that_names_them(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(Wide(), (ROWS,), {}, path, external_data=True)
    (tmp_path / "model.onnx.data").rename(tmp_path / "gone")
    with pytest.raises(UsageError, match=r"cannot load .*model\.onnx"):
        OnnxModel(path)


def test_a_folder_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Cannot write"):
        export_onnx(Wide(), (ROWS,), {}, tmp_path / "no" / "model.onnx", external_data=True)
