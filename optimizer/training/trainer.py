"""One update of training: loss, gradient, clipping, AdamW, the learning rate's course."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mpo.errors import MpoError
from mpo.optimizer.data.batches import Batch
from mpo.optimizer.ground.distributed import ALONE, Crew
from mpo.optimizer.ground.randomness import restore, states
from mpo.optimizer.ground.shortage import out_of_memory
from mpo.optimizer.training.ladder import Ladder
from mpo.optimizer.training.objective import Objective
from mpo.optimizer.training.together import add_gradients, part_of, shared_norms

WARM_UP = 0.1
CLIP = 1.0
DECAY = 1e-4


class Trainer:
    """AdamW with linear warm-up and cosine decay over `total` steps, gradients clipped to norm 1.

    Args:
        model: what is trained, in place.
        objective: what is minimised.
        rate: the peak learning rate.
        total: updates that the learning rate's course is laid out for.
        ladder: what is done about memory; a new one when None. Several processes do nothing: all
            must take the same steps.
        crew: the processes that share each batch.

    Attributes:
        updates: so far.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        rate: float,
        total: int,
        ladder: Ladder | None = None,
        crew: Crew = ALONE,
    ) -> None:
        self.crew = crew
        self.model, self.objective, self.rate, self.total = model, objective, rate, total
        self.ladder = ladder or Ladder(model)
        self.parameters = trainable(model)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=rate, weight_decay=DECAY)
        self.scaler = torch.amp.GradScaler(self.ladder.device.type, enabled=self._scales)
        self.updates = 0

    @property
    def _scales(self) -> bool:
        return self.ladder.half is torch.float16

    def step(self, *batches: Batch) -> float:
        """One update by these batches together; returns the loss before it.

        A loss or a gradient that is not finite changes no weight and is returned as such (NaN for a
        gradient). Without enough memory the next rung of the ladder is taken and the same update
        tried again, with the same random numbers.

        Raises:
            MpoError: the ladder ended.
        """
        before = states()
        while True:
            try:
                value = self._gradients(batches)
                break
            except (RuntimeError, MemoryError, MpoError) as error:
                if not out_of_memory(error) or self.crew.size > 1:
                    raise
            # here, since the error held on to the graph's tensors
            self.optimizer.zero_grad(set_to_none=True)
            self.ladder.climb(max(batch.size for batch in batches))
            restore(before)
        return self._update(value) if math.isfinite(value) else value

    def _gradients(self, batches: Sequence[Batch]) -> float:
        """The loss, each piece of each batch weighted by its examples; gradients are added up, over
        the processes too."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        examples, value = sum(batch.size for batch in batches), 0.0
        for batch in batches:
            own, counts = part_of(batch, self.crew)
            for piece in self.ladder.split(own):
                with self.ladder.active(), shared_norms(self.model, counts, self.crew):
                    loss = self.objective(self.model, piece) * (counts * piece.size / examples)
                value += float(loss.detach())
                if not math.isfinite(value) and self.crew.size == 1:
                    return value
                torch.autograd.backward(self.scaler.scale(loss) if self._scales else loss)
        add_gradients(self.parameters, self.crew)
        return float(self.crew.sum(torch.tensor([value], dtype=torch.float64)))

    def _update(self, value: float) -> float:
        if self._scales:
            self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, CLIP)
        if not bool(torch.isfinite(norm)) and not (self._scales and self.scaler.get_scale() > 1):
            return math.nan
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * course(self.updates, self.total)
        if self._scales:  # leaves out an update whose scaled gradient overflowed
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        self.updates += 1
        return value

    def tensors(self) -> dict[str, Tensor]:
        """The optimizer's state, flat: PARAMETER.NAME -> tensor."""
        held: dict[int, dict[str, Any]] = self.optimizer.state_dict()["state"]
        return {f"{i}.{key}": value for i, one in held.items() for key, value in one.items()}

    def load(self, tensors: dict[str, Tensor], updates: int) -> None:
        """Go on from what `tensors` gave, after so many updates."""
        held: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            number, _, key = name.partition(".")
            held.setdefault(int(number), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": held, "param_groups": groups})
        self.updates = updates


def course(step: int, total: int) -> float:
    """The learning rate of a step as a share of its peak: linear up, then half a cosine down."""
    warm = max(1, round(WARM_UP * total))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """What is trained: the parameters that ask for it; all of them when the model is frozen."""
    asking = [p for p in model.parameters() if p.requires_grad]
    if asking:
        return asking
    floating = [p for p in model.parameters() if p.is_floating_point()]
    for parameter in floating:
        parameter.requires_grad_(True)
    return floating
