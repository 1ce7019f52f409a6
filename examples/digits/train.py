"""Train the ResNet-56 of this example and write weights.safetensors (a few minutes, one core).

Run as `python examples/digits/train.py`. With `--data`, first write digits.npz from the copy of
the scans that scikit-learn carries.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent


def load_subject() -> ModuleType:
    """Import the subject.py beside this file by its path."""
    spec = importlib.util.spec_from_file_location("digits_subject", HERE / "subject.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_data() -> None:
    """Write digits.npz: images uint8 [1797, 8, 8] of values 0..16, and labels uint8."""
    from sklearn.datasets import load_digits

    scans = load_digits()
    images, labels = scans.images.astype(np.uint8), scans.target.astype(np.uint8)
    np.savez_compressed(HERE / "digits.npz", images=images, labels=labels)


def shifted(images: Tensor, reach: int = 3) -> Tensor:
    """Return the images, each moved by its own random offset of up to `reach` pixels."""
    size = images.shape[-1]
    padded = F.pad(images, (reach,) * 4, value=-1.0)
    offsets = torch.randint(0, 2 * reach + 1, (len(images), 2)).tolist()
    moved = [
        image[:, top : top + size, left : left + size]
        for image, (top, left) in zip(padded, offsets, strict=True)
    ]
    return torch.stack(moved)


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of images whose highest logit is the label's."""
    network.eval()
    guesses = torch.cat([network(batch).argmax(1) for batch in images.split(128)])
    return (guesses == labels).float().mean().item()


def train(epochs: int, peak_rate: float, seed: int) -> None:
    """Train with SGD under a one-cycle schedule, then save the weights of the last epoch."""
    subject = load_subject()
    torch.manual_seed(seed)
    parts = subject.splits()
    network = subject.ResNet().to(memory_format=torch.channels_last)
    batches = subject.Batches(*parts["train"], size=50, shuffle_seed=seed)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=peak_rate, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=peak_rate, total_steps=epochs * len(batches)
    )
    start = time.perf_counter()
    for epoch in range(epochs):
        network.train()
        for images, labels in batches:
            inputs = shifted(images).to(memory_format=torch.channels_last)
            loss = F.cross_entropy(network(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        validation = accuracy(network, *parts["validation"])
        seconds = time.perf_counter() - start
        progress = f"epoch {epoch + 1}/{epochs}  validation {validation:.4f}  {seconds:.0f} s"
        print(progress, flush=True)
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(weights, HERE / "weights.safetensors")
    print(f"test accuracy {accuracy(network, *parts['test']):.4f}")


def main() -> None:
    """Read the options and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", action="store_true", help="write digits.npz first")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--rate", type=float, default=0.05, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.data:
        write_data()
    train(options.epochs, options.rate, options.seed)


if __name__ == "__main__":
    main()
