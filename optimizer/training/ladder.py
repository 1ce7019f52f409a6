"""What training does when memory does not suffice: one rung after the other, each one recorded.

1. A batch in 2, 4, 8 ... pieces whose gradients add up, weighted by examples: the same update but
   for BatchNorm, which normalises each piece by itself.
2. Mixed precision, where the device computes in bfloat16 or float16 natively.
3. Activation checkpointing of the repeated blocks: their inside is computed again in the backward
   pass (Chen et al. 2016, arXiv 1604.06174).
4. The end, saying what was tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mpo.errors import MpoError
from mpo.optimizer.blocks.bypass import standing_in
from mpo.optimizer.data.batches import Batch, rows
from mpo.optimizer.training.feed import smallest_batch


def native_half(device: torch.device) -> torch.dtype | None:
    """The short floating type that a device computes in natively; None when it has none."""
    if device.type == "cuda":
        whole = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if whole else torch.float16
    if device.type == "cpu":
        asked = getattr(torch.cpu, "get_capabilities", dict)  # not in torch 2.10
        found: dict[str, Any] = asked()
        return torch.bfloat16 if found.get("avx512_bf16") or found.get("amx_bf16") else None
    return None


class Ladder:
    """How much memory training spares, and what it did so far to spare it.

    Attributes:
        pieces: a batch is trained on in so many.
        half: the floating type of mixed precision, or None.
        checkpointing: whether blocks are computed twice.
        taken: the rungs so far, in words.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self.smallest = model, smallest_batch(model)
        parameter = next(model.parameters(), None)
        self.device = torch.device("cpu") if parameter is None else parameter.device
        self.pieces, self.checkpointing = 1, False
        self.half = native_half(self.device) if self.device.type == "cuda" else None
        self.taken: list[str] = []

    def split(self, batch: Batch) -> list[Batch]:
        """The batch in pieces of nearly equal size, none too small to train on."""
        count = min(self.pieces, batch.size // self.smallest)
        if count <= 1:
            return [batch]
        return [rows(batch, part) for part in torch.arange(batch.size).tensor_split(count)]

    def climb(self, size: int) -> None:
        """Take the next rung, for batches of this size.

        Raises:
            MpoError: there is none left.
        """
        if self.pieces * 2 <= size // self.smallest:
            self.pieces *= 2
            part = -(-size // self.pieces)
            told = f"batches of {size} in {self.pieces} pieces of {part}, gradients added up"
            if self.smallest > 1:
                told += f" (BatchNorm saw {part} at a time)"
            self.taken.append(told)
        elif self.half is None and native_half(self.device) is not None:
            self.half = native_half(self.device)
            self.taken.append(f"mixed precision in {str(self.half).removeprefix('torch.')}")
        elif not self.checkpointing and repeated(self.model):
            self.checkpointing = True
            self.taken.append(f"activations of {len(repeated(self.model))} blocks computed twice")
        else:
            tried = "; ".join(self.taken) or "nothing is left to try"
            raise MpoError(
                f"Training ran out of memory on {self.device}; tried: {tried}.",
                hint="Free memory, let data() yield smaller examples or batches, or prune without "
                "training.",
            )

    @contextmanager
    def active(self) -> Iterator[None]:
        """A forward pass inside spares memory as far as the ladder was climbed."""
        with ExitStack() as stack:
            if self.half is not None:
                stack.enter_context(torch.autocast(self.device.type, self.half))
            if self.checkpointing:
                for block in repeated(self.model):
                    stack.enter_context(standing_in(block, _twice(block)))
            yield

    def facts(self) -> dict[str, Any]:
        """Where it stands, JSON-able."""
        half = None if self.half is None else str(self.half).removeprefix("torch.")
        return {
            "pieces": self.pieces,
            "half": half,
            "checkpointing": self.checkpointing,
            "taken": list(self.taken),
        }

    def restore(self, facts: dict[str, Any]) -> None:
        """Stand where it stood when it gave these facts."""
        self.pieces, self.checkpointing = int(facts["pieces"]), bool(facts["checkpointing"])
        self.half = None if facts["half"] is None else getattr(torch, str(facts["half"]))
        self.taken = list(facts["taken"])


def repeated(model: nn.Module) -> list[nn.Module]:
    """The outermost modules that stand in a list beside another one of their type, with weights."""
    found: list[nn.Module] = []

    def look(module: nn.Module) -> None:
        children = list(module.children())
        for child in children:
            alike = sum(type(child) is type(other) for other in children) > 1
            listed = isinstance(module, (nn.Sequential, nn.ModuleList))
            if listed and alike and any(True for _ in child.children()):
                found.append(child)
            else:
                look(child)

    look(model)
    return [block for block in found if any(True for _ in block.parameters())]


def _twice(block: nn.Module) -> Callable[..., Any]:
    run: Callable[..., Any] = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(run, *args, use_reentrant=False, **kwargs)

    return forward
