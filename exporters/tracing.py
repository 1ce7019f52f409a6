"""From a torch module to an ONNX graph: the dynamo exporter, strict tracing, TorchScript; the first
whose graph can be trusted."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import ModelProto
from torch import Tensor, nn

from mpo.errors import MpoError
from mpo.exporters.axes import Axes, batch_is_free, fixed_axes, name_axes, script_axes
from mpo.exporters.flatten import batch_size, resized
from mpo.exporters.runtimefaults import RUNTIME_ERRORS, first_line
from mpo.exporters.sharing import rename_inputs
from mpo.exporters.simplify import TOLERANCE, quiet
from mpo.records import Tracer

# What TorchScript's tracer says when a value of this very example was turned into a constant.
_BAKED = re.compile(r"Converting a tensor to a (Python|NumPy)|Iterating over a tensor")


@dataclass(frozen=True)
class Traced:
    """A graph as an exporter wrote it.

    Attributes:
        proto: the graph; large weights may lie in files of `folder`.
        tracer: who made it.
        dynamic: whether the axes are free that were asked for.
        warnings: what was not as asked.
    """

    proto: ModelProto
    tracer: Tracer
    dynamic: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Wish:
    """What an exporter is to make.

    Attributes:
        names: of inputs and outputs.
        opset: of the graph.
        axes: per input its free axes; None when all are fixed.
        folder: where weights go that no single message can hold; None while one can.
    """

    names: tuple[list[str], list[str]]
    opset: int
    axes: Axes | None
    folder: Path | None = None


Trace = Callable[[nn.Module, list[Tensor], Wish], ModelProto]


def trace(flat: nn.Module, tensors: list[Tensor], wish: Wish) -> Traced:
    """The graph of `flat` with the axes free that are asked for, when any exporter can do that;
    else with all of them fixed, and a warning.

    Args:
        flat: takes and returns tensors, in eval mode.
        tensors: an example call; two examples when the batch is to be free.

    Raises:
        MpoError: no exporter takes the model.
    """
    told = list[str]()
    if wish.axes is not None:
        found, reason = _free(flat, tensors, wish)
        if found is not None:
            return found
        told.append(f"The batch axis of the ONNX file is fixed: {reason}.")
    fixed = Wish(wish.names, wish.opset, None, wish.folder)
    try:
        return Traced(_dynamo(flat, tensors, fixed), "dynamo", False, tuple(told))
    except Exception as error:
        cause = first_cause(error)
        proto, refused = _scripted(flat, tensors, fixed)
        if proto is not None:
            told.append(_fallen_back(cause))
            return Traced(proto, "torchscript", False, tuple(told))
        raise MpoError(
            f"torch cannot export this model to ONNX: {cause}",
            hint=f"TorchScript, tried next: {refused}. Data-dependent control flow and operators "
            "without an ONNX counterpart are the usual causes; "
            "torch.onnx.export(model, args, dynamo=True, report=True) shows more.",
        ) from error


def _free(flat: nn.Module, tensors: list[Tensor], wish: Wish) -> tuple[Traced | None, str]:
    """A graph whose batch is free, and why there is none."""
    axes = wish.axes or []
    reason, failed = "the exporter found that it can only be one number", ""
    ways: list[tuple[Tracer, Trace]] = [("dynamo", _dynamo), ("dynamo-strict", _strict)]
    for tracer, way in ways:  # strict tracing keeps len(x) free, but takes fewer models
        try:
            proto = way(flat, tensors, wish)
        except Exception as error:  # noqa: BLE001 - tracing runs the user's own code
            reason = failed = first_cause(error)
            continue
        if batch_is_free(proto, axes):
            told = [f"{place} of the ONNX file is fixed." for place in fixed_axes(proto, axes)]
            name_axes(proto, axes)
            return Traced(proto, tracer, True, tuple(told)), ""
    if not failed:
        return None, reason
    found, _ = _scripted(flat, tensors, wish)
    if found is None:
        return None, reason
    return Traced(found, "torchscript", True, (_fallen_back(failed),)), ""


def _fallen_back(cause: str) -> str:
    return f"TorchScript made the graph, since the dynamo exporter failed: {cause}"


def _dynamo(
    flat: nn.Module, tensors: list[Tensor], wish: Wish, *, strict: bool = False
) -> ModelProto:
    shapes = None if wish.axes is None else (tuple(free.dims for free in wish.axes),)
    with quiet():
        source: Any = flat
        if strict:
            source = torch.export.export(flat, tuple(tensors), dynamic_shapes=shapes, strict=True)
        program = torch.onnx.export(
            source,
            tuple(tensors),
            dynamo=True,
            opset_version=wish.opset,
            dynamic_shapes=shapes,
            input_names=wish.names[0],
            output_names=wish.names[1],
            external_data=False,
            verbose=False,
        )
        if program is None:
            raise MpoError("torch.onnx.export returned nothing.")
        if wish.folder is None:
            proto: ModelProto = program.model_proto
        else:
            path = wish.folder / "traced.onnx"
            program.save(path, external_data=True)
            proto = onnx.load(str(path), load_external_data=False)
    _unprefix(proto)
    return proto


def _strict(flat: nn.Module, tensors: list[Tensor], wish: Wish) -> ModelProto:
    return _dynamo(flat, tensors, wish, strict=True)


def _scripted(flat: nn.Module, tensors: list[Tensor], wish: Wish) -> tuple[ModelProto | None, str]:
    """TorchScript's graph when it can be trusted, and why not: it writes down what happened with
    the example, so a model that looked at a value is refused, and the graph must answer as the
    model does at two sizes of the batch."""
    if wish.folder is not None:
        return None, "it cannot write weights of this size"
    try:
        with tempfile.TemporaryDirectory(prefix="mpo-trace-") as folder:
            path = Path(folder) / "traced.onnx"
            told = _script(flat, tensors, wish, path)
            proto = onnx.load(str(path))
    except Exception as error:  # noqa: BLE001 - tracing runs the user's own code
        return None, first_cause(error)
    baked = [text for text in told if _BAKED.search(text)]
    if baked:
        return None, f"the trace holds for this example only ({baked[0].split('.')[0]})"
    size = batch_size(tensors)
    for count in (size,) if wish.axes is None else (size, 2 * size + 1):
        reason = _departs(proto, flat, resized(tensors, count))
        if reason:
            return None, reason
    if wish.axes is not None:
        name_axes(proto, wish.axes)
    _unprefix(proto)
    return proto, ""


def _script(flat: nn.Module, tensors: list[Tensor], wish: Wish, path: Path) -> list[str]:
    """Export with TorchScript; what its tracer warned of."""
    with quiet(), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.onnx.export(
            flat,
            tuple(tensors),
            path,
            dynamo=False,
            opset_version=wish.opset,
            input_names=wish.names[0],
            output_names=wish.names[1],
            dynamic_axes=None if wish.axes is None else script_axes(*wish.names, wish.axes),
        )
    return [str(one.message) for one in told]


def _departs(proto: ModelProto, flat: nn.Module, tensors: list[Tensor]) -> str:
    """How the graph's answer differs from the module's; "" when it does not."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    names = [value.name for value in proto.graph.input]
    if len(names) < len(tensors):
        return "it left inputs out"
    try:
        session = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        feed = {name: one.numpy() for name, one in zip(names, tensors, strict=False)}
        found = session.run(None, feed)
    except RUNTIME_ERRORS as error:
        return first_line(error)
    wanted = [tensor.numpy() for tensor in flat(*tensors)]
    for want, got in zip(wanted, found, strict=True):
        scale = float(np.abs(want).max(initial=0.0)) or 1.0
        if want.shape != got.shape or not np.allclose(
            want, got, rtol=0.0, atol=TOLERANCE * scale, equal_nan=True
        ):
            return f"its graph departs from the model at a batch of {batch_size(tensors)}"
    return ""


def _unprefix(proto: ModelProto) -> None:
    """Give the weights their own names back: "layer1.0.weight", not "model.layer1.0.weight"."""
    taken = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    renamed = {
        weight.name: weight.name.removeprefix("model.")
        for weight in proto.graph.initializer
        if weight.name.startswith("model.")
    }
    taken |= {weight.name for weight in proto.graph.initializer} - renamed.keys()
    if taken & set(renamed.values()):
        return
    for weight in proto.graph.initializer:
        weight.name = renamed.get(weight.name, weight.name)
    for node in proto.graph.node:
        rename_inputs(node, renamed)


def first_cause(error: BaseException) -> str:
    """The innermost error's first line: exporters wrap the cause in pages of advice."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no message'}"
