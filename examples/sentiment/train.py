"""Fine-tune MiniLM for one epoch on 4,000 movie-review sentences (about 4 minutes, one core).

Run as `python examples/sentiment/train.py` after examples/fetch.py; `make data` does both. It
writes weights.safetensors into data/sentiment/ and does nothing when that file is there already.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import BertModel

HERE = Path(__file__).resolve().parent


def load_subject() -> ModuleType:
    """Import the subject.py beside this file by its path."""
    spec = importlib.util.spec_from_file_location("sentiment_subject", HERE / "subject.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@torch.no_grad()
def quality(subject: ModuleType, rater: nn.Module, part: str) -> float:
    """Return the subject's metric on one split."""
    rater.eval()
    inputs, ratings = subject.splits()[part]
    scores = [rater(**batch) for batch, _ in subject.Batches(inputs, ratings)]
    return subject.metric(torch.cat(scores), ratings)


def train(subject: ModuleType, weights: Path, epochs: int, peak_rate: float, seed: int) -> None:
    """Fine-tune every weight with AdamW: a tenth of warm-up, then a linear fall to zero."""
    torch.manual_seed(seed)
    encoder = BertModel.from_pretrained(
        subject.needed("model"), add_pooling_layer=False, local_files_only=True
    )
    rater = subject.Rater(encoder)
    batches = subject.Batches(*subject.splits()["train"], seed=seed)
    optimizer = torch.optim.AdamW(rater.parameters(), lr=peak_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peak_rate, epochs * len(batches), pct_start=0.1, anneal_strategy="linear"
    )
    start = time.perf_counter()
    for epoch in range(epochs):
        rater.train()
        for inputs, ratings in batches:
            error = subject.loss(rater(**inputs), ratings)
            optimizer.zero_grad()
            error.backward()
            nn.utils.clip_grad_norm_(rater.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        seconds = time.perf_counter() - start
        validation = quality(subject, rater, "validation")
        progress = f"epoch {epoch + 1}/{epochs}  validation {validation:.4f}  {seconds:.0f} s"
        print(progress, flush=True)
    unfinished = weights.with_suffix(".part")
    save_file({name: value.contiguous() for name, value in rater.state_dict().items()}, unfinished)
    unfinished.replace(weights)
    print(f"test sign accuracy {quality(subject, rater, 'test'):.4f}")


def main() -> None:
    """Read the options and train, unless the weights are there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1e-4, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--force", action="store_true", help="train even when weights are there")
    options = parser.parse_args()
    subject = load_subject()
    weights = subject.DATA / "weights.safetensors"
    if weights.is_file() and not options.force:
        print("sentiment: the fine-tuned weights are there")
        return
    torch.set_num_threads(1)
    train(subject, weights, options.epochs, options.rate, options.seed)


if __name__ == "__main__":
    main()
