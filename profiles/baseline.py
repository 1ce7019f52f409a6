"""What the measuring process holds with an empty model: the floor of every memory figure."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from mpo.errors import MpoError
from mpo.profiles.graphs import empty_model
from mpo.profiles.jobs import Target
from mpo.profiles.modeljobs import MEMORY_CALLS, asking, model_job
from mpo.records import SessionOptions

BASELINE_PROCESSES = 3
_baselines: dict[tuple[str, SessionOptions], tuple[float, float]] = {}


def baseline(target: Target, session: SessionOptions) -> tuple[float, float]:
    """Median (load, peak) bytes of the same child with a model that does nothing; measured once a
    target and options."""
    key = (target.name, session.model_copy(update={"external_weights": False}))
    if key not in _baselines:
        with tempfile.TemporaryDirectory(prefix="mpo-measure-") as name:
            path = Path(name) / "empty.onnx"
            path.write_bytes(empty_model())
            job = model_job([path], [{"x": np.zeros(1, np.float32)}], path.parent, session, 120.0)
            job = asking(job, job="solo", seconds=0.0, floor=MEMORY_CALLS)
            runs = [target.run(job) for _ in range(BASELINE_PROCESSES)]
        _baselines[key] = (median_bytes(runs, "load_peak"), median_bytes(runs, "peak"))
    return _baselines[key]


def median_bytes(runs: list[dict[str, Any]], key: str) -> float:
    """The median of a memory figure over processes.

    Raises:
        MpoError: the device tells no peak memory.
    """
    values = [run[key] for run in runs]
    if None in values:
        raise MpoError(
            "Peak memory is unavailable: this system has neither VmHWM in /proc nor a `ps`.",
            hint="Install ps, or measure on a Linux target.",
        )
    return float(statistics.median(values))
