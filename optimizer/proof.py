"""The proof that a block can go: taken out on a copy, run at two batch sizes, and compared with the
same model whose block is bypassed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mpo.optimizer.batches import Batch, forward, leaves, primary, take
from mpo.optimizer.bypass import NOTE, Template, bypass
from mpo.optimizer.surgery import removed

# What a forward pass of a model that lost a block may raise; anything else is a bug of ours.
FAILURES = (
    RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError, AssertionError,
    NotImplementedError, StopIteration, ZeroDivisionError,
)  # fmt: skip
SIZES = (2, 3)


class Prover:
    """Tries removals on one model, which is as before after every trial.

    Args:
        model: a copy that may be cut and put back, in evaluation mode.
        batch: example inputs.
    """

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        self._model = model
        self._batches = [take(batch, size) for size in SIZES]
        self._whole = [forward(model, part) for part in self._batches]
        self._bypassed: dict[str, Any] = {}

    def try_out(self, name: str, template: Template | None, *, delete: bool) -> str:
        """Why the block cannot go this way; empty when it can.

        Args:
            name: the block.
            template: what a stand-in returns.
            delete: delete its list entry, instead of leaving a Passthrough.
        """
        if template is None:
            return "It returns no floating tensor."
        try:
            expected = self._bypass(name, template)
            with removed(self._model, name, None if delete else template):
                results = [forward(self._model, part) for part in self._batches]
        except FAILURES as error:
            text = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
            return f"Without it the model fails: {text}"
        for size, whole, result in zip(SIZES, self._whole, results, strict=True):
            if not _alike(whole, result):
                return f"Without it the output changes its structure or shape at batch {size}."
        if not _equal(expected, results[0]):
            return (
                "Removing it changes more than skipping it does: the model depends on its position."
            )
        return ""

    def _bypass(self, name: str, template: Template) -> Any:
        if name not in self._bypassed:
            block = self._model.get_submodule(name)
            vars(block)[NOTE] = {"template": template}
            try:
                with bypass(self._model, [name]):
                    self._bypassed[name] = forward(self._model, self._batches[0])
            finally:
                del vars(block)[NOTE]
        return self._bypassed[name]


def _alike(whole: Any, result: Any) -> bool:
    """Whether the outputs have the same type and keys, and the deciding tensor the same shape."""
    if type(whole) is not type(result):
        return False
    if isinstance(whole, dict) and list(whole) != list(result):
        return False
    if isinstance(whole, (tuple, list)) and len(whole) != len(result):
        return False
    before, after = primary(whole), primary(result)
    return before.shape == after.shape and before.dtype == after.dtype


def _equal(expected: Any, result: Any) -> bool:
    """Whether two outputs are the same numbers, up to rounding."""
    ours, theirs = leaves(expected), leaves(result)
    if len(ours) != len(theirs) or any(a.shape != b.shape for a, b in zip(ours, theirs)):
        # hidden states or caches of each layer: one fewer after deletion
        ours, theirs = [primary(expected)], [primary(result)]
    return all(_close(a, b) for a, b in zip(ours, theirs, strict=True))


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    if not a.is_floating_point():
        return bool(torch.equal(a, b))
    scale = float(a.abs().nan_to_num().max()) if a.numel() else 0.0
    tolerance = 1e-4 * scale + 1e-6
    return bool(torch.allclose(a.double(), b.double(), rtol=1e-4, atol=tolerance, equal_nan=True))
