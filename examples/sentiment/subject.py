"""MiniLM (six layers) rating movie-review sentences from -4 (negative) to +4 (positive).

The encoder, the sentences and the fine-tuned weights are not in the repository: `make data`
fetches the first two (examples/fetch.py) and makes the third (train.py beside this file).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer, BertConfig, BertModel

if TYPE_CHECKING:
    import mpo

DATA = Path(os.environ.get("MPO_DATA", Path(__file__).resolve().parents[2] / "data")) / "sentiment"
LENGTH, BATCH = 48, 32
SPLIT_SEED = 0
SIZES = {"train": 4_000, "validation": 1_000, "test": 2_000}
Batch = tuple[dict[str, Tensor], Tensor]


class Rater(nn.Module):
    """A BERT encoder, the mean of its token vectors, and one linear layer to a score."""

    def __init__(self, encoder: BertModel) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, 1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return one score per sentence, shape [B]."""
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        mask = attention_mask.unsqueeze(-1).to(output.last_hidden_state.dtype)
        pooled = (output.last_hidden_state * mask).sum(1) / mask.sum(1).clamp(min=1)
        return self.head(pooled).squeeze(-1)


class Batches:
    """Tokenised sentences as batches; reshuffled on every iteration when given a seed."""

    def __init__(self, inputs: dict[str, Tensor], ratings: Tensor, seed: int | None = None) -> None:
        self.inputs, self.ratings = inputs, ratings
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self.ratings) // BATCH)

    def __iter__(self) -> Iterator[Batch]:
        order = torch.arange(len(self.ratings))
        if self.generator is not None:
            order = torch.randperm(len(order), generator=self.generator)
        for rows in order.split(BATCH):
            yield {name: value[rows] for name, value in self.inputs.items()}, self.ratings[rows]


def needed(name: str) -> Path:
    """Return a path under data/sentiment that has to be there already."""
    path = DATA / name
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: run `make data` to fetch the examples' data and to fine-tune "
            "this example's model, or point MPO_DATA at the folder that holds sentiment/."
        )
    return path


def sentences() -> list[tuple[float, str]]:
    """Return every (mean human rating, sentence) of the movie reviews, in the file's order."""
    text = needed("movieReviewSnippets_GroundTruth.txt").read_text(encoding="latin-1")
    fields = [line.split("\t", 2) for line in text.split("\n") if line.count("\t") >= 2]
    return [(float(rating), sentence.strip()) for _, rating, sentence in fields]


def splits() -> dict[str, tuple[dict[str, Tensor], Tensor]]:
    """Return train, validation and test as (token tensors [N, 48], ratings [N])."""
    tokenizer = AutoTokenizer.from_pretrained(needed("model"), local_files_only=True)
    rows = sentences()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(SPLIT_SEED))
    parts, start = {}, 0
    for name, size in SIZES.items():
        chosen = [rows[row] for row in order[start : start + size].tolist()]
        start += size
        tokens = tokenizer(
            [sentence for _, sentence in chosen],
            max_length=LENGTH, padding="max_length", truncation=True, return_tensors="pt",
        )  # fmt: skip
        inputs = {key: tokens[key] for key in ("input_ids", "attention_mask")}
        parts[name] = (inputs, torch.tensor([rating for rating, _ in chosen]))
    return parts


def model() -> nn.Module:
    """Return the fine-tuned rater, ready for inference."""
    weights = load_file(needed("weights.safetensors"))
    config = BertConfig.from_pretrained(needed("model"), local_files_only=True)
    rater = Rater(BertModel(config, add_pooling_layer=False))
    rater.load_state_dict(weights)
    return rater.eval()


def data() -> mpo.Data:
    """Return the three splits as batches, tokenised once."""
    import mpo

    parts = splits()
    return mpo.Data(
        train=Batches(*parts["train"], seed=0),
        validation=Batches(*parts["validation"]),
        test=Batches(*parts["test"]),
    )


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error of the scores."""
    return F.mse_loss(outputs, targets)


def metric(outputs: Tensor, targets: Tensor) -> float:
    """Return the share of sentences rated on the right side of zero."""
    return ((outputs > 0) == (targets > 0)).float().mean().item()


def text(inputs: dict[str, Tensor]) -> list[str]:
    """Return the sentences that token inputs stand for, to show them."""
    tokenizer = AutoTokenizer.from_pretrained(needed("model"), local_files_only=True)
    return tokenizer.batch_decode(inputs["input_ids"], skip_special_tokens=True)
