"""ResNet-26 on Fashion-MNIST: 60,000 + 10,000 grey 28x28 pictures of clothes in ten classes.

The pictures are not in the repository: `make data` fetches them (see examples/fetch.py).
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    import mpo

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("MPO_DATA", HERE.parents[1] / "data")) / "fashion"
CLASSES = [
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
]  # fmt: skip
SPLIT_SEED, VALIDATION = 0, 5_000
MEAN, DEVIATION = 0.2860, 0.3530
Batch = tuple[Tensor, Tensor]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: the identity, or a 1x1 projection (option B)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(branch(x) + shortcut(x))."""
        branch = F.relu(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        return F.relu(branch + self.shortcut(x))


def stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    """Return `blocks` blocks of one width; the first one changes width and resolution."""
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs) for _ in range(blocks - 1)))


class ResNet(nn.Module):
    """The CIFAR residual network: 6 * blocks + 2 layers, widths 16, 32 and 64."""

    def __init__(self, blocks: int = 4, classes: int = 10, channels: int = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.layer1 = stage(16, 16, blocks, stride=1)
        self.layer2 = stage(16, 32, blocks, stride=2)
        self.layer3 = stage(32, 64, blocks, stride=2)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        return self.head(self.layer3(self.layer2(self.layer1(self.stem(x)))))


class Batches:
    """A split as batches: every iteration starts anew, shuffled by its own seed when asked."""

    def __init__(
        self, images: Tensor, labels: Tensor, size: int, shuffle_seed: int | None = None
    ) -> None:
        self.images, self.labels, self.size = images, labels, size
        self.generator = None
        if shuffle_seed is not None:
            self.generator = torch.Generator().manual_seed(shuffle_seed)

    def __len__(self) -> int:
        return -(-len(self.labels) // self.size)

    def __iter__(self) -> Iterator[Batch]:
        count = len(self.labels)
        order = torch.arange(count)
        if self.generator is not None:
            order = torch.randperm(count, generator=self.generator)
        for rows in order.split(self.size):
            yield self.images[rows], self.labels[rows]


def read_ubyte(name: str) -> np.ndarray:
    """Return one of the four files as uint8: labels [N] or images [N, 28, 28]."""
    path = DATA / f"{name}-ubyte.gz"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: run `make data` to fetch the examples' data, "
            "or point MPO_DATA at the folder that holds fashion/."
        )
    raw = gzip.decompress(path.read_bytes())
    if "images" in name:
        return np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)
    return np.frombuffer(raw, np.uint8, offset=8)


def tensors(part: str) -> Batch:
    """Return the normalised images [N, 1, 28, 28] and the labels of `train` or `t10k`."""
    pixels = torch.from_numpy(read_ubyte(f"{part}-images-idx3").copy()).unsqueeze(1)
    labels = torch.from_numpy(read_ubyte(f"{part}-labels-idx1").astype(np.int64))
    return pixels.float().div_(255).sub_(MEAN).div_(DEVIATION), labels


def splits() -> dict[str, Batch]:
    """Return train (55,000), validation (5,000 drawn from the training file) and test (10,000)."""
    images, labels = tensors("train")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
    held_out, kept = order[:VALIDATION], order[VALIDATION:]
    return {
        "train": (images[kept], labels[kept]),
        "validation": (images[held_out], labels[held_out]),
        "test": tensors("t10k"),
    }


def model() -> nn.Module:
    """Return the trained ResNet-26, ready for inference."""
    network = ResNet()
    network.load_state_dict(load_file(HERE / "weights.safetensors"))
    return network.eval()


def data() -> mpo.Data:
    """Return the three splits as batches."""
    import mpo

    parts = splits()
    return mpo.Data(
        train=Batches(*parts["train"], size=128, shuffle_seed=0),
        validation=Batches(*parts["validation"], size=256),
        test=Batches(*parts["test"], size=256),
    )
