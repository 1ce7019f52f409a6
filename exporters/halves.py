"""A float32 ONNX file in fp16 or bf16: inputs and outputs stay float32, so do nodes that would
overflow."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import onnxruntime
from onnx import ModelProto, TensorProto, helper

from mpo.errors import MpoError, UsageError
from mpo.exporters.bisect import Divergence, first_divergence
from mpo.exporters.child import Ended, run_child
from mpo.exporters.converted import (
    CPU,
    Converted,
    Feeds,
    Kept,
    floats,
    open_session,
    read_graph,
    require_nodes,
    run,
    write_graph,
)
from mpo.exporters.halving import Half, halve, kinds_of
from mpo.exporters.overflow import masks_tamed, overflowing, worst

Precision = Literal["fp16", "bf16"]
KINDS = {
    "fp16": Half(TensorProto.FLOAT16, 65504.0, 2.0**-10),
    "bf16": Half(TensorProto.BFLOAT16, 3.389e38, 2.0**-7),
}
TOLERANCE = {"fp16": 0.01, "bf16": 0.08}  # of the outputs' scale; eight times fp16's steps for bf16
ROUNDS = 12  # nodes kept one by one, beside those that overflow
OPEN = (
    "import sys, onnxruntime as ort; "
    "ort.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"
)
OPEN_SECONDS = 600.0
CRASH = "ONNX Runtime's optimizer crashes on a Transpose in fp16 before a MatMul"


def to_half(
    source: Path,
    target: Path,
    feeds: Feeds,
    *,
    keep: Collection[str] = (),
    tolerance: float = TOLERANCE["fp16"],
) -> Converted:
    """Write the model in fp16; inputs and outputs stay float32.

    A node stays in float32 when a value beside it passes 65504 on the feeds, when a weight of it
    is out of half's range, when its operator knows no fp16, or when it is the first of those that
    carry the outputs further than `tolerance` from the float32 ones. That is judged with every
    value rounded to half, for ONNX Runtime on a CPU computes in float32 between fp16 nodes and so
    hides what a GPU would show.

    Args:
        feeds: real inputs by name; ranges beyond them are not seen.
        keep: names of nodes to leave in float32.
        tolerance: largest error over the outputs' largest magnitude.

    Raises:
        UsageError: a file or feeds that do not fit, an unknown node, a target that cannot be
            written.
    """
    return _convert(source, target, feeds, "fp16", keep, tolerance, (CPU,))


def to_bf16(
    source: Path,
    target: Path,
    feeds: Feeds,
    *,
    keep: Collection[str] = (),
    tolerance: float = TOLERANCE["bf16"],
    providers: Sequence[str] = (CPU,),
) -> Converted:
    """Write the model in bf16 as `to_half` does in fp16, where the provider runs it.

    Args:
        providers: of ONNX Runtime; the finished graph is loaded on them before it is written. None
            when the file is for another runtime.

    Raises:
        UsageError: as `to_half`, and when a provider does not run bf16, with what it said.
    """
    if providers:
        _require_bf16(_probe(), providers)
    return _convert(source, target, feeds, "bf16", keep, tolerance, providers)


def _probe() -> ModelProto:
    """y = cast(cast(x) @ w) in bf16: the least that any model needs."""
    kind = TensorProto.BFLOAT16
    nodes = [
        helper.make_node("Cast", ["x"], ["narrow"], to=kind),
        helper.make_node("MatMul", ["narrow", "w"], ["product"]),
        helper.make_node("Cast", ["product"], ["y"], to=TensorProto.FLOAT),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in "xy"]
    weight = helper.make_tensor("w", kind, [2, 2], [1.0, 0.0, 0.0, 1.0])
    graph = helper.make_graph(nodes, "probe", ends[:1], ends[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _require_bf16(model: ModelProto, providers: Sequence[str]) -> None:
    try:
        open_session(model, providers=providers)
    except UsageError as error:
        raise UsageError(
            f"bf16 does not run here. {error.message}",
            hint="Use fp16: the same size, and every provider runs it.",
        ) from error


def _convert(
    source: Path,
    target: Path,
    feeds: Feeds,
    precision: Precision,
    keep: Collection[str],
    tolerance: float,
    providers: Sequence[str],
) -> Converted:
    half = KINDS[precision]
    original = read_graph(source)
    require_nodes(original, keep)
    wanted = [floats(values) for values in run(original, feeds)]
    model = masks_tamed(original, feeds, wanted, half)
    kinds = kinds_of(model)
    reasons = dict.fromkeys(keep, "asked for")
    reasons = overflowing(model, feeds, kinds, half) | reasons
    error, reasons = _settled(model, feeds, wanted, kinds, half, reasons, tolerance)
    made = halve(model, half, kinds, reasons)
    warnings: list[str] = []
    if precision == "bf16" and providers:
        _require_bf16(made, providers)
    elif precision == "fp16":
        made, reasons, warnings = _opened(model, made, kinds, reasons)
        actual, reason = _actual(made, feeds, wanted)
        error = max(error, actual)
        warnings += [reason] if reason else []
    if not error <= tolerance:
        warnings.append(
            f"{precision} moves the outputs by {error:.2g} of their scale ({tolerance:g} is asked "
            f"for) with {len(reasons)} nodes kept in float32."
        )
    size, digest = write_graph(made, target)
    kept = [Kept(n.name, n.op_type, reasons[n.name]) for n in model.graph.node if n.name in reasons]
    return Converted(target, precision, size, digest, tuple(kept), error, warnings=tuple(warnings))


def _opened(
    model: ModelProto, made: ModelProto, kinds: dict[str, str], reasons: dict[str, str]
) -> tuple[ModelProto, dict[str, str], list[str]]:
    """The fp16 graph, mended if it takes ONNX Runtime's optimizer down, and what is still wrong."""
    end = _open_apart(made)
    if end.kind == "crashed":
        reasons = dict.fromkeys(_shuffles(model), CRASH) | reasons
        made = halve(model, KINDS["fp16"], kinds, reasons)
        end = _open_apart(made)
    if end.kind == "ended":
        return made, reasons, []
    told = end.errors.strip().splitlines()[-1:] or [end.reason]
    runtime = f"ONNX Runtime {onnxruntime.__version__}"
    return made, reasons, [f"{runtime} does not open this fp16 graph on the CPU: {told[0][:200]}"]


def _open_apart(made: ModelProto) -> Ended:
    """Open the graph as a deployment would, in a child: fp16 was seen to crash the optimizer."""
    with tempfile.TemporaryDirectory(prefix="mpo-") as folder:
        path = Path(folder) / "model.onnx"
        write_graph(made, path)
        return run_child([sys.executable, "-c", OPEN, str(path)], timeout=OPEN_SECONDS)


def _actual(made: ModelProto, feeds: Feeds, wanted: list[list[Any]]) -> tuple[float, str]:
    """The finished graph's error on the runtime that is here, and why there is none to tell."""
    try:
        return worst(wanted, [floats(values) for values in run(made, feeds)]), ""
    except MpoError as error:
        return 0.0, f"The fp16 file was not run: {error.message}"


def _shuffles(model: ModelProto) -> set[str]:
    """Transposes right before a MatMul: with batch axes swapped in fp16, ONNX Runtime 1.31's
    optimizer takes the process down. nn.MultiheadAttention is written so."""
    products = {
        name for node in model.graph.node if node.op_type == "MatMul" for name in node.input
    }
    return {
        node.name
        for node in model.graph.node
        if node.op_type == "Transpose" and products & {*node.output}
    }


def _settled(
    model: ModelProto,
    feeds: Feeds,
    wanted: list[list[Any]],
    kinds: dict[str, str],
    half: Half,
    reasons: dict[str, str],
    tolerance: float,
) -> tuple[float, dict[str, str]]:
    """Keep the first node that parts, again and again, until the rounded outputs are near enough.

    Returns:
        The outputs' error with every value rounded to half, and the nodes kept with reasons.
    """
    for left in reversed(range(ROUNDS)):
        rounded = halve(model, half, kinds, reasons, emulate=True)
        error = worst(wanted, [floats(values) for values in run(rounded, feeds)])
        found = None
        if error > tolerance and left:
            found = first_divergence(model, rounded, feeds, tolerance)
        more = _blamed(model, found, reasons) if found else {}
        if not more:
            break
        reasons = {**reasons, **more}
    return error, reasons


def _blamed(model: ModelProto, found: Divergence, reasons: dict[str, str]) -> dict[str, str]:
    """The node to keep next; when it is kept already, those that feed it: its own inputs, rounded,
    are what it cannot bear (a difference of large numbers)."""
    off = f"rounded to half it is off by {found.error:.2g} of its scale"
    if found.node not in reasons:
        return {found.node: off}
    node = next(node for node in model.graph.node if node.name == found.node)
    return {
        source.name: f"rounded to half it spoils {found.node}"
        for source in model.graph.node
        if source.name not in reasons and {*source.output} & {*node.input}
    }
