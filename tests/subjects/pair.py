"""A classifier of sentences with a dict of two inputs, free in batch and length, random weights:
the subject of the export tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import mpo

WORDS, WIDTH, CLASSES = 60, 16, 3
labels = ["no", "maybe", "yes"]
preprocessing = {"tokenizer": "whitespace", "pad": 0}


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(3))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        x = self.embed(input_ids) * attention_mask.unsqueeze(-1)
        for layer in self.layers:
            x = layer(x)
        pooled = x.sum(1) / attention_mask.sum(1, keepdim=True)
        return {"logits": self.head(pooled), "pooled": pooled}


def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Classifier().eval()


def split(seed: int) -> list[tuple[dict[str, Tensor], Tensor]]:
    random, network = torch.Generator().manual_seed(seed), model()
    rows = []
    for length in (4, 7, 9):
        ids = torch.randint(0, WORDS, (16, length), generator=random)
        mask = torch.ones(16, length)
        mask[::3, -1] = 0
        inputs = {"input_ids": ids, "attention_mask": mask}
        with torch.no_grad():
            rows.append((inputs, network(**inputs)["logits"].argmax(1)))
    return rows


def data() -> mpo.Data:
    return mpo.Data(train=split(1), validation=split(2), test=split(3))
