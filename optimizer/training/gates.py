"""Learned gates over blocks: which of them a model needs to decide as it does.

Every block's own change is scaled by a gate z in [0, 1]: out = z F(x) + (1 - z) x, so that z = 0 is
the model with the block bypassed. Gates are hard-concrete (Louizos, Welling & Kingma 2018): with
u ~ U(0, 1),

    s = sigmoid((ln u - ln(1 - u) + a) / beta),   z = clip(s (zeta - gamma) + gamma, 0, 1),
    P(z > 0) = sigmoid(a - beta ln(-gamma / zeta)),   beta = 2/3, gamma = -0.1, zeta = 1.1.

All weights stay as they are; only the a of each block is trained, to keep what the original says
(boundary-weighted distillation) while the expected cost sum c_b P(z_b > 0) comes down to a target,
by a multiplier that grows as long as it is missed. The idea of learned binary masks under a
semantic loss is LBMask's (arXiv 2604.07868, of which only the abstract could be read); this is our
own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mpo.errors import MpoError, UsageError
from mpo.optimizer.blocks.activations import evaluation_mode
from mpo.optimizer.blocks.bypass import NOTE, Template, fill, find_named, learn, standing_in
from mpo.optimizer.data.batches import Batch, forward, leaves, map_tensors
from mpo.optimizer.data.subject import Kind
from mpo.optimizer.training.objective import distillation

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
SHIFT = BETA * math.log(-GAMMA / ZETA)
OPEN = 2.0  # the a that gates start with: P(z > 0) = 0.97
RATE, PRESSURE = 0.1, 5.0


@dataclass(frozen=True)
class Gates:
    """What was learned.

    Attributes:
        open: P(z > 0) of each block.
        kept: expected share of the blocks' cost that is kept.
        losses: distillation loss of every step.
    """

    open: Mapping[str, float]
    kept: float
    losses: tuple[float, ...]

    def harm(self, name: str) -> float:
        """A block's harm for the planner: -ln P(z = 0), 0 for a gate that is always shut."""
        return -math.log(max(1e-9, 1.0 - self.open[name]))

    def removed(self, savings: Mapping[str, float], wanted: float) -> tuple[str, ...]:
        """The least open blocks whose savings come to `wanted` together."""
        gone: list[str] = []
        for name in sorted(self.open, key=lambda one: self.open[one]):
            if sum(savings[one] for one in gone) >= wanted:
                break
            gone.append(name)
        return tuple(name for name in self.open if name in gone)


def learn_gates(
    model: nn.Module,
    costs: Mapping[str, float],
    batches: Sequence[Batch],
    *,
    target: float = 0.5,
    steps: int = 150,
    seed: int = 0,
    kind: Kind | None = None,
    boundary: bool = True,
) -> Gates:
    """Train the gates of the named blocks; the model is left as it was.

    Args:
        costs: of each block, of any unit.
        batches: what is distilled on, over and over; targets only tell the shape of the task.
        target: share of the cost that may stay.

    Raises:
        UsageError: no blocks, no batches, or a target outside (0, 1).
    """
    if not costs or not batches or not 0 < target < 1:
        raise UsageError(
            f"{len(costs)} blocks, {len(batches)} batches and a target of {target:g} teach no gate."
        )
    names = list(costs)
    cost = torch.tensor([costs[name] for name in names], dtype=torch.float32)
    cost = cost / cost.sum().clamp_min(1e-12)
    openness = torch.full((len(names),), OPEN, requires_grad=True)
    optimizer = torch.optim.Adam([openness], lr=RATE)
    pressure, losses = 0.0, list[float]()
    random = torch.Generator().manual_seed(seed)
    with _frozen(model):
        taught = [_said(model, batch) for batch in batches]
        for step in range(steps):
            place = step % len(batches)
            gates = drawn(openness, random)
            with gated(model, names, gates):
                outputs = forward(model, batches[place])
            wanted, targets = taught[place], batches[place].targets
            apart = distillation(outputs, wanted, targets, kind, boundary=boundary)
            kept = (cost * chance(openness)).sum()
            optimizer.zero_grad()
            torch.autograd.backward(apart + pressure * (kept - target))
            optimizer.step()
            pressure = max(0.0, pressure + PRESSURE * float(kept.detach() - target) / 10)
            losses.append(float(apart.detach()))
    found = chance(openness.detach())
    held = {name: float(one) for name, one in zip(names, found, strict=True)}
    return Gates(held, float((cost * found).sum()), tuple(losses))


def chance(openness: Tensor) -> Tensor:
    """P(z > 0) of each gate."""
    return torch.sigmoid(openness - SHIFT)


def drawn(openness: Tensor, random: torch.Generator) -> Tensor:
    """One hard-concrete draw of each gate, in [0, 1], with its gradient."""
    noise = torch.rand(openness.shape, generator=random).clamp(1e-6, 1 - 1e-6)
    soft = torch.sigmoid((noise.log() - (-noise).log1p() + openness) / BETA)
    return (soft * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


@contextmanager
def gated(model: nn.Module, names: Sequence[str], gates: Tensor) -> Iterator[None]:
    """While active, each named block's change is scaled by its gate."""
    blocks = find_named(model, names)
    with ExitStack() as stack:
        for block, gate in zip(blocks.values(), gates, strict=True):
            stack.enter_context(_scaled(block, gate))
        yield


@contextmanager
def _scaled(block: nn.Module, gate: Tensor) -> Iterator[None]:
    run: Callable[..., Any] = block.forward
    note = vars(block).get(NOTE)
    known: Template | None = note["template"] if note else None

    def stand_in(*args: Any, **kwargs: Any) -> Any:
        output = run(*args, **kwargs)
        template = known or learn(output, args, kwargs)
        if template is None:
            raise MpoError(f"A {type(block).__name__} has no hidden state to hand on.")
        idle = iter(leaves(fill(template, args, kwargs)))

        def between(tensor: Tensor) -> Tensor:
            other = next(idle, None)
            if other is None or other.shape != tensor.shape or not tensor.is_floating_point():
                return tensor
            return other + gate * (tensor - other)

        return map_tensors(output, between)

    with standing_in(block, stand_in):
        yield


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients of weights; both put back afterwards."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        with evaluation_mode(model):
            yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


def _said(model: nn.Module, batch: Batch) -> Any:
    with torch.no_grad():
        return map_tensors(forward(model, batch), lambda tensor: tensor.detach())
