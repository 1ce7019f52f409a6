"""What calibration does when memory runs out: halves of the batch, at last the CPU; always told,
never silent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TypeVar

import torch
from torch import nn

from mpo.errors import MpoError
from mpo.optimizer.data.batches import Batch, map_tensors, rows
from mpo.optimizer.ground.shortage import out_of_memory

T = TypeVar("T")


class Halving:
    """Runs batches whole; when memory runs out in two parts, in four and so on, then on the CPU.

    A context: a model that was moved to the CPU is moved back at the end.

    Args:
        model: whose passes are run.
        what: begins the sentences about it: "Similarity".

    Attributes:
        told: a sentence for each way that memory was spared.
    """

    def __init__(self, model: nn.Module, what: str) -> None:
        self.told: list[str] = []
        self._model, self._what = model, what
        self._parts = 1
        self._left: torch.device | None = None
        self._tried: list[str] = []

    def __enter__(self) -> Halving:
        if self._left is not None:
            self._model.cpu()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._left is not None:
            self._model.to(self._left)

    def run(self, batch: Batch, work: Callable[[Batch, int], T]) -> list[T]:
        """What `work` gives for the parts of a batch, in order.

        Args:
            work: called with a part and the number of its first example; called anew for all
                parts when one of them did not fit.

        Raises:
            MpoError: not even one example fits.
        """
        while True:
            try:
                return [work(part, start) for start, part in self._cut(batch)]
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            # here, where the trace with all tensors in it is gone
            self._step_down(batch.size, reason)

    def _cut(self, batch: Batch) -> Iterator[tuple[int, Batch]]:
        if self._left is not None:
            batch = Batch(*(map_tensors(x, torch.Tensor.cpu) for x in _held(batch)))
        size = -(-batch.size // self._parts)
        if size >= batch.size:
            yield 0, batch
            return
        for start in range(0, batch.size, size):
            yield start, rows(batch, torch.arange(start, min(start + size, batch.size)))

    def _step_down(self, size: int, reason: str) -> None:
        part = -(-size // self._parts)
        device = next((p.device for p in self._model.parameters()), torch.device("cpu"))
        self._tried.append(f"{part} examples at once on {device.type}")
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if part > 1:
            self._parts *= 2
            told = f"in parts of {-(-size // self._parts)} examples, with the same result"
        elif device.type != "cpu":
            self._parts, self._left = 1, device
            self._model.cpu()
            told = "on the CPU"
        else:
            raise MpoError(
                f"{self._what} ran out of memory ({reason}); tried: {', '.join(self._tried)}.",
                hint="Free memory, use a machine with more of it, or shorten the inputs.",
            )
        told = f"{self._what} ran out of memory at {part} examples at once: it was run {told}."
        self.told = [told]  # the last step says it all


def _held(batch: Batch) -> tuple[object, object, object]:
    return batch.args, batch.kwargs, batch.targets
