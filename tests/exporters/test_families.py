"""The family sweep's last step: every network of the zoo, half of its blocks gone, is exported,
free in its batch, and in parity with torch at two batch sizes."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from mpo.exporters.onnx import export_onnx
from mpo.exporters.parity import check_parity
from mpo.optimizer.blocks.finding import find_blocks
from mpo.optimizer.blocks.surgery import remove_blocks
from mpo.optimizer.data.batches import primary, take
from tests.optimizer.zoo import ZOO


@pytest.mark.parametrize("name", [name for name, kind in ZOO.items() if kind.removable])
def test_the_pruned_network_is_exported_in_parity(name: str, tmp_path: Path) -> None:
    kind = ZOO[name]
    model, batch = kind.make(), kind.batch()
    removable = [block for block in find_blocks(model, batch) if block.removable]
    smaller = remove_blocks(model, [block.name for block in removable[::2]]).eval()
    two, five = take(batch, 2), take(batch, 5)
    path = tmp_path / "model.onnx"
    export = export_onnx(smaller, two.args, two.kwargs, path)
    assert export.dynamic_batch, export.warnings
    assert onnx.load(path).ir_version <= 10
    calls = [(two.args, two.kwargs), (five.args, five.kwargs)]
    parity = check_parity(smaller, path, calls, primary)
    assert parity.ok, parity.reason
    assert parity.batches == (2, 5)
