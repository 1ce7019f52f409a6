"""A residual MLP on three separable classes, trained in a blink: the subject of the fast tests."""

from __future__ import annotations

import copy
import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mpo

WIDTH, BLOCKS, CLASSES = 24, 6, 3


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.5 * self.down(F.relu(self.up(x)))


def samples(seed: int, count: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
    return x, (x[:, :CLASSES] + 0.5 * x[:, 3:6]).argmax(1)


def model() -> nn.Module:
    return copy.deepcopy(trained())


@functools.cache  # a run asks for the model several times
def trained() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        blocks = nn.Sequential(*(Residual() for _ in range(BLOCKS)))
        network = nn.Sequential(nn.Linear(8, WIDTH), blocks, nn.Linear(WIDTH, CLASSES))
        optimizer = torch.optim.Adam(network.parameters(), 3e-3)
        x, y = samples(0, 512)
        for _ in range(60):
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(network(x), y))
            optimizer.step()
    return network.eval()


def split(seed: int, count: int) -> list[tuple[Tensor, Tensor]]:
    x, y = samples(seed, count)
    return list(zip(x.split(64), y.split(64), strict=True))


def data() -> mpo.Data:
    return mpo.Data(train=split(1, 512), validation=split(2, 512), test=split(3, 512))
