"""Jobs for the measuring script: which models, on which inputs, with which runtime options."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from mpo import registry
from mpo.errors import MpoError, RefusedError, UsageError
from mpo.profiles.jobs import Job, Target, thread_counts
from mpo.profiles.telemetry import WATCH, read_telemetry
from mpo.records import GpuTelemetry, SessionOptions

Inputs = Path | Mapping[str, NDArray[Any]]
ONNX = "onnx"
WORKER = Path(__file__).with_name("worker.py")
MEMORY_CALLS = 3
WARM_UP_S = (0.2, 3.0)  # at least, and at most until it is steady (MEASURING.md 2)


def model_job(
    models: Sequence[Path],
    inputs: Sequence[Inputs],
    folder: Path,
    session: SessionOptions,
    timeout: float,
) -> Job:
    """A job of the measuring script on these models.

    Args:
        models: ONNX files; weights that lie beside them are the job's files too.
        inputs: of each model: arrays by input name, or the path of an .npz with them.
        session: how they are opened; what of it belongs to the process (threads, malloc) goes into
            the job's environment.
        folder: where the arrays are written for the script; it must outlive the job.

    Raises:
        UsageError: a missing file, or no threads.
        RefusedError: a model whose weights would be read from another folder.
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
        for name in external_names(path):
            files[f"model{place}/{name}"] = path.parent / name
        files[names["inputs"][-1]] = _saved(given, folder / f"inputs{place}.npz")
    request = {**names, "session": session.model_dump(mode="json"), "warm_up": WARM_UP_S}
    if session.device != "cpu":
        files[WATCH.name], request["watch"] = WATCH, WATCH.name
    if session.runner != ONNX:
        files["adapter.py"], request["adapter"] = adapter_of(session.runner), "adapter.py"
    return Job(
        what=f"measured {', '.join(path.name for path in models)}",
        script=WORKER,
        request=request,
        files=files,
        environment=environment_of(session),
        timeout=timeout,
    )


def adapter_of(runner: str) -> Path:
    """The script that opens models of this runner in the measuring process (see worker.py).

    Raises:
        UsageError: no such runner, or one that has no such script.
    """
    found = getattr(registry.load(registry.RUNNERS, runner), "adapter", None)
    if not isinstance(found, Path):
        raise UsageError(
            f"The runner {runner} has no script for the measuring process.",
            hint="Its class needs `adapter`: the path of a file with open_model(path, session).",
        )
    return found


def environment_of(session: SessionOptions) -> dict[str, str]:
    """The variables that a process must start with for these options to hold."""
    found = thread_counts(session.threads)
    if session.mmap_threshold_bytes is not None:
        found["MALLOC_MMAP_THRESHOLD_"] = str(session.mmap_threshold_bytes)
    return found


def external_names(path: Path) -> tuple[str, ...]:
    """The files beside an ONNX file, or OpenVINO's, that hold its weights; none for what is
    neither.

    Raises:
        UsageError: such a file is missing.
        RefusedError: it would lie in another folder.
    """
    status = path.stat()
    if path.suffix == ".xml":  # OpenVINO's
        names: tuple[str, ...] = (path.with_suffix(".bin").name,)
    else:
        names = _locations(path, status.st_mtime_ns, status.st_size)
    for name in names:
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts or "\\" in name:
            raise RefusedError(
                f"{path} reads its weights from {name!r}, outside of its own folder.",
                hint="Save the model again with its weights beside it.",
            )
        if not (path.parent / name).is_file():
            raise UsageError(
                f"{path} has its weights in {name}, which is not beside it.",
                hint=f"Both files belong together: put {name} into {path.parent}.",
            )
    return names


@functools.lru_cache(maxsize=64)
def _locations(path: Path, changed_ns: int, size: int) -> tuple[str, ...]:
    """Relative names of weight files, as the graph has them; read again when the file changed."""
    del changed_ns, size
    try:
        graph = onnx.load(path, load_external_data=False)
    except DecodeError:
        return ()  # the runtime says better what is wrong with it
    found = dict[str, None]()
    for tensor in onnx.external_data_helper._get_all_tensors(graph):
        if onnx.external_data_helper.uses_external_data(tensor):
            found[onnx.external_data_helper.ExternalDataInfo(tensor).location] = None
    return tuple(found)


def asking(job: Job, /, **request: Any) -> Job:
    """The job with more in its request."""
    return replace(job, request={**job.request, **request})


def measure_turns(
    target: Target, job: Job, order: Sequence[int], seconds: float, rounds: int, *, seed: int
) -> list[float]:
    """p10 in ms of each of a job's models, from one process that runs them in turn.

    One thread on a CPU is timed by the processor time that it took: what others take of the core
    meanwhile does not count. Under load the same two models were 0.30 to 0.46 of one another by
    the wall clock, 0.503 to 0.512 by processor time.

    Args:
        order: places of the models in the order in which the process loads them.
        seconds: of sampling; `rounds` at least, however long they take.
        seed: of the order in each round.

    Returns:
        One figure a model, in the job's own order.
    """
    return watched_turns(target, job, order, seconds, rounds, seed=seed)[0]


def watched_turns(
    target: Target, job: Job, order: Sequence[int], seconds: float, rounds: int, *, seed: int
) -> tuple[list[float], GpuTelemetry | None]:
    """What `measure_turns` measures, and what the GPU told meanwhile; None without one that
    tells."""
    keys = [key for key in ("models", "inputs", "sessions") if key in job.request]
    swapped: dict[str, Any] = {key: [job.request[key][place] for place in order] for key in keys}
    swapped["cpu_time"] = alone(job.request["session"])
    asked = asking(job, job="turns", seconds=seconds, floor=rounds, seed=seed, **swapped)
    answer = target.run(asked)
    times = answer["p10_ms"]
    if not are_times(times) or len(times) != len(order):
        raise MpoError(f"The process that {job.what} gave times that are none: {times}.")
    in_order = [time for _, time in sorted(zip(order, times, strict=True))]
    return in_order, read_telemetry(answer.get("telemetry"))


def are_times(values: Any) -> TypeGuard[list[float]]:
    """Whether a device's answer is a list of at least one time: finite numbers above zero."""
    return (
        isinstance(values, list)
        and bool(values)
        and all(type(one) in (int, float) and 0 < one < math.inf for one in values)
    )


def alone(session: Mapping[str, Any]) -> bool:
    """Whether the calling thread of a CPU does all the work, so that its processor time is the
    time. Other runtimes than ONNX's hand even a single thread's work to another."""
    one = session["threads"] == 1 and session["device"] == "cpu"
    return bool(one and session.get("runner", ONNX) == ONNX)


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
