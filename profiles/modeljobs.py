"""Jobs for the measuring script: which models, on which inputs, with which runtime options."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpo.errors import MpoError, UsageError
from mpo.profiles.jobs import Job, Target, thread_counts
from mpo.records import SessionOptions

Inputs = Path | Mapping[str, NDArray[Any]]
WORKER = Path(__file__).with_name("worker.py")
MEMORY_CALLS = 3


def model_job(
    models: Sequence[Path],
    inputs: Sequence[Inputs],
    folder: Path,
    session: SessionOptions,
    timeout: float,
) -> Job:
    """A job of the measuring script on these models.

    Args:
        inputs: of each model: arrays by input name, or the path of an .npz with them.
        folder: where the arrays are written for the script; it must outlive the job.

    Raises:
        UsageError: a missing file, or no threads.
    """
    if session.threads < 1:
        raise UsageError(f"{session.threads} threads cannot run a model; at least one is needed.")
    files: dict[str, Path] = {}
    names: dict[str, list[str]] = {"models": [], "inputs": []}
    for place, (path, given) in enumerate(zip(models, inputs, strict=True)):
        if not path.is_file():
            raise UsageError(f"There is no ONNX file {path}.")
        names["models"].append(f"model{place}/{path.name}")
        names["inputs"].append(f"inputs{place}.npz")
        files[names["models"][-1]] = path
        files[names["inputs"][-1]] = _saved(given, folder / f"inputs{place}.npz")
    return Job(
        what=f"measured {', '.join(path.name for path in models)}",
        script=WORKER,
        request={**names, "session": session.model_dump(mode="json"), "cap": 3.0},
        files=files,
        environment=thread_counts(session.threads),
        timeout=timeout,
    )


def asking(job: Job, /, **request: Any) -> Job:
    """The job with more in its request."""
    return replace(job, request={**job.request, **request})


def lean(job: Job) -> Job:
    """The job with the arena off, in a process that gives freed memory back at once: without the
    threshold the peak of one and the same model was seen between 85 and 146 MB."""
    session = {**job.request["session"], "arena": False}
    malloc = {**job.environment, "MALLOC_MMAP_THRESHOLD_": "131072"}
    return replace(asking(job, session=session), environment=malloc)


def measure_turns(
    target: Target, job: Job, order: Sequence[int], seconds: float, rounds: int, *, seed: int
) -> list[float]:
    """p10 in ms of each of a job's models, from one process that runs them in turn.

    Args:
        order: places of the models in the order in which the process loads them.
        seconds: of sampling; `rounds` at least, however long they take.
        seed: of the order in each round.

    Returns:
        One figure a model, in the job's own order.
    """
    swapped = {key: [job.request[key][place] for place in order] for key in ("models", "inputs")}
    asked = asking(job, job="turns", seconds=seconds, floor=rounds, seed=seed, **swapped)
    times = target.run(asked)["p10_ms"]
    if len(times) != len(order) or not all(math.isfinite(one) and one > 0 for one in times):
        raise MpoError(f"The process that {job.what} gave times that are none: {times}.")
    return [time for _, time in sorted(zip(order, times, strict=True))]


def _saved(inputs: Inputs, path: Path) -> Path:
    """Write the arrays where the child finds them; names are prefixed, as "file" is savez's own."""
    if isinstance(inputs, Path):
        if not inputs.is_file():
            raise UsageError(f"There is no input file {inputs}.")
        with np.load(inputs, allow_pickle=False) as archive:
            inputs = {name: archive[name] for name in archive.files}
    arrays: dict[str, Any] = {f"input:{name}": value for name, value in inputs.items()}
    with path.open("wb") as file:
        np.savez(file, **arrays)
    return path
