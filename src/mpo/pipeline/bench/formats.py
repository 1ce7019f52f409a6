"""The formats that `mpo bench` measures: ONNX is read here, others are told by their runner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpo import registry
from mpo.errors import RefusedError, UsageError
from mpo.files import sha256
from mpo.pipeline.bench.inputs import Feeds, described
from mpo.pipeline.run.graphs import (
    Wanted,
    count_macs,
    count_nodes,
    count_params,
    data_files,
    read_model,
    wanted_inputs,
)
from mpo.profiles.modeljobs import ONNX, external_names
from mpo.records import BenchSubject, Which

# By the file's suffix, when no runner is named.
RUNNERS = {".xml": "openvino", ".engine": "tensorrt", ".plan": "tensorrt", ".rtx": "tensorrt-rtx"}
NATIVE = ("tensorrt", "tensorrt-rtx")  # their files are code


@dataclass(frozen=True)
class File:
    """A model's file, the runner that executes it, and what it asks for."""

    path: Path
    runner: str
    wanted: tuple[Wanted, ...]
    told: Mapping[str, Any]


def runner_of(path: Path, named: str | None) -> str:
    """The runner of the registry that executes this file.

    Args:
        named: by the user; the suffix decides when None.

    Raises:
        UsageError: there is no such runner.
    """
    if named is None:
        return RUNNERS.get(path.suffix.lower(), ONNX)
    registry.load(registry.RUNNERS, named)
    return named


def read_file(path: Path, runner: str, trusted: Sequence[str]) -> File:
    """What a file asks for.

    Args:
        trusted: sha256 of files that may be loaded although they are native code.

    Raises:
        UsageError: it cannot be run here.
        RefusedError: native code that nobody vouched for.
        MpoError: a file that is broken.
    """
    if runner == ONNX:
        return File(path, runner, wanted_inputs(read_model(path)), {})
    if runner in NATIVE and sha256(path) not in trusted:
        raise RefusedError(
            f"{path} is native code; it is not loaded unless its sha256 is named.",
            hint="Only for an engine that you built: --trust and the sha256 that its build told.",
        )
    kind = registry.load(registry.RUNNERS, runner)
    if not hasattr(kind, "describe"):
        raise UsageError(f"The runner {runner} does not tell what its files take.")
    told = kind.describe(path)
    wanted = tuple(
        Wanted(str(one["name"]), tuple(one["axes"]), str(one["dtype"])) for one in told["inputs"]
    )
    return File(path, runner, wanted, told)


def describe(which: Which, named: Path, file: File, feeds: Feeds) -> BenchSubject:
    """What needs no measuring.

    Raises:
        UsageError: a data file of it is missing.
    """
    inputs = described(feeds)
    shapes = {one.name: one.shape for one in inputs}
    if file.path.suffix == ".onnx" or file.runner == ONNX:
        model = read_model(file.path)
        files = (file.path, *data_files(file.path, model))
        counts: tuple[int | None, ...] = (
            count_params(model),
            count_nodes(model.graph),
            count_macs(model, shapes),
        )
    else:
        files = (file.path, *(file.path.parent / one for one in external_names(file.path)))
        counts = (file.told.get("params"), file.told.get("nodes"), None)
    return BenchSubject(
        id=which,
        path=str(named),
        sha256=sha256(file.path),
        bytes=sum(one.stat().st_size for one in files),
        params=counts[0],
        nodes=counts[1],
        macs=counts[2],
        engine_memory_bytes=file.told.get("engine_memory_bytes"),
        inputs=inputs,
    )
