"""Where an ONNX file that is not in parity parts from its torch model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor, nn

from mpo.errors import MpoError
from mpo.exporters.bisect import Divergence, against, first_divergence
from mpo.exporters.flatten import Flat, input_names, named_leaves, output_names
from mpo.exporters.modes import evaluating
from mpo.exporters.runtime import OnnxModel
from mpo.exporters.simplify import quiet
from mpo.exporters.tracing import first_cause

Array = NDArray[Any]
NOWHERE = "Where the two part could not be found"


def find_suspect(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    path: Path,
    *,
    opset: int = 20,
    tolerance: float = 1e-3,
) -> str:
    """One sentence that names the first place where the file departs from the model.

    The model is traced again, without any rewriting of the graph, and run node by node in torch:
    its values are compared with those of the same name in the fresh graph (the converter's fault),
    the fresh graph with the file (the optimizers' fault), and the trace with the model, module by
    module (tracing's fault).

    Args:
        args, kwargs: the call on which the file is off.
        path: of the file.
    """
    try:
        with evaluating(model):
            return _suspect(model, args, kwargs, path, opset, tolerance)
    except Exception as error:  # noqa: BLE001 - whatever fails here, parity failed before it
        return f"{NOWHERE}: {first_cause(error)}"


def _suspect(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    path: Path,
    opset: int,
    tolerance: float,
) -> str:
    tensors = [leaf for _, leaf in named_leaves((args, kwargs))]
    names = input_names(model, args, kwargs)
    named = output_names(model(*args, **kwargs), names)
    flat = Flat(model, args, kwargs).eval()
    with quiet():
        program = torch.onnx.export(
            flat, tuple(tensors), dynamo=True, opset_version=opset, optimize=False,
            input_names=names, output_names=named, external_data=False, verbose=False,
        )  # fmt: skip
    if program is None:
        raise MpoError("torch.onnx.export returned nothing.")
    traced: Any = program.exported_program
    walk = _Values(traced.module())
    walk.run(*tensors)
    graph: ModelProto = program.model_proto
    feeds = [dict(OnnxModel(path).feeds(args, kwargs))]
    by_input = dict(zip([value.name for value in graph.graph.input], tensors, strict=False))
    fresh = [{name: tensor.cpu().numpy() for name, tensor in by_input.items()}]
    found = against(graph, [walk.arrays], fresh, tolerance)
    if found is not None:
        return f"The converter's fault: {_told(found, graph)}."
    found = first_divergence(graph, onnx.load(str(path)), feeds, tolerance)
    if found is not None:
        return f"After conversion, in rewriting: {_told(found, graph)}."
    name = _module(model, args, kwargs, walk.by_module, tolerance)
    if name:
        return f"Tracing's fault: the module {name} is the first whose traced output differs."
    return f"{NOWHERE}: values with a common name agree."


def _told(found: Divergence, graph: ModelProto) -> str:
    """The divergence with the torch module that the node came from, when the exporter says it."""
    node = next((node for node in graph.graph.node if found.value in node.output), None)
    notes = {one.key: one.value for one in node.metadata_props} if node is not None else {}
    where = notes.get("pkg.torch.onnx.name_scopes", "")
    return f"{found}, in {where}" if where else str(found)


class _Values(torch.fx.Interpreter):
    """Runs a traced module and keeps every tensor under its node's name, and under the path of the
    module whose call ended with it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.arrays: dict[str, Array] = {}
        self.by_module: dict[str, Tensor] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        """Run one node."""
        result = super().run_node(n)
        if isinstance(result, Tensor) and n.op == "call_function":
            self.arrays[n.name] = result.detach().cpu().numpy()
            for path, _ in n.meta.get("nn_module_stack", {}).values():
                self.by_module[str(path).removeprefix("model.")] = result
        return result


def _module(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    traced: dict[str, Tensor],
    tolerance: float,
) -> str:
    """The first module, in the order in which they finish, whose own output is not the traced
    one."""
    found: list[str] = []

    def watch(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            other = traced.get(name)
            if found or other is None or not isinstance(output, Tensor):
                return
            if output.shape == other.shape and output.is_floating_point():
                scale = float(output.abs().max()) or 1.0
                if not float((output - other).abs().max()) <= tolerance * scale:
                    found.append(f"{name} ({type(model.get_submodule(name)).__name__})")

        return hook

    handles = [
        module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name
    ]
    try:
        model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else ""
