"""Parity and the runtime: what differs is found, what cannot run is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mpo.errors import UsageError
from mpo.exporters.onnx import export_onnx
from mpo.exporters.parity import check_parity
from mpo.exporters.runtime import OnnxModel, run_onnx

SAMPLES = torch.linspace(-1, 1, 40).reshape(10, 4)


def primary(outputs: Tensor) -> Tensor:
    return outputs


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 3).eval()


@pytest.fixture(scope="module")
def exported(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parity") / "model.onnx"
    export_onnx(model, (SAMPLES,), {}, path)
    return path


def test_a_faithful_file_is_in_parity_at_both_batch_sizes(model: nn.Module, exported: Path) -> None:
    parity = check_parity(model, exported, [((SAMPLES[:1],), {}), ((SAMPLES,), {})], primary)
    assert parity.ok
    assert parity.max_rel < 1e-5
    assert parity.agreement == 1.0
    assert (parity.samples, parity.batches) == (11, (1, 10))


@pytest.mark.case(49)
def test_other_weights_are_found_out(exported: Path) -> None:
    torch.manual_seed(1)
    parity = check_parity(nn.Linear(4, 3), exported, [((SAMPLES,), {})], primary)
    assert not parity.ok
    assert "differ by" in parity.reason
    assert parity.max_abs > 0.01


@pytest.mark.case(49)
def test_nan_is_a_failure(model: nn.Module, exported: Path) -> None:
    parity = check_parity(model, exported, [((SAMPLES * float("nan"),), {})], primary)
    assert not parity.ok
    assert "NaN" in parity.reason


def test_decisions_without_a_margin_are_not_held_against_the_file(tmp_path: Path) -> None:
    class Tie(nn.Module):
        def __init__(self, lift: float) -> None:
            super().__init__()
            self.lift = lift

        def forward(self, x: Tensor) -> Tensor:
            first = x.sum(1, keepdim=True)
            return torch.cat([first, first + self.lift], 1)

    export_onnx(Tie(1e-6), (SAMPLES,), {}, tmp_path / "model.onnx")
    parity = check_parity(Tie(-1e-6), tmp_path / "model.onnx", [((SAMPLES,), {})], primary)
    assert parity.ok


def test_inputs_that_the_file_does_not_take_are_a_reason(model: nn.Module, exported: Path) -> None:
    class Wide(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    parity = check_parity(Wide(), exported, [((torch.ones(2, 5),), {})], primary)
    assert not parity.ok
    assert "does not take these inputs" in parity.reason
    with pytest.raises(UsageError, match="takes 1 inputs"):
        run_onnx(exported, (SAMPLES, SAMPLES), {})


def test_no_samples_prove_nothing(model: nn.Module, exported: Path) -> None:
    with pytest.raises(UsageError, match="at least one batch"):
        check_parity(model, exported, [], primary)


@pytest.mark.parametrize("content", [b"", b"<html>not a model</html>"])
def test_a_file_that_is_no_model_is_a_usage_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="cannot load"):
        OnnxModel(path)
    with pytest.raises(UsageError, match="cannot load"):
        OnnxModel(tmp_path / "missing.onnx")
