"""Weights in a file beside the graph: what a runtime maps from disk instead of copying it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto, TensorProto, external_data_helper, numpy_helper

from mpo.files import replacing, writable, write_atomic

SUFFIX = ".data"
LARGEST_BYTES = 1_500_000_000  # one protobuf holds 2 GB at most, and folding needs room
SMALLEST = 1024  # bytes; below, a tensor stays in the graph, as shapes that the runtime folds do
PAGE, LARGE = 4096, 65536  # large tensors start on a page of their own, so that each maps alone
LINE = 64  # small ones on a cache line
DIGEST = "mpo.data.sha256"


@dataclass(frozen=True)
class ExportedFile:
    """A file of an export: where it lies, its size, its sha256 in hexadecimal."""

    path: Path
    bytes: int
    sha256: str


def data_path(path: Path) -> Path:
    """Where the weights of the graph at `path` lie: model.onnx.data beside model.onnx."""
    return path.with_name(path.name + SUFFIX)


def weight_bytes(model: ModelProto) -> int:
    """Bytes of all initializers, wherever they lie."""
    return sum(
        len(tensor.raw_data) or math.prod(tensor.dims) * 4 for tensor in model.graph.initializer
    )


def write_inline(graph: ModelProto, path: Path) -> tuple[ExportedFile, ...]:
    """Write graph and weights as one file, whole or not at all."""
    raw = graph.SerializeToString(deterministic=True)
    with writable(path):
        write_atomic(path, raw)
    return (ExportedFile(path, len(raw), hashlib.sha256(raw).hexdigest()),)


def write_external(
    graph: ModelProto, path: Path, source: Path | None = None
) -> tuple[ExportedFile, ...]:
    """Write the graph to `path` and its weights beside it, each whole or not at all.

    The graph's metadata names the weights' sha256 (`mpo.data.sha256`), so that the sha256 of the
    graph's file vouches for both. Weights go first: a graph never lies there without its weights.

    Args:
        graph: emptied of its weights by this.
        source: the folder of files that hold weights of the graph now.
    """
    target = data_path(path)
    with writable(target):
        data = _write_weights(graph, target, source)
    for stale in [one for one in graph.metadata_props if one.key == DIGEST]:
        graph.metadata_props.remove(stale)
    note = graph.metadata_props.add()
    note.key, note.value = DIGEST, data.sha256
    return (*write_inline(graph, path), data)


def _write_weights(graph: ModelProto, target: Path, source: Path | None) -> ExportedFile:
    digest, size = hashlib.sha256(), 0
    with replacing(target) as temporary, temporary.open("wb") as file:
        for chunk in _take_weights(graph, target.name, source):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    return ExportedFile(target, size, digest.hexdigest())


def _take_weights(graph: ModelProto, location: str, source: Path | None) -> Iterator[bytes]:
    """The bytes of the weights file, tensor after tensor; each tensor then points into it."""
    offset = 0
    for tensor in graph.graph.initializer:
        if tensor.data_type == TensorProto.STRING:
            continue
        if source is not None and external_data_helper.uses_external_data(tensor):
            external_data_helper.load_external_data_for_tensor(tensor, str(source))
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]
        raw = tensor.raw_data or numpy_helper.to_array(tensor).tobytes()
        if len(raw) < SMALLEST:
            continue
        align = PAGE if len(raw) >= LARGE else LINE
        padding = -offset % align
        if padding:
            yield bytes(padding)
        offset += padding
        yield raw
        if not tensor.HasField("raw_data"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
        external_data_helper.set_external_data(tensor, location, offset, len(raw))
        tensor.ClearField("raw_data")
        offset += len(raw)
