"""What the converters share: ONNX graphs read, run on real inputs, compared and written whole."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    ValueInfoProto,
    external_data_helper,
)
from onnxruntime.capi import onnxruntime_pybind11_state as states

from mpo.errors import MpoError, UsageError
from mpo.exporters.external import LARGEST_BYTES, weight_bytes, write_external, write_inline
from mpo.exporters.runtimefaults import RUNTIME_ERRORS, first_line

Array = NDArray[Any]
Feeds = Sequence[Mapping[str, Array]]
CPU = "CPUExecutionProvider"
STAND_IN = 1e30  # a finite number this large stands for infinity: an attention mask's float32.min
SAFELY_MASKED = 1e4  # what a stand-in may become: exp(-1e4) is 0 in every precision


@dataclass(frozen=True)
class Kept:
    """A node that stayed in float32, and why."""

    node: str
    op: str
    reason: str


@dataclass(frozen=True)
class Converted:
    """A file of another precision.

    Attributes:
        path: of the file.
        precision: "fp16", "bf16", "int8" or "int8-dynamic".
        bytes: size, external data included.
        sha256: of the file at `path`.
        kept: nodes that could have been converted and stayed in float32.
        error: of the outputs on the feeds, relative to the float32 outputs' scale (fp16, bf16: the
            largest; int8: root mean square); None where there were no feeds.
        note: how it was made: the calibration that was chosen.
        warnings: what was not as asked, one sentence each.
    """

    path: Path
    precision: str
    bytes: int
    sha256: str
    kept: tuple[Kept, ...] = ()
    error: float | None = None
    note: str = ""
    warnings: tuple[str, ...] = ()


def read_graph(path: Path) -> ModelProto:
    """A model with its external data, local functions inlined, every node with a name of its own.

    Raises:
        UsageError: no file, or none that onnx can read.
    """
    try:
        model = onnx.load(str(path))
    except (OSError, DecodeError, onnx.checker.ValidationError) as error:
        raise UsageError(
            f"Cannot read {path} as an ONNX model: {first_line(error)}",
            hint="Give the file that mpo export wrote, with its data file beside it.",
        ) from error
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    taken: set[str] = set()
    for place, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_at_{place}"
        taken.add(node.name)
    return model


def write_graph(model: ModelProto, path: Path) -> tuple[int, str]:
    """Write a model whole or not at all, its weights beside it in PATH.data when one file cannot
    hold them.

    Returns:
        Bytes of all files, and the sha256 of the one at `path`.

    Raises:
        UsageError: the path cannot be written.
    """
    if weight_bytes(model) <= LARGEST_BYTES:
        files = write_inline(model, path)
    else:
        whole = ModelProto()
        whole.CopyFrom(model)  # writing empties the tensors that go into the data file
        files = write_external(whole, path)
    return sum(file.bytes for file in files), files[0].sha256


def file_bytes(path: Path) -> int:
    """Size of an ONNX file and of the data files that it names."""
    model = onnx.load(str(path), load_external_data=False)
    places = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if external_data_helper.uses_external_data(tensor) and entry.key == "location"
    }
    return sum(file.stat().st_size for file in (path, *(path.parent / name for name in places)))


def open_session(
    model: Path | ModelProto, *, optimize: bool = True, providers: Sequence[str] = (CPU,)
) -> onnxruntime.InferenceSession:
    """A session on one thread.

    Args:
        optimize: fuse and use int8 kernels as a deployment would; without, every node runs as it
            is written.

    Raises:
        UsageError: the runtime cannot load the model.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what fails comes as an exception
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        if isinstance(model, Path):
            return onnxruntime.InferenceSession(str(model), options, providers=list(providers))
        if weight_bytes(model) <= LARGEST_BYTES:
            raw = model.SerializeToString()
            return onnxruntime.InferenceSession(raw, options, providers=list(providers))
        with tempfile.TemporaryDirectory(prefix="mpo-") as folder:
            path = Path(folder) / "model.onnx"
            write_graph(model, path)
            return onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except RUNTIME_ERRORS as error:
        raise UsageError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load the model on "
            f"{', '.join(providers)}: {first_line(error)}"
        ) from error


def run(
    model: Path | ModelProto,
    feeds: Feeds,
    names: Sequence[str] | None = None,
    *,
    optimize: bool = False,
) -> Iterator[dict[str, Array]]:
    """Values by name, one mapping a feed.

    Args:
        names: any values of the graph; None for its outputs.

    Raises:
        UsageError: no feeds, feeds that the model does not take, or a model that does not load.
        MpoError: the runtime failed.
    """
    if not feeds:
        raise UsageError("No inputs were given to run the model on; at least one batch is needed.")
    if names is not None:
        model = exposing(read_graph(model) if isinstance(model, Path) else model, names)
    session = open_session(model, optimize=optimize)
    outputs = [item.name for item in session.get_outputs()]
    for feed in feeds:
        try:
            yield dict(zip(outputs, session.run(None, dict(feed)), strict=True))
        except (states.InvalidArgument, ValueError) as error:
            raise UsageError(
                f"The model does not take these inputs: {first_line(error)}"
            ) from error
        except RUNTIME_ERRORS as error:
            raise MpoError(f"ONNX Runtime failed: {first_line(error)}") from error


def exposing(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """A copy whose outputs are these values of the graph."""
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(ValueInfoProto(name=name) for name in names)
    return copy


def bodies(node: NodeProto) -> list[GraphProto]:
    """The graphs inside a node: the branches of an If, the body of a Loop."""
    found = [item.g for item in node.attribute if item.type == AttributeProto.GRAPH]
    return found + [graph for item in node.attribute for graph in item.graphs]


def require_nodes(model: ModelProto, keep: Collection[str]) -> None:
    """Refuse names that are no nodes of the graph.

    Raises:
        UsageError: a name in `keep` is no node.
    """
    known = {node.name for node in model.graph.node}
    unknown = sorted(set(keep) - known)
    if unknown:
        raise UsageError(
            f"The graph has no node {unknown[0]!r} to keep in float32.",
            hint=f"Its {len(known)} nodes are named like {', '.join(sorted(known)[:3])}.",
        )


def difference(want: Array, got: Array) -> float:
    """Largest difference relative to the largest magnitude of `want`; infinite when shapes differ
    or only one of them is NaN or infinite.

    Entries of `want` that stand for infinity (beyond 1e30) agree with anything of their sign
    beyond 1e4, and do not count for the scale.
    """
    if want.shape != got.shape:
        return float("inf")
    if want.dtype.kind in "OSU":  # texts
        return 0.0 if np.array_equal(want, got) else float("inf")
    first, second = np.asarray(want, np.float64), np.asarray(got, np.float64)
    with np.errstate(invalid="ignore"):
        huge = np.abs(first) > STAND_IN
        same = (first == second) | (np.isnan(first) & np.isnan(second))
        same |= huge & (np.sign(first) == np.sign(second)) & (np.abs(second) >= SAFELY_MASKED)
        gaps = np.where(same, 0.0, np.abs(first - second))
    if not np.isfinite(gaps).all():
        return float("inf")
    usual = np.abs(first[np.isfinite(first) & ~huge])
    worst = float(gaps.max(initial=0.0))
    return worst / (float(usual.max(initial=0.0)) or 1.0)


def distance(want: Sequence[Array], got: Sequence[Array]) -> float:
    """Root mean square difference over that of `want`, all feeds' outputs together."""
    gap = sum(
        float(np.square(a.astype(np.float64) - b).sum()) for a, b in zip(want, got, strict=True)
    )
    scale = sum(float(np.square(a.astype(np.float64)).sum()) for a in want)
    share = float(np.sqrt(gap / scale)) if scale > 0 else float(np.sqrt(gap))
    return share if np.isfinite(share) else float("inf")


def floats(values: Mapping[str, Array]) -> list[Array]:
    """The floating-point ones, in order."""
    return [value for value in values.values() if np.issubdtype(value.dtype, np.floating)]
