"""Export of tiny real networks: names, axes, modes, bytes, and what cannot be exported."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from mpo.errors import MpoError, UsageError
from mpo.exporters.onnx import export_onnx
from mpo.exporters.parity import check_parity
from mpo.exporters.runtime import OnnxModel, run_onnx


class Convnet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


@dataclass
class Output(OrderedDict[str, Any]):
    """Like a Hugging Face output: a mapping with attributes, built from keywords."""

    logits: Tensor
    states: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        self["logits"], self["states"] = self.logits, self.states


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 2)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, scale: float = 1.0
    ) -> Output:
        states = self.embed(input_ids) * scale
        if attention_mask is not None:
            states = states * attention_mask.unsqueeze(-1)
        return Output(logits=self.head(states.mean(1)), states=(states,))


class Stubborn(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if float(x.sum()) > 0 else x * 3


class Frozen(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.ones(2, 4)


IMAGES = torch.linspace(-1, 1, 5 * 36).reshape(5, 1, 6, 6)


def test_the_file_takes_any_batch_and_computes_what_torch_computes(tmp_path: Path) -> None:
    model, path = Convnet().eval(), tmp_path / "model.onnx"
    export = export_onnx(model, (IMAGES[:1],), {}, path)
    assert export.dynamic_batch
    assert export.opset == 20
    assert export.warnings == ()
    assert export.bytes == path.stat().st_size
    assert export.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    parity = check_parity(model, path, [((IMAGES[:1],), {}), ((IMAGES,), {})], lambda out: out)
    assert parity.ok
    assert parity.batches == (1, 5)
    graph = onnx.load(path)
    assert graph.ir_version == 10
    assert [value.name for value in (*graph.graph.input, *graph.graph.output)] == [
        "input",
        "output",
    ]
    assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert "head.weight" in {weight.name for weight in graph.graph.initializer}
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.case(39)
def test_a_model_in_train_mode_is_exported_for_inference_and_left_in_train_mode(
    tmp_path: Path,
) -> None:
    model = Convnet().train()
    norm = model.body[1].eval()
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    export_onnx(model, (IMAGES,), {}, tmp_path / "model.onnx")
    assert model.training
    assert model.body[3].training
    assert not norm.training
    torch.testing.assert_close(norm.state_dict(), before, rtol=0, atol=0)
    parity = check_parity(model, tmp_path / "model.onnx", [((IMAGES,), {})], lambda out: out)
    assert parity.ok
    assert model.training


@pytest.mark.case(51)
def test_keywords_name_the_inputs_and_keys_name_the_outputs(tmp_path: Path) -> None:
    model, path = Tagger().eval(), tmp_path / "model.onnx"
    call: dict[str, Any] = {
        "attention_mask": torch.tensor([[1, 1, 0]]),
        "input_ids": torch.tensor([[3, 4, 5]]),
        "scale": 2.0,
    }
    export_onnx(model, (), call, path)
    onnx_model = OnnxModel(path)
    assert set(onnx_model.inputs) == {"input_ids", "attention_mask"}
    assert onnx_model.outputs == ("logits", "states_0")
    wanted = model(**call)
    turned = dict(reversed(call.items()))
    found = onnx_model.as_model(wanted)(**turned)
    assert type(found) is Output
    torch.testing.assert_close(found.logits, wanted.logits)
    torch.testing.assert_close(found.states[0], wanted.states[0])
    assert set(onnx_model.as_model()(**call)) == {"logits", "states_0"}


def test_samples_made_in_inference_mode_can_be_exported(tmp_path: Path) -> None:
    with torch.inference_mode():
        sample = IMAGES[:1].clone()
        export = export_onnx(Convnet(), (sample,), {}, tmp_path / "model.onnx")
    assert export.dynamic_batch


def test_another_process_writes_the_same_bytes_and_no_path_of_the_machine(tmp_path: Path) -> None:
    script = tmp_path / "export_it.py"
    script.write_text(
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from mpo.exporters.onnx import export_onnx\n"
        "torch.manual_seed(0)\n"
        "from torch import nn\n"
        "model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2))\n"
        "print(export_onnx(model, (torch.ones(2, 4),), {}, Path(sys.argv[1])).sha256)\n"
    )
    run = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "there.onnx")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2))
    here = export_onnx(model, (torch.ones(2, 4),), {}, tmp_path / "here.onnx")
    assert run.stdout.strip() == here.sha256  # and nothing else was printed
    assert run.stderr == ""
    raw = (tmp_path / "there.onnx").read_bytes()
    for trace in (str(tmp_path), sys.prefix, "site-packages", "export_it", ".py"):
        assert trace.encode() not in raw


class Branches(nn.Module):
    """Takes one of two layers, by its input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.warm, self.cold = nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.cond(x.sum() > 0, self.warm.forward, self.cold.forward, (x,))
        return out


def test_weights_that_only_a_branch_reads_keep_their_reader(tmp_path: Path) -> None:
    model, path = Branches().eval(), tmp_path / "branches.onnx"
    made = export_onnx(model, (torch.randn(2, 32),), {}, path)
    assert made.dynamic_batch
    assert {"warm.weight", "cold.bias"} <= {w.name for w in onnx.load(path).graph.initializer}
    for x in (torch.ones(5, 32), -torch.ones(3, 32)):
        with torch.no_grad():
            wanted = model(x)
        assert torch.allclose(torch.from_numpy(run_onnx(path, (x,), {})[0]), wanted, atol=1e-5)


@pytest.mark.case(46)
def test_a_graph_that_depends_on_the_batch_size_is_written_with_a_fixed_batch(
    tmp_path: Path,
) -> None:
    export = export_onnx(Frozen(), (torch.ones(2, 4),), {}, tmp_path / "model.onnx")
    assert not export.dynamic_batch
    assert "batch axis" in export.warnings[0]
    found = run_onnx(export.path, (torch.ones(2, 4),), {})
    assert found[0].tolist() == [[2.0] * 4] * 2


@pytest.mark.case(47)
def test_a_model_that_cannot_be_exported_says_why_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(MpoError, match="cannot export this model") as caught:
        export_onnx(Stubborn(), (torch.ones(2, 4),), {}, tmp_path / "model.onnx")
    assert caught.value.exit_code == 1
    assert "\n" not in caught.value.message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("opset", [9, 17, 23])
def test_an_opset_out_of_range_is_a_usage_error(tmp_path: Path, opset: int) -> None:
    with pytest.raises(UsageError, match=f"opset {opset}"):
        export_onnx(Convnet(), (IMAGES,), {}, tmp_path / "model.onnx", opset=opset)


@pytest.mark.parametrize("opset", [18, 22])
def test_the_opset_in_the_file_is_the_one_that_was_asked_for(tmp_path: Path, opset: int) -> None:
    export = export_onnx(Convnet(), (IMAGES,), {}, tmp_path / "model.onnx", opset=opset)
    assert export.opset == onnx.load(export.path).opset_import[0].version == opset


@pytest.mark.case(51)
def test_a_call_without_a_tensor_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no tensor"):
        export_onnx(Convnet(), (), {"x": 3}, tmp_path / "model.onnx")


def test_a_folder_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Cannot write"):
        export_onnx(Convnet(), (IMAGES,), {}, tmp_path / "no" / "model.onnx")
