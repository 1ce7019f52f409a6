"""ResNet-56 on the UCI handwritten digits: a whole example that fits in the repository.

The 1,797 scans (8x8, values 0..16) are enlarged to 32x32, so the network has the shape it has on
CIFAR: three stages of nine blocks, of which many can be spared on so easy a task.
"""

from __future__ import annotations

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
CLASSES = [str(digit) for digit in range(10)]
SPLIT_SEED = 0
TRAIN_PER_CLASS, VALIDATION_PER_CLASS = 100, 30
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

    def __init__(self, blocks: int = 9, classes: int = 10, channels: int = 1) -> None:
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


def splits() -> dict[str, Batch]:
    """Return train, validation and test as (images [N, 1, 32, 32], labels), equal in classes."""
    with np.load(HERE / "digits.npz", allow_pickle=False) as archive:
        raw, labels = archive["images"], archive["labels"].astype(np.int64)
    images = torch.from_numpy(raw).float().div(8).sub(1).unsqueeze(1)
    images = F.interpolate(images, size=(32, 32), mode="bilinear", align_corners=False)
    random = np.random.default_rng(SPLIT_SEED)
    rows: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for digit in range(10):
        own = random.permutation(np.flatnonzero(labels == digit)).tolist()
        end = TRAIN_PER_CLASS + VALIDATION_PER_CLASS
        rows["train"] += own[:TRAIN_PER_CLASS]
        rows["validation"] += own[TRAIN_PER_CLASS:end]
        rows["test"] += own[end:]
    target = torch.from_numpy(labels)
    return {name: (images[chosen], target[chosen]) for name, chosen in rows.items()}


def model() -> nn.Module:
    """Return the trained ResNet-56, ready for inference."""
    network = ResNet()
    network.load_state_dict(load_file(HERE / "weights.safetensors"))
    return network.eval()


def data() -> mpo.Data:
    """Return the three splits as batches."""
    import mpo

    parts = splits()
    return mpo.Data(
        train=Batches(*parts["train"], size=64, shuffle_seed=0),
        validation=Batches(*parts["validation"], size=128),
        test=Batches(*parts["test"], size=128),
    )
