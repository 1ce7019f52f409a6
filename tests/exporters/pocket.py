"""Pocket networks as float32 ONNX files: a conv net and a transformer, exported as mpo does it."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from mpo.exporters.converted import Array, Feeds
from mpo.exporters.onnx import export_onnx

WORDS = 200


class Convolutions(nn.Module):
    """Three convolutions with BatchNorm, one of them residual, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32))
        self.wide = nn.Sequential(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images [B, 3, 12, 12]."""
        x = self.stem(x)
        x = torch.relu(x + self.block(x))
        return self.head(self.wide(x).mean((2, 3)))


class Transformer(nn.Module):
    """An embedding, one pre-norm attention block with a padding mask, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 32)
        self.norms = nn.ModuleList([nn.LayerNorm(32, eps=1e-12) for _ in range(2)])
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.head = nn.Linear(32, 5)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits of sentences [B, T] whose mask [B, T] is 1 on words and 0 on padding."""
        x = self.words(ids)
        blind = (1.0 - mask.float()) * torch.finfo(torch.float32).min
        scores = blind[:, None, None, :].expand(-1, 4, mask.shape[1], -1)
        y = self.norms[0](x)
        x = x + self.attention(y, y, y, attn_mask=scores.flatten(0, 1), need_weights=False)[0]
        x = x + self.mlp(self.norms[1](x))
        return self.head(x[:, 0])


def convolutions(path: Path) -> Path:
    """The conv net at `path`, BatchNorm statistics settled on noise."""
    path.write_bytes(_convolutions())
    return path


def transformer(path: Path) -> Path:
    """The transformer at `path`."""
    path.write_bytes(_transformer())
    return path


@cache
def _convolutions() -> bytes:
    torch.manual_seed(0)
    model = Convolutions()
    for _ in range(20):
        model(torch.randn(16, 3, 12, 12))
    return _exported(model, (torch.randn(2, 3, 12, 12),), {})


@cache
def _transformer() -> bytes:
    torch.manual_seed(0)
    example = {"ids": torch.ones(2, 8, dtype=torch.int64), "mask": torch.ones(2, 8)}
    return _exported(Transformer(), (), example)


def _exported(model: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model.eval(), args, kwargs, path)
        return path.read_bytes()


def images(count: int = 4, size: int = 16) -> Feeds:
    """Batches of noise for the conv net."""
    random = np.random.default_rng(1)
    return [
        {"input": random.standard_normal((size, 3, 12, 12)).astype(np.float32)}
        for _ in range(count)
    ]


def sentences(count: int = 4, size: int = 16) -> Feeds:
    """Batches of random words, padded at the end."""
    random = np.random.default_rng(1)
    made: list[dict[str, Array]] = []
    for _ in range(count):
        lengths = random.integers(2, 9, (size, 1))
        mask = (np.arange(8) < lengths).astype(np.float32)
        made.append({"ids": random.integers(0, WORDS, (size, 8)), "mask": mask})
    return made


def chain(*scales: float, width: int = 16, outliers: int = -1) -> ModelProto:
    """x times one random square matrix after the other, each with its own scale, a Relu between.

    Args:
        outliers: place of the product before which one feature is made a thousand times larger,
            and after which it counts no more: what int8 with one scale a tensor cannot hold.
    """
    random = np.random.default_rng(0)
    nodes, weights, value = [], [], "x"
    for place, scale in enumerate(scales):
        matrix = random.standard_normal((width, width)) / np.sqrt(width) * scale
        if place == outliers:
            blow = np.ones(width)
            blow[0] = 1000.0
            weights.append(numpy_helper.from_array(blow.astype(np.float32), "blow"))
            nodes.append(helper.make_node("Mul", [value, "blow"], ["blown"], name="Mul_0"))
            value = "blown"
            matrix[0] = 0.0
        weights.append(numpy_helper.from_array(matrix.astype(np.float32), f"w{place}"))
        product = helper.make_node(
            "MatMul", [value, f"w{place}"], [f"product{place}"], name=f"MatMul_{place}"
        )
        relu = helper.make_node("Relu", [f"product{place}"], [f"relu{place}"], name=f"Relu_{place}")
        nodes += [product, relu] if place < len(scales) - 1 else [product]
        value = nodes[-1].output[0]
    nodes[-1].output[0] = "y"
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name in "xy"
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def vectors(count: int = 4, size: int = 32, width: int = 16) -> Feeds:
    """Batches of noise for a chain."""
    random = np.random.default_rng(1)
    return [{"x": random.standard_normal((size, width)).astype(np.float32)} for _ in range(count)]
