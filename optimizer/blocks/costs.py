"""What a model costs before anything is measured: parameters and multiply-accumulates.

Multiply-accumulates are half of what torch's FlopCounterMode counts (it counts a multiply-add as
two): convolutions, matrix products and attention; elementwise work, norms and pooling count zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mpo.optimizer.blocks.activations import evaluating
from mpo.optimizer.data.batches import Batch, forward, take


def count_params(model: nn.Module) -> int:
    """Parameters, each once however often it is shared."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, batch: Batch) -> int:
    """Multiply-accumulates of one forward pass on one example of the batch, in evaluation mode."""
    return macs_by_module(model, batch).get("", 0)


def macs_by_module(model: nn.Module, batch: Batch) -> dict[str, int]:
    """Multiply-accumulates on one example, by module name; "" is the whole model.

    Modules that were not called or that multiply nothing are left out.
    """
    counter = FlopCounterMode(display=False)
    with _plain(model), counter:
        forward(model, take(batch, 1))
    root = type(model).__name__
    totals = {
        name.removeprefix(root).removeprefix("."): sum(operations.values()) // 2
        for name, operations in counter.get_flop_counts().items()
        if name == root or name.startswith(f"{root}.")
    }
    return {**totals, "": counter.get_total_flops() // 2}


@contextmanager
def _plain(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, and attention spelled out in matrix products: the fused
    kernels of some devices are not counted.

    No parameter asks for a gradient meanwhile: torch's counter fails on a view of one that a module
    is given, as a class token is, since without gradients the view has no history.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    asking = [one for one in model.parameters() if one.requires_grad]
    try:
        for one in asking:
            one.requires_grad_(False)
        with evaluating(model), torch.random.fork_rng(devices=[]), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for one in asking:
            one.requires_grad_(True)
