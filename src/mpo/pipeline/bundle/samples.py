"""The self-test of a bundle: a few examples of the subject's own test data, and what the packaged
file answers."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from mpo.errors import UsageError
from mpo.exporters.runtime import OnnxModel
from mpo.optimizer.data.batches import Batch, limit, rows
from mpo.optimizer.data.subject import Subject
from mpo.pipeline.bundle.runs import FinishedRun
from mpo.records import Tolerance

SAMPLES = 8
# Another processor adds in another order; a quantized file may round a step differently there, and
# an engine may multiply in TF32 or half precision.
RUNTIME = {
    "fp32": Tolerance(atol=1e-5, rtol=1e-3, cosine=0.9999),
    "fp16": Tolerance(atol=1e-3, rtol=2e-2, cosine=0.999),
}
QUANTIZED = Tolerance(atol=1e-3, rtol=1e-1, cosine=0.99)
ENGINE = Tolerance(atol=1e-3, rtol=5e-2, cosine=0.995)


def samples(run: FinishedRun, subject: Subject) -> tuple[bytes, bytes, int]:
    """Inputs and outputs as .npz, and how many calls they are.

    One call is a batch of the size that the run's figures are for; what the file answers is taken
    on one thread, whose sums have one order.

    Raises:
        UsageError: the test split is empty, or does not fit the file; an answer that is not finite.
        MpoError: the runtime failed.
    """
    model = OnnxModel(run.model)
    inputs: dict[str, Any] = {}
    outputs: dict[str, Any] = {}
    calls = _calls(subject, run.recipe.seed, run.recipe.batch)
    for place, batch in enumerate(calls):
        feeds = model.feeds(batch.args, batch.kwargs)
        answers = dict(zip(model.outputs, model.run(batch.args, batch.kwargs), strict=True))
        if not all(np.isfinite(answer).all() for answer in answers.values()):
            raise UsageError(
                f"The file answers call {place} of the test split with NaN or infinity.",
                hint="Such a model cannot be packaged: look at the run's parity.",
            )
        inputs |= {f"{place}:{name}": array for name, array in feeds.items()}
        outputs |= {f"{place}:{name}": array for name, array in answers.items()}
    return _npz(inputs), _npz(outputs), len(calls)


def _calls(subject: Subject, seed: int, size: int) -> list[Batch]:
    """Up to eight batches of `size` leading test examples."""
    found: list[Batch] = []
    for batch in limit(subject.splits(seed).test, SAMPLES * size):
        for start in range(0, batch.size - size + 1, size):
            found.append(rows(batch, torch.arange(start, start + size)))
        if batch.size < size:
            found.append(rows(batch, torch.arange(size) % batch.size))
    if not found:
        raise UsageError("The test split is empty: a bundle needs examples to test itself with.")
    return found[:SAMPLES]


def _npz(arrays: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    whole: dict[str, Any] = {name: np.ascontiguousarray(one) for name, one in arrays.items()}
    np.savez(file, **whole)
    return file.getvalue()
