"""One model is traced once, however many precisions and judges ask for its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from mpo.exporters.onnx import export_onnx
from mpo.pipeline.run.shipping import ship
from tests.pipeline.carrying import context_in


def test_a_model_in_three_precisions_is_traced_once_and_changed_weights_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced = list[Path]()

    def counted(model: Any, args: Any, kwargs: Any, path: Path, **options: Any) -> Any:
        traced.append(path)
        return export_onnx(model, args, kwargs, path, **options)

    monkeypatch.setattr("mpo.pipeline.run.shipping.export_onnx", counted)
    with context_in(tmp_path / "run") as context:
        model = context.without(context.blocks[0].name.split())
        first = ship(context, model, tmp_path / "a.onnx", "fp16", metadata={"mpo.version": "x"})
        second = ship(context, model, tmp_path / "b.onnx", "fp16")
        ship(context, model, tmp_path / "c.onnx", "int8-dynamic")
        assert len(traced) == 1
        assert first.export.sha256 != second.export.sha256  # the first has a fact in it
        facts = {one.key: one.value for one in onnx.load(tmp_path / "a.onnx").metadata_props}
        assert facts["mpo.version"] == "x"
        with torch.no_grad():
            next(model.parameters()).add_(1.0)
        changed = ship(context, model, tmp_path / "d.onnx", "fp16")
        assert len(traced) == 2
        assert changed.export.sha256 != second.export.sha256
        assert not traced[0].exists()
        assert traced[1].is_file()
    del context
    assert not traced[1].exists()
