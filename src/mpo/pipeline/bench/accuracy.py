"""The task's metric of an ONNX file: the subject's test split through the runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mpo.exporters.runtime import OnnxModel
from mpo.optimizer.data.batches import Batch, limit, take
from mpo.optimizer.data.labels import shifts_labels
from mpo.optimizer.data.quality import check_model, evaluate, predictor
from mpo.optimizer.files.loading import load_subject
from mpo.pipeline.run.context import subject_of
from mpo.recipe import recipe_of_run
from mpo.records import Quality
from mpo.store import started_in


def judge_files(reference: str, paths: Sequence[Path], threads: int) -> tuple[Quality, ...]:
    """The metric of each file on the same examples.

    Without targets it is agreement with the subject's own model.

    Args:
        reference: a subject, as `mpo optimize` takes it.
        threads: of one inference; more than one may change the last digits.

    Raises:
        UsageError: no such subject, inputs that a file does not take, outputs that are not finite.
        MpoError: the runtime failed.
    """
    subject = load_subject(reference)
    original, splits = subject.build(), subject.splits()
    first = limit(splits.test, 8)[0]
    outputs = check_model(original, first)
    if splits.bare_labels and shifts_labels(original, first):
        splits = splits.shifted()

    def judge(path: Path) -> Quality:
        call = OnnxModel(path, threads).as_model(outputs)

        def predict(batch: Batch) -> Any:
            return call(*batch.args, **batch.kwargs)

        return evaluate(predict, subject, splits.test, predictor(original))

    with torch.no_grad():
        return tuple(judge(path) for path in paths)


def run_samples(run: Path, path: Path, batch: int | None) -> dict[str, NDArray[Any]]:
    """Real samples of a run's subject as the file's inputs.

    Args:
        run: a run folder.
        path: its ONNX file.
        batch: examples; the run's own when None.

    Raises:
        UsageError: the subject is gone, or its batches do not fit the file.
    """
    recipe = recipe_of_run(run)
    subject = subject_of(recipe, started_in(run))
    wanted = batch or recipe.batch
    examples = limit(subject.splits(recipe.seed).train, max(8, wanted))[0]
    chosen = take(examples, wanted)
    feeds = OnnxModel(path).feeds(chosen.args, chosen.kwargs)
    return {name: np.asarray(array) for name, array in feeds.items()}
