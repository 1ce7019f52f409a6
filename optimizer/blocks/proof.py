"""The proof that a block can go: taken out on a copy, run at two batch sizes, and compared with the
same model whose block is bypassed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mpo.optimizer.blocks.bypass import NOTE, Template, bypass
from mpo.optimizer.blocks.surgery import removed
from mpo.optimizer.data.batches import Batch, forward, leaves, primary, take

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
        self._bypassed: dict[frozenset[str], Any] = {}

    def try_out(self, templates: Mapping[str, Template | None], *, delete: bool) -> str:
        """Why these blocks cannot go together this way; empty when they can.

        Args:
            templates: the blocks, each with what its stand-in returns.
            delete: delete their list entries, instead of leaving a Passthrough for each.
        """
        if not all(templates.values()):
            return "It returns no floating tensor."
        how = {name: None if delete else template for name, template in templates.items()}
        try:
            expected = self._bypass(templates)
            with removed(self._model, how):
                results = [forward(self._model, part) for part in self._batches]
        except FAILURES as error:
            return f"Without it the model fails: {first_line(error)}."
        for size, whole, result in zip(SIZES, self._whole, results, strict=True):
            if not _alike(whole, result):
                return f"Without it the output changes its structure or shape at batch {size}."
        if not _equal(expected, results[0]):
            return (
                "Removing it changes more than skipping it does: the model depends on its position."
            )
        return ""

    def _bypass(self, templates: Mapping[str, Template | None]) -> Any:
        key = frozenset(templates)
        if key not in self._bypassed:
            blocks = {name: self._model.get_submodule(name) for name in templates}
            for name, block in blocks.items():
                vars(block)[NOTE] = {"template": templates[name]}
            try:
                with bypass(self._model, list(templates)):
                    self._bypassed[key] = forward(self._model, self._batches[0])
            finally:
                for block in blocks.values():
                    del vars(block)[NOTE]
        return self._bypassed[key]


def first_line(error: BaseException) -> str:
    """An error in at most 160 characters, without a full stop."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:160].rstrip(". ")


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
    if len(ours) != len(theirs) or any(
        a.shape != b.shape for a, b in zip(ours, theirs, strict=True)
    ):
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
