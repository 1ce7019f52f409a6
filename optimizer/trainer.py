"""One update of training: loss, gradient, clipping, AdamW, the learning rate's course."""

from __future__ import annotations

import math

import torch
from torch import nn

from mpo.optimizer.batches import Batch
from mpo.optimizer.distributed import ALONE, Crew
from mpo.optimizer.objective import Objective
from mpo.optimizer.together import add_gradients, part_of, shared_norms

WARM_UP = 0.1
CLIP = 1.0


class Trainer:
    """AdamW with linear warm-up and cosine decay over `total` steps, gradients clipped to norm
    1."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        rate: float,
        total: int,
        crew: Crew = ALONE,
    ) -> None:
        self.model, self.objective, self.crew = model, objective, crew
        self.parameters = trainable(model)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=rate, weight_decay=1e-4)
        warm = max(1, round(WARM_UP * total))

        def factor(step: int) -> float:
            if step < warm:
                return (step + 1) / warm
            return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))

        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)

    def step(self, batch: Batch) -> float:
        """One update; returns the loss before it. A loss that is not finite changes nothing."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        own, share = part_of(batch, self.crew)
        with shared_norms(self.model, share, self.crew):
            loss = self.objective(self.model, own) * share
        value = float(self.crew.sum(loss.detach()))
        if math.isfinite(value):
            torch.autograd.backward(loss)
            add_gradients(self.parameters, self.crew)
            nn.utils.clip_grad_norm_(self.parameters, CLIP)
            self.optimizer.step()
            self.schedule.step()
        return value


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """What is trained: the parameters that ask for it; all of them when the model is frozen."""
    asking = [p for p in model.parameters() if p.requires_grad]
    if asking:
        return asking
    floating = [p for p in model.parameters() if p.is_floating_point()]
    for parameter in floating:
        parameter.requires_grad_(True)
    return floating
