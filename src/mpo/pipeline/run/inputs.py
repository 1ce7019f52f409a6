"""Real samples in the sizes that export, parity and measurement need."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mpo.exporters.runtime import OnnxModel
from mpo.optimizer.data.batches import Batch, take
from mpo.pipeline.run.context import Context

PARITY_SIZES = (1, 7)
PARITY_EXAMPLES = 64
EXPORT_EXAMPLES = 2

Call = tuple[tuple[Any, ...], dict[str, Any]]


def call_of(batch: Batch) -> Call:
    """The batch as arguments and keywords."""
    return batch.args, batch.kwargs


def example(context: Context) -> Call:
    """What the exporter traces with: at least two examples, so that the batch axis stays free."""
    return call_of(take(context.batch, max(EXPORT_EXAMPLES, context.recipe.batch)))


def deployed(context: Context) -> Call:
    """One call at the batch size that latency and memory mean."""
    return call_of(take(context.batch, context.recipe.batch))


def parity_calls(context: Context) -> list[Call]:
    """Test samples as calls of different batch sizes."""
    calls: list[Call] = []
    seen = 0
    for batch in context.splits().test:
        if not calls:
            calls += [call_of(take(batch, size)) for size in PARITY_SIZES]
        if seen >= PARITY_EXAMPLES:
            break
        calls.append(call_of(batch))
        seen += batch.size
    return calls


def feeds(path: Path, call: Call) -> dict[str, NDArray[Any]]:
    """A call's tensors as arrays by the file's input names."""
    return feeds_of_all(path, [call])[0]


def feeds_of_all(path: Path, calls: Iterable[Call]) -> list[dict[str, NDArray[Any]]]:
    """The same of several calls: the file is opened once."""
    model = OnnxModel(path)
    return [dict(model.feeds(*call)) for call in calls]
