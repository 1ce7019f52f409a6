"""Export a torch model to ONNX: dynamic batch, simplified, checked, reproducible; one file, or the
weights in a second one."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor, nn

from mpo.errors import MpoError, UsageError
from mpo.exporters.axes import batch_is_free, fixed_axes, free_axes, name_axes
from mpo.exporters.external import ExportedFile, write_external, write_inline
from mpo.exporters.flatten import (
    EXPORT_BATCH,
    Flat,
    batch_size,
    input_names,
    named_leaves,
    output_names,
    resized,
)
from mpo.exporters.simplify import canonical, quiet, signature, simplify

OPSETS = range(18, 23)  # the exporter's own floor .. the last one that TensorRT-RTX takes whole
IR_VERSION = 10  # onnxruntime 1.31 loads up to 13, older edge runtimes stop at 10
LARGEST_BYTES = 1_500_000_000  # one protobuf holds 2 GB at most, and folding needs room


@dataclass(frozen=True)
class OnnxExport:
    """An exported model.

    Attributes:
        path: of the file to load.
        opset: as read back from the file.
        nodes: operators in the graph.
        bytes: size of all its files.
        sha256: of the file to load, which names its weights' sha256 when they lie beside it; the
            same for the same model, whatever process exported it.
        simplified: whether onnxsim's graph was kept.
        dynamic_batch: whether the batch axis is free.
        warnings: what was not as asked, one sentence each.
        files: the file to load, then its weights' file if there is one.
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


def export_onnx(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    path: Path,
    *,
    opset: int = 20,
    dynamic_batch: bool = True,
    varying: Sequence[Collection[int]] = (),
    external_data: bool = False,
) -> OnnxExport:
    """Export `model` in eval mode to `path`; the file appears whole or not at all.

    Args:
        model: left as it was, training modes included.
        args, kwargs: an example call; tensors carry the batch in their first axis. What is no
            tensor (flags, None) becomes part of the graph.
        path: of the file to write.
        opset: 18 to 22.
        dynamic_batch: leave the first axis free, named "batch", in every input that has the batch
            there.
        varying: per input tensor further axes to leave free (see `axes.varying_axes`).
        external_data: write the weights to a second file, `path` with ".data" added, which the
            runtime maps from disk: the peak memory of loading falls. Both files belong together.

    Raises:
        UsageError: an opset out of range, no tensor among inputs or outputs, a path that cannot be
            written.
        MpoError: torch cannot export this model, or the graph is not what was asked for.
    """
    if opset not in OPSETS:
        raise UsageError(
            f"ONNX opset {opset} is not supported; mpo writes {OPSETS[0]} to {OPSETS[-1]}.",
            hint="Leave the opset at its default of 20 unless your runtime asks for another.",
        )
    example = _tensors(args, kwargs)
    _require_size(model)
    warnings: list[str] = []
    with _eval_mode(model):
        names = input_names(model, args, kwargs), _output_names(model, args, kwargs)
        flat = Flat(model, args, kwargs).eval()
        proto, dynamic = _convert(
            flat, example, names, opset, varying if dynamic_batch else None, warnings
        )
    graph, reason = _simplified(_checked(proto, opset), example, dynamic)
    if reason.startswith("onnxsim"):
        warnings.append(f"The ONNX graph was not simplified: {reason}.")
    graph = _checked(graph, opset)
    nodes = len(graph.graph.node)
    files = write_external(graph, path) if external_data else write_inline(graph, path)
    size, digest = sum(file.bytes for file in files), files[0].sha256
    told = tuple(warnings)
    return OnnxExport(path, opset, nodes, size, digest, not reason, dynamic, told, files)


def _tensors(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    example = [leaf for _, leaf in named_leaves((args, kwargs))]
    if not example:
        raise UsageError(
            "The example call holds no tensor to export with.",
            hint="Let data() yield (inputs, targets), inputs being a tensor, a tuple or a dict.",
        )
    return example


def _simplified(graph: ModelProto, example: list[Tensor], dynamic: bool) -> tuple[ModelProto, str]:
    """The graph after onnxsim when that pays and is proved, and the reason when it is not."""
    count = EXPORT_BATCH if dynamic else max(batch_size(example), 1)
    sizes = (count, 2 * count + 1) if dynamic else (count,)
    return simplify(graph, [_feed(graph, example, size) for size in sizes])


def _require_size(model: nn.Module) -> None:
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    if total > LARGEST_BYTES:
        raise MpoError(
            f"The model's weights take {total / 1e9:.2f} GB; one ONNX file can hold "
            f"{LARGEST_BYTES / 1e9:.1f} GB.",
            hint="Export it at a lower precision, which halves the bytes.",
        )


@contextlib.contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every module has its own mode again."""
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.inference_mode(False), torch.no_grad():
            model.eval()
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _output_names(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    outputs = model(*args, **kwargs)
    names = output_names(outputs, input_names(model, args, kwargs))
    if not names:
        raise UsageError(
            f"The model returned {type(outputs).__name__} with no tensor in it.",
            hint="Let the model return a tensor, or a tuple or dict of tensors.",
        )
    return names


def _convert(
    flat: Flat,
    example: list[Tensor],
    names: tuple[list[str], list[str]],
    opset: int,
    varying: Sequence[Collection[int]] | None,
    warnings: list[str],
) -> tuple[ModelProto, bool]:
    """The exported graph, and whether its batch axis is free."""
    if varying is not None and batch_size(example):
        tensors = resized(example, EXPORT_BATCH)
        axes = free_axes(tensors, EXPORT_BATCH, varying)
        reason = "the exporter found that it can only be one number"
        for strict in (False, True):  # strict tracing keeps len(x) free, but takes fewer models
            try:
                proto = _export(flat, tensors, names, opset, axes, strict=strict)
            except Exception as error:  # noqa: BLE001 - tracing runs the user's own code
                reason = first_cause(error)
                continue
            if batch_is_free(proto, axes):
                warnings += [
                    f"{place} of the ONNX file is fixed." for place in fixed_axes(proto, axes)
                ]
                name_axes(proto)
                return proto, True
        warnings.append(f"The batch axis of the ONNX file is fixed: {reason}.")
    tensors = resized(example, max(batch_size(example), 1))
    try:
        return _export(flat, tensors, names, opset, None), False
    except Exception as error:
        raise MpoError(
            f"torch cannot export this model to ONNX: {first_cause(error)}",
            hint="Data-dependent control flow and operators without an ONNX counterpart are the "
            "usual causes; torch.onnx.export(model, args, dynamo=True, report=True) shows more.",
        ) from error


def _export(
    flat: Flat,
    tensors: list[Tensor],
    names: tuple[list[str], list[str]],
    opset: int,
    axes: list[dict[int, Any]] | None,
    *,
    strict: bool = False,
) -> ModelProto:
    shapes = None if axes is None else (tuple(axes),)
    with quiet():
        source: Any = flat
        if strict:
            source = torch.export.export(flat, tuple(tensors), dynamic_shapes=shapes, strict=True)
        program = torch.onnx.export(
            source,
            tuple(tensors),
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=shapes,
            input_names=names[0],
            output_names=names[1],
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise MpoError("torch.onnx.export returned nothing.")
    proto: ModelProto = program.model_proto
    _unprefix(proto)
    return proto


def _unprefix(proto: ModelProto) -> None:
    """Give the weights their own names back: "layer1.0.weight", not "model.layer1.0.weight"."""
    taken = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    renamed = {
        weight.name: weight.name.removeprefix("model.")
        for weight in proto.graph.initializer
        if weight.name.startswith("model.")
    }
    if taken & set(renamed.values()):
        return
    for weight in proto.graph.initializer:
        weight.name = renamed.get(weight.name, weight.name)
    for node in proto.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)


def _checked(proto: ModelProto, opset: int) -> ModelProto:
    """The canonical graph, valid and of the opset that was asked for."""
    proto.ir_version = min(proto.ir_version, IR_VERSION)
    try:
        graph = canonical(proto)
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


def first_cause(error: BaseException) -> str:
    """The innermost error's first line: exporters wrap the cause in pages of advice."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no message'}"
