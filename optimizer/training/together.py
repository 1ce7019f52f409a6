"""One update of training by several processes: each takes its part of the batch, and all make the
step that one process would make with the whole.

Losses and gradients are weighted by examples and summed. BatchNorm sees the statistics of the whole
batch, in any backend (torch.nn.SyncBatchNorm needs a GPU). What remains: sums in another order,
dropout masks of each process's own, and losses that are no mean over examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mpo.optimizer.blocks.bypass import standing_in
from mpo.optimizer.data.batches import Batch, rows
from mpo.optimizer.ground.distributed import Crew


def part_of(batch: Batch, crew: Crew) -> tuple[Batch, bool]:
    """This process's examples of a batch, and whether they count.

    One that gets none takes the first example, which does not: all must take every step.
    """
    if crew.size == 1:
        return batch, True
    own = torch.arange(batch.size).tensor_split(crew.size)[crew.rank]
    chosen = own if len(own) else torch.zeros(1, dtype=torch.long)
    return rows(batch, chosen), len(own) > 0


def add_gradients(parameters: Sequence[nn.Parameter], crew: Crew) -> None:
    """Replace each gradient by its sum over all processes."""
    if crew.size == 1:
        return
    held = [p for p in parameters if p.requires_grad]
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in held])
    parts = crew.sum(flat).split([p.numel() for p in held])
    for parameter, part in zip(held, parts, strict=True):
        parameter.grad = part.view_as(parameter)


def same_weights(model: nn.Module, crew: Crew) -> None:
    """Give the model in all processes the state that the first one's has."""
    if crew.size == 1:
        return
    for value in model.state_dict().values():
        if isinstance(value, Tensor):
            whole = value.to(torch.uint8) if value.dtype == torch.bool else value
            own = whole.detach().clone() if crew.rank == 0 else torch.zeros_like(whole)
            value.copy_(crew.sum(own))


@contextmanager
def shared_norms(model: nn.Module, counts: bool, crew: Crew) -> Iterator[None]:
    """While active, BatchNorm in training mode uses the statistics of all processes' examples.

    Args:
        counts: whether this process's examples do.
    """
    with ExitStack() as stack:
        if crew.size > 1:
            for module in model.modules():
                if isinstance(module, _BatchNorm):
                    stack.enter_context(standing_in(module, _shared(module, counts, crew)))
        yield


def _shared(norm: _BatchNorm, counts: bool, crew: Crew) -> Callable[[Tensor], Tensor]:
    usual = norm.forward

    def forward(x: Tensor) -> Tensor:
        if not norm.training:
            return usual(x)
        axes = [axis for axis in range(x.dim()) if axis != 1]
        own = x if counts else x[:0]
        numbers = x.new_tensor([own.numel() / x.shape[1]])
        sums = torch.cat([own.sum(axes), own.square().sum(axes), numbers])
        total: Tensor = _Sum.apply(sums, crew)  # type: ignore[no-untyped-call]
        mean, square = total[:-1].chunk(2)
        count = float(total[-1].detach())
        mean, square = mean / count, square / count
        variance = (square - mean.square()).clamp_min(0)
        _remember(norm, mean.detach(), variance.detach() * count / max(count - 1, 1))
        shape = [1, -1, *[1] * (x.dim() - 2)]
        found = (x - mean.view(shape)) * torch.rsqrt(variance + norm.eps).view(shape)
        if norm.affine:
            found = found * norm.weight.view(shape) + norm.bias.view(shape)
        return found

    return forward


def _remember(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Move the running statistics, as torch's own forward does."""
    if norm.running_mean is None or norm.running_var is None:
        return
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    seen = int(norm.num_batches_tracked) if norm.num_batches_tracked is not None else 1
    momentum = 1 / seen if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean, momentum)
    norm.running_var.lerp_(variance, momentum)


class _Sum(torch.autograd.Function):
    """The sum over all processes, which gradients flow back through."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, crew: Crew) -> Tensor:
        """Add up."""
        ctx.crew = crew
        return crew.sum(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Each process's values went into every process's loss."""
        return ctx.crew.sum(gradients[0].contiguous()), None
