"""Latency and size of mpo's ONNX files against those of other ways to make one, in turn on one CPU.

Peers: plain torch.onnx.export, onnxslim over it, Olive's conversion with its peephole optimizer and
ONNX Runtime's transformer fusions, Hugging Face optimum's exporter. One that is not installed, or
fails, is written down with its reason.

    python benchmarks/export_peers.py [--only resnet,...] [--peers olive,...] [--out FILE]

Every ratio is peer / mpo from fresh processes that run both files in turn on one thread: over 1,
mpo's is faster.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import transformers as hf
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.networks import ResNet18  # noqa: E402
from mpo.errors import MpoError  # noqa: E402
from mpo.exporters.onnx import export_onnx  # noqa: E402
from mpo.exporters.runtime import OnnxModel  # noqa: E402
from mpo.exporters.simplify import quiet  # noqa: E402
from mpo.profiles.local import LocalTarget  # noqa: E402
from mpo.profiles.measure import measure_pair  # noqa: E402
from mpo.timing import Stopwatch  # noqa: E402

Kwargs = dict[str, torch.Tensor]
OPSET = 20


def sentences() -> Kwargs:
    """Two sentences of 64 tokens."""
    ids = torch.randint(0, 1000, (2, 64), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def images(size: int) -> Kwargs:
    """Two images."""
    return {"x": torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))}


def distilbert() -> nn.Module:
    """Four layers, 256 wide."""
    config = hf.DistilBertConfig(vocab_size=1000, dim=256, n_layers=4, n_heads=4, hidden_dim=1024)
    return hf.DistilBertForSequenceClassification(config)


def gpt2() -> nn.Module:
    """Four layers, 256 wide, the head tied to the embedding."""
    return hf.GPT2LMHeadModel(
        hf.GPT2Config(vocab_size=1000, n_positions=128, n_embd=256, n_layer=4, n_head=4,
                      use_cache=False)
    )  # fmt: skip


class Pixels(nn.Module):
    """A vision transformer under the input name of the others: six layers, 192 wide."""

    def __init__(self) -> None:
        super().__init__()
        config = hf.ViTConfig(hidden_size=192, num_hidden_layers=6, num_attention_heads=3,
                              intermediate_size=768, image_size=96, patch_size=8)  # fmt: skip
        self.model = hf.ViTForImageClassification(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, 3, 96, 96] -> [n, 2]."""
        return self.model(x).logits


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Kwargs]] = {
    "resnet": (ResNet18, images(96)),
    "distilbert": (distilbert, sentences()),
    "vit": (Pixels, images(96)),
    "gpt2": (gpt2, sentences()),
}


def plain(model: nn.Module, kwargs: Kwargs, folder: Path) -> Path:
    """torch.onnx.export with a free batch."""
    path = folder / "plain.onnx"
    shapes = {name: {0: torch.export.Dim("batch")} for name in kwargs}
    with quiet():
        torch.onnx.export(
            model, (), path, kwargs=kwargs, dynamo=True, opset_version=OPSET,
            dynamic_shapes=shapes, input_names=list(kwargs), external_data=False, verbose=False,
        )  # fmt: skip
    return path


def slim(model: nn.Module, kwargs: Kwargs, folder: Path) -> Path:
    """onnxslim over the plain file."""
    import onnxslim

    path = folder / "slim.onnx"
    source = folder / "plain.onnx"
    with quiet():
        onnx.save(onnxslim.slim(onnx.load(str(source))), str(path))
    return path


def olive(model: nn.Module, kwargs: Kwargs, folder: Path) -> Path:
    """Olive's own conversion, its peephole optimizer and, for transformers, ONNX Runtime's
    fusions."""
    from olive.workflows import run

    weights, script = folder / "model.pt", folder / "loader.py"
    torch.save(model, weights)
    script.write_text(
        "import torch\n\n\ndef load(path):\n    return torch.load(path, weights_only=False)\n"
    )
    axes = {name: {"0": "batch"} for name in kwargs}
    passes: dict[str, Any] = {
        "convert": {"type": "OnnxConversion", "target_opset": OPSET},
        "peephole": {"type": "OnnxPeepholeOptimizer"},
    }
    if "input_ids" in kwargs:
        passes["fuse"] = {"type": "OrtTransformersOptimization", "model_type": "bert",
                          "opt_level": 0}  # fmt: skip
    with quiet():
        run({
            "input_model": {
                "type": "PyTorchModel", "model_path": str(weights),
                "model_loader": "load",
                "model_script": str(script),
                "io_config": {
                    "input_names": list(kwargs),
                    "input_shapes": [list(one.shape) for one in kwargs.values()],
                    "input_types": [str(one.dtype).removeprefix("torch.")
                                    for one in kwargs.values()],
                    "output_names": ["output"], "dynamic_axes": axes,
                },
            },
            "passes": passes, "output_dir": str(folder / "olive"),
            "cache_dir": str(folder / "cache"), "log_severity_level": 4,
        })  # fmt: skip
    found = sorted((folder / "olive").rglob("*.onnx"))
    if not found:
        raise RuntimeError("Olive wrote no ONNX file")
    return found[0]


def optimum(model: nn.Module, kwargs: Kwargs, folder: Path) -> Path:
    """Hugging Face optimum, for its own models only."""
    from optimum.exporters.onnx import onnx_export_from_model

    if not hasattr(model, "config"):
        raise RuntimeError("optimum takes Hugging Face models only")
    with quiet():
        onnx_export_from_model(model, folder / "optimum", opset=18, do_validation=False)
    return next((folder / "optimum").glob("*.onnx"))


PEERS = {"torch.onnx.export": plain, "onnxslim": slim, "olive": olive, "optimum": optimum}


def feeds(path: Path, kwargs: Kwargs) -> dict[str, np.ndarray]:
    """One example under the file's input names."""
    arrays = {name: one[:1].numpy() for name, one in kwargs.items()}
    names = OnnxModel(path).inputs
    if set(names) <= set(arrays):
        return {name: arrays[name] for name in names}
    return dict(zip(names, arrays.values(), strict=True))


def size(path: Path) -> int:
    """Bytes of the file and of the weights beside it."""
    beside = [one for one in path.parent.glob(f"{path.name}*") if one != path]
    return sum(one.stat().st_size for one in (path, *beside))


def compared(name: str, seconds: float, folder: Path, peers: list[str]) -> dict[str, Any]:
    """One network: mpo's file, and each peer's against it."""
    make, kwargs = NETWORKS[name]
    torch.manual_seed(0)
    model = make().eval()
    ours, watch = folder / "mpo.onnx", Stopwatch()
    made = export_onnx(model, (), kwargs, ours, opset=OPSET)
    row: dict[str, Any] = {"name": name, "bytes": made.bytes, "nodes": made.nodes,
                           "raw_nodes": made.raw_nodes, "seconds": watch.seconds,
                           "peers": {}}  # fmt: skip
    wanted = OnnxModel(ours).run((), {key: one[:1] for key, one in kwargs.items()})[0]
    for peer, way in [(peer, PEERS[peer]) for peer in peers]:
        watch = Stopwatch()
        try:
            theirs = way(model, kwargs, folder)
            took = watch.seconds
            found = OnnxModel(theirs)
            inputs = feeds(theirs, kwargs)
            tensors = {key: torch.from_numpy(one) for key, one in inputs.items()}
            apart = float(np.abs(found.run((), tensors)[0] - wanted).max())
            pair = measure_pair(
                LocalTarget(), ours, theirs, feeds(ours, kwargs), inputs, seconds=seconds
            )
        except (ImportError, MpoError, OSError, RuntimeError, TypeError, ValueError) as error:
            row["peers"][peer] = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
            print(f"{name:11} {peer:18} {row['peers'][peer]['failed']}", flush=True)
            continue
        low, high = pair.ratio.ci95
        row["peers"][peer] = {
            "latency": pair.ratio.model_dump(mode="json"), "bytes": size(theirs),
            "nodes": len(onnx.load(str(theirs)).graph.node), "seconds": took,
            "largest_difference": apart,
        }  # fmt: skip
        print(
            f"{name:11} {peer:18} latency {pair.ratio.estimate:.3f} [{low:.3f}, {high:.3f}]  "
            f"size {size(theirs) / made.bytes:.3f}  made in {took:.0f} s",
            flush=True,
        )
    return row


def version(name: str) -> str:
    """Of an installed distribution; "" when it is not."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def main() -> None:
    """Compare every network, write the JSON after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(NETWORKS))
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--seconds", type=float, default=8.0, help="of sampling per ratio")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/export_peers.json")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    packages = ("torch", "onnxruntime", "onnxsim", "onnxslim", "olive-ai", "optimum-onnx")
    rows = []
    for name in options.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(compared(name, options.seconds, Path(folder), options.peers.split(",")))
        facts = {"versions": {one: version(one) for one in packages}, "opset": OPSET,
                 "batch": 1, "threads": 1, "rows": rows}  # fmt: skip
        options.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
