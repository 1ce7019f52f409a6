"""What exporters and runners promise, and those of mpo that are a few lines over other modules.

The trunk is an ONNX file in parity with the model: every other format is made from it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from mpo.errors import UsageError
from mpo.files import sha256, writable, write_atomic
from mpo.records import Artifact, EngineBackend, EngineOptions, Exported, Parity

if TYPE_CHECKING:
    from mpo.exporters.parity import Allowed

Array = NDArray[Any]
Feeds = Mapping[str, Array]


class Exporter(Protocol):
    """Makes a file of its format from an ONNX file."""

    def __call__(self, onnx: Path, target: Path, options: Mapping[str, Any]) -> Exported:
        """Write `target`, whole or not at all.

        Args:
            onnx: the file to convert.
            target: the main file to write; further files stand beside it with the same stem.
            options: the format's own; an unknown one is a UsageError.

        Returns:
            What was made. What cannot be converted is a result with `ok` False and the reason.
        """


class Runner(Protocol):
    """Executes a file of its format.

    To be benched, a runner also has

    * `adapter`, the path of a self-contained script with `open_model(path, session)`, by which the
      measuring process opens the file (profiles/worker.py);
    * `describe(path)`, static: {"inputs": [{"name", "axes", "dtype"}, ...], "nodes", "params",
      "engine_memory_bytes"}, of which all but the inputs may be missing. It raises UsageError or
      MpoError when the file cannot be run here.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        """Take the file; it is opened here or at the first run."""

    def run(self, batches: Sequence[Feeds]) -> list[dict[str, Array]]:
        """Outputs by name for each batch of inputs by name.

        Raises:
            UsageError: inputs that the file does not take, or a machine that cannot run it.
            MpoError: the runtime failed.
        """


def artifact(path: Path, format_: str, precision: str) -> Artifact:
    """The record of a file that was written."""
    size = path.stat().st_size
    return Artifact(
        path=str(path), format=format_, precision=precision, bytes=size, sha256=sha256(path)
    )


def no_options(format_: str, options: Mapping[str, Any], known: Sequence[str] = ()) -> None:
    """Refuse options that a format does not have.

    Raises:
        UsageError: the first unknown one.
    """
    strange = sorted(set(options) - set(known))
    if strange:
        told = ", ".join(known) if known else "none"
        raise UsageError(
            f"The format {format_} has no option {strange[0]!r}.", hint=f"Its options: {told}."
        )


def export_copy(onnx: Path, target: Path, options: Mapping[str, Any]) -> Exported:
    """The ONNX file itself, under another name; one with external data must stay where it is."""
    no_options("onnx", options)
    if not onnx.is_file():
        raise UsageError(f"There is no ONNX file {onnx}.")
    if onnx.resolve() != target.resolve():
        with writable(target):
            write_atomic(target, onnx.read_bytes())
    return Exported(
        format="onnx",
        ok=True,
        files=(artifact(target, "onnx", "as given"),),
        ran_reason="nothing was converted",
    )


class OnnxRunner:
    """An ONNX file in ONNX Runtime on the CPU, in this process."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        from mpo.exporters.runtime import OnnxModel

        self._model = OnnxModel(path, threads)

    def run(self, batches: Sequence[Feeds]) -> list[dict[str, Array]]:
        """Outputs by name for each batch; see Runner."""
        from torch import from_numpy

        results = []
        for feeds in batches:
            tensors = {name: from_numpy(np.ascontiguousarray(feeds[name])) for name in feeds}
            found = self._model.run((), tensors)
            results.append(dict(zip(self._model.outputs, found, strict=True)))
        return results


def _export_engine(
    backend: EngineBackend, onnx: Path, target: Path, options: Mapping[str, Any]
) -> Exported:
    from mpo.exporters.engines import build_engine

    fields = [name for name in EngineOptions.model_fields if name != "backend"]
    no_options(backend, options, [*fields, "cache"])
    given = {name: value for name, value in options.items() if name != "cache"}
    try:
        asked = EngineOptions(backend=backend, **given)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise UsageError(f"The option {where} of {backend} is wrong: {fault['msg']}.") from error
    result = build_engine(onnx, target, asked, cache=options.get("cache"))
    files = (artifact(target, backend, asked.precision),) if result.built else ()
    return Exported(
        format=backend,
        ok=result.built,
        reason=result.reason,
        hint=result.hint,
        files=files,
        ran_reason=result.ran_reason,
        warnings=result.warnings,
        engine=result,
    )


def export_tensorrt(onnx: Path, target: Path, options: Mapping[str, Any]) -> Exported:
    """A TensorRT engine; options are those of EngineOptions, and `cache`."""
    return _export_engine("tensorrt", onnx, target, options)


def export_tensorrt_rtx(onnx: Path, target: Path, options: Mapping[str, Any]) -> Exported:
    """A TensorRT-RTX engine; options are those of EngineOptions, and `cache`."""
    return _export_engine("tensorrt-rtx", onnx, target, options)


class TensorRtRunner:
    """An engine on this machine's GPU, one child a batch.

    Args:
        path: of the engine.
        threads: not used; work is done by the GPU.
        digest: the engine's sha256 as its build told it; without it nothing is loaded.
    """

    backend: EngineBackend = "tensorrt"
    adapter = Path(__file__).with_name("trtrunner.py")

    @classmethod
    def describe(cls, path: Path) -> dict[str, Any]:
        """What the engine says of itself, in a child on this machine's GPU; see Runner."""
        from mpo.exporters.engines import describe_engine

        return describe_engine(path, cls.backend)

    def __init__(self, path: Path, threads: int = 1, *, digest: str = "") -> None:
        self._path, self._digest = path, digest

    def run(self, batches: Sequence[Feeds]) -> list[dict[str, Array]]:
        """Outputs by name for each batch; see Runner."""
        from mpo.exporters.engines import run_engine

        results = []
        with tempfile.TemporaryDirectory(prefix="mpo-run-") as folder:
            feeds_file, outputs = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
            for feeds in batches:
                save_arrays(feeds_file, feeds)
                run_engine(
                    self._path, self._digest, feeds_file, outputs, backend=self.backend, calls=1
                )
                results.append(load_arrays(outputs))
        return results


class TensorRtRtxRunner(TensorRtRunner):
    """A TensorRT-RTX engine on this machine's GPU."""

    backend: EngineBackend = "tensorrt-rtx"


def save_arrays(path: Path, arrays: Feeds) -> None:
    """Write arrays by name; any name will do ("file" is savez's own)."""
    named: dict[str, Any] = {f"a:{name}": array for name, array in arrays.items()}
    with path.open("wb") as file:
        np.savez(file, **named)


def load_arrays(path: Path) -> dict[str, Array]:
    """What `save_arrays` wrote."""
    with np.load(path, allow_pickle=False) as archive:
        return {name.split(":", 1)[1]: archive[name] for name in archive.files}


def check_runner(
    runner: Runner,
    reference: Runner,
    batches: Sequence[Feeds],
    allowed: Allowed | None = None,
) -> Parity:
    """One runner against another on the same inputs, with the figures of parity.py.

    The deciding tensor is the first output; `samples` counts the first axis of the first input.

    Args:
        allowed: what they may differ by; that of float32 graphs when None.

    Raises:
        UsageError: no batches, or an output that the runner does not give.
    """
    from mpo.exporters.parity import EXACT, judge, with_outputs

    if not batches:
        raise UsageError("Parity needs at least one batch of inputs.")
    wanted, found = reference.run(batches), runner.run(batches)
    names = list(wanted[0])
    lacking = [name for name in names if name not in found[0]]
    if lacking:
        raise UsageError(f"The result has no output {lacking[0]!r}; it has {', '.join(found[0])}.")
    sizes = [len(next(iter(feeds.values()))) for feeds in batches]
    parity = judge(
        [np.asarray(one[names[0]], np.float64) for one in wanted],
        [np.asarray(one[names[0]], np.float64) for one in found],
        sizes,
        allowed or EXACT,
    )
    rows = [
        ([one[name] for name in names], [other[name] for name in names])
        for one, other in zip(wanted, found, strict=True)
    ]
    return with_outputs(parity, names, rows, allowed or EXACT)
