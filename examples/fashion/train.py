"""Train the ResNet-26 of this example and write weights.safetensors (about 20 minutes, one core).

Run as `python examples/fashion/train.py` after `make data`.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent


def load_subject() -> ModuleType:
    """Import the subject.py beside this file by its path."""
    spec = importlib.util.spec_from_file_location("fashion_subject", HERE / "subject.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def augmented(images: Tensor, reach: int = 1) -> Tensor:
    """Return the images shifted by up to `reach` pixels, half of them mirrored."""
    size = images.shape[-1]
    padded = F.pad(images, (reach,) * 4, value=images.min().item())
    offsets = torch.randint(0, 2 * reach + 1, (len(images), 2)).tolist()
    moved = torch.stack(
        [
            image[:, top : top + size, left : left + size]
            for image, (top, left) in zip(padded, offsets, strict=True)
        ]
    )
    mirror = torch.rand(len(images), 1, 1, 1) < 0.5
    return torch.where(mirror, moved.flip(3), moved)


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of images whose highest logit is the label's."""
    network.eval()
    guesses = torch.cat([network(batch).argmax(1) for batch in images.split(256)])
    return (guesses == labels).float().mean().item()


def train(epochs: int, peak_rate: float, seed: int) -> None:
    """Train with SGD under a one-cycle schedule, then save the weights of the last epoch."""
    subject = load_subject()
    torch.manual_seed(seed)
    parts = subject.splits()
    network = subject.ResNet().to(memory_format=torch.channels_last)
    batches = subject.Batches(*parts["train"], size=128, shuffle_seed=seed)
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
            inputs = augmented(images).to(memory_format=torch.channels_last)
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
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rate", type=float, default=0.1, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train(options.epochs, options.rate, options.seed)


if __name__ == "__main__":
    main()
