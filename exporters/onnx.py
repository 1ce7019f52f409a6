"""Export a torch model to ONNX: dynamic batch, simplified, checked, reproducible; one file, or the
weights in a second one."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor, nn

from mpo.errors import MpoError, UsageError
from mpo.exporters.axes import Axes, asked_axes, free_axes
from mpo.exporters.external import LARGEST_BYTES, ExportedFile, write_external, write_inline
from mpo.exporters.flatten import (
    EXPORT_BATCH,
    Flat,
    batch_size,
    foreign_outputs,
    input_names,
    named_leaves,
    output_names,
    resized,
)
from mpo.exporters.metadata import add_facts
from mpo.exporters.modes import evaluating
from mpo.exporters.sharing import share_weights
from mpo.exporters.simplify import canonical, signature, simplify
from mpo.exporters.tracing import Wish, first_cause, trace
from mpo.records import Tracer

OPSETS = range(18, 23)  # the exporter's own floor .. the last one that TensorRT-RTX takes whole
IR_VERSION = 10  # onnxruntime 1.31 loads up to 13, older edge runtimes stop at 10
Example = list[Tensor]


@dataclass(frozen=True)
class OnnxExport:
    """An exported model.

    Attributes:
        path: of the file to load.
        opset: as read back from the file.
        nodes: operators in the graph; `raw_nodes` before onnxsim.
        bytes: size of all its files.
        sha256: of the file to load, which names its weights' sha256 when they lie beside it; the
            same for the same model, whatever process exported it.
        simplified: whether onnxsim's graph was kept; `reason` says why not.
        dynamic_batch: whether the batch axis is free.
        warnings: what was not as asked, one sentence each.
        files: the file to load, then its weights' file if there is one.
        tracer: which exporter made the graph.
    """

    path: Path
    opset: int
    nodes: int
    bytes: int
    sha256: str
    simplified: bool
    dynamic_batch: bool
    warnings: tuple[str, ...]
    files: tuple[ExportedFile, ...]
    tracer: Tracer = "dynamo"
    raw_nodes: int = 0
    reason: str = ""


def export_onnx(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    path: Path,
    *,
    opset: int = 20,
    dynamic_batch: bool = True,
    varying: Sequence[Collection[int]] = (),
    axes: Sequence[Mapping[int, str]] | None = None,
    external_data: bool = False,
    metadata: Mapping[str, Any] | None = None,
    largest_bytes: int = LARGEST_BYTES,
) -> OnnxExport:
    """Export `model` in eval mode to `path`; the file appears whole or not at all.

    Weights that are tied are written once. Without `axes` the batch is free if it can be.

    Args:
        model: left as it was, training modes included.
        args, kwargs: an example call; tensors carry the batch in their first axis. What is no
            tensor (flags, None) becomes part of the graph.
        path: of the file to write.
        opset: 18 to 22.
        dynamic_batch: leave the first axis free, named "batch", in every input that has the batch
            there.
        varying: per input tensor further axes to leave free (see `axes.varying_axes`).
        axes: per input tensor the free axes with their names ("" for one to be made), and no
            others; goes before `dynamic_batch` and `varying`.
        external_data: write the weights to a second file, `path` with ".data" added, which the
            runtime maps from disk: the peak memory of loading falls. Both files belong together.
        metadata: facts to keep inside the file (see `metadata.facts`).
        largest_bytes: weights beyond it are written to that second file in any case, and the graph
            is not simplified.

    Raises:
        UsageError: an opset out of range, no tensor among inputs or outputs, an axis that is not
            there, a path that cannot be written.
        MpoError: torch cannot export this model, or the graph is not what was asked for.
    """
    _require_opset(opset)
    example, large = _tensors(args, kwargs), _weight_bytes(model) > largest_bytes
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mpo-trace-")))
        free = _axes(example, axes, dynamic_batch, varying)
        with evaluating(model):
            names, told = _names(model, args, kwargs)
            wish = Wish(names, opset, free, folder if large else None)
            flat = Flat(model, args, kwargs).eval()
            count = EXPORT_BATCH if _batched(free) else max(batch_size(example), 1)
            traced = trace(flat, resized(example, count), wish)
        batched = traced.dynamic and _batched(free)
        raw = _checked(traced.proto, opset, folder)
        graph, reason = _simplified(raw, example, batched, large)
        if reason.startswith(("onnxsim", "the weights")):
            told.append(f"The ONNX graph was not simplified: {reason}.")
        graph = _checked(graph, opset, folder)
        share_weights(graph)
        add_facts(graph, metadata or {})
        nodes = len(graph.graph.node), len(raw.graph.node)
        apart = external_data or large
        files = write_external(graph, path, folder) if apart else write_inline(graph, path)
    return OnnxExport(
        path, opset, nodes[0], sum(file.bytes for file in files), files[0].sha256, not reason,
        batched, (*told, *traced.warnings), files, traced.tracer, nodes[1], reason,
    )  # fmt: skip


def _require_opset(opset: int) -> None:
    if opset not in OPSETS:
        raise UsageError(
            f"ONNX opset {opset} is not supported; mpo writes {OPSETS[0]} to {OPSETS[-1]}.",
            hint="Leave the opset at its default of 20 unless your runtime asks for another.",
        )


def _tensors(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Example:
    example = [leaf for _, leaf in named_leaves((args, kwargs))]
    if not example:
        raise UsageError(
            "The example call holds no tensor to export with.",
            hint="Let data() yield (inputs, targets), inputs being a tensor, a tuple or a dict.",
        )
    return example


def _axes(
    example: Example,
    asked: Sequence[Mapping[int, str]] | None,
    dynamic_batch: bool,
    varying: Sequence[Collection[int]],
) -> Axes | None:
    """Per input its free axes; None when all are fixed."""
    if asked is not None:
        return asked_axes(example, asked) if any(asked) else None
    if not dynamic_batch or not batch_size(example):
        return None
    return free_axes(example, batch_size(example), varying)


def _batched(axes: Axes | None) -> bool:
    return any(0 in own.names for own in axes or ())


def _simplified(
    graph: ModelProto, example: Example, batched: bool, large: bool
) -> tuple[ModelProto, str]:
    """The graph after onnxsim when that pays and is proved, and the reason when it is not."""
    if large:
        return graph, "the weights do not fit into the one message that onnxsim takes"
    count = EXPORT_BATCH if batched else max(batch_size(example), 1)
    sizes = (count, 2 * count + 1) if batched else (count,)
    return simplify(graph, [_feed(graph, example, size) for size in sizes])


def _weight_bytes(model: nn.Module) -> int:
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _names(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[list[str], list[str]], list[str]]:
    """Names of the inputs and outputs, and a warning for outputs that are left out."""
    inputs = input_names(model, args, kwargs)
    outputs = model(*args, **kwargs)
    names = output_names(outputs, inputs)
    if not names:
        raise UsageError(
            f"The model returned {type(outputs).__name__} with no tensor in it.",
            hint="Let the model return a tensor, or a tuple or dict of tensors.",
        )
    told = [
        f"The output {name} is a {kind}, no tensor; it is not in the ONNX file."
        for name, kind in foreign_outputs(outputs)
    ]
    return (inputs, names), told


def _checked(proto: ModelProto, opset: int, folder: Path) -> ModelProto:
    """The canonical graph, valid and of the opset that was asked for; weights that lie apart are
    in `folder`."""
    proto.ir_version = min(proto.ir_version, IR_VERSION)
    try:
        graph = canonical(proto, folder)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise MpoError(f"The exported ONNX graph is not valid: {first_cause(error)}") from error
    actual = {entry.domain: entry.version for entry in graph.opset_import}.get("", 0)
    if actual != opset:
        # The exporter falls back to its own opset without a word when it cannot convert.
        raise MpoError(
            f"The exporter wrote opset {actual} where {opset} was asked for.",
            hint=f"Export with --opset {actual}.",
        )
    return graph


def _feed(graph: ModelProto, example: list[Tensor], count: int) -> dict[str, NDArray[np.generic]]:
    tensors = resized(example, count)
    named = zip(signature(graph), tensors, strict=False)
    return {row[1]: tensor.cpu().numpy() for row, tensor in named if row[0] == "input"}
