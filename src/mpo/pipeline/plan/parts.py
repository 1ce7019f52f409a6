"""A model taken apart for a cost table: blocks exported alone, anchors exported whole."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from torch import nn

from mpo.errors import MpoError
from mpo.exporters.onnx import export_onnx
from mpo.exporters.ranges import Method
from mpo.exporters.runtime import OnnxModel
from mpo.optimizer.blocks.costs import count_macs, count_params
from mpo.optimizer.blocks.isolate import Isolated, isolate
from mpo.optimizer.data.batches import Batch, take
from mpo.pipeline.run.inputs import EXPORT_EXAMPLES
from mpo.pipeline.run.precision import convert, convertible
from mpo.profiles.turns import AnchorFile, Unit
from mpo.records import Block, Metric, Precision
from mpo.records.costs import EMPTY, FEW, FULL, MIDDLE

BYTES: dict[Precision, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "int8-dynamic": 1}
FASTEST: tuple[Method, ...] = ("minmax",)  # ranges move no cost
COUNTED: frozenset[Metric] = frozenset({"params", "macs"})
Step = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Source:
    """A model that is taken apart for a table.

    Attributes:
        model: in evaluation mode.
        blocks: the removable ones, in execution order.
        batch: example inputs.
        size: examples in one inference.
        without: a copy of the model without these blocks.
        opset: of the files.
        varying: further free axes of the whole model's inputs.
        external_data: whole models have their weights in a file beside the graph.
        precision: of all files; a block with nothing that it takes stays as it is.
        calibration: real inputs of the whole model, for precisions that need some.
    """

    model: nn.Module
    blocks: tuple[Block, ...]
    batch: Batch
    size: int
    without: Callable[[Collection[str]], nn.Module]
    opset: int = 20
    varying: Sequence[Collection[int]] = ()
    external_data: bool = False
    precision: Precision = "fp32"
    calibration: tuple[Batch, ...] = ()

    @property
    def trace(self) -> Batch:
        """What the exporter traces with: two examples at least, so that the batch stays free."""
        return take(self.batch, max(EXPORT_EXAMPLES, self.size))

    @property
    def run(self) -> Batch:
        """One inference."""
        return take(self.batch, self.size)

    @property
    def names(self) -> tuple[str, ...]:
        """The removable blocks."""
        return tuple(block.name for block in self.blocks)


@dataclass(frozen=True)
class Parts:
    """What is measured: units, and anchors of which the full one comes first."""

    units: tuple[Unit, ...]
    anchors: tuple[AnchorFile, ...]
    warnings: tuple[str, ...] = ()


def take_apart(
    source: Source,
    alone: Mapping[str, Isolated],
    folder: Path,
    metrics: Collection[Metric],
    step: Step | None = None,
) -> Parts:
    """Export what the metrics need: one file for all blocks that are alike, and the anchors."""
    files = bool(set(metrics) - COUNTED)
    tell = step or (lambda *_: None)
    units = _units(source, alone, folder, tell) if files else _counted(source, alone)
    anchors, warnings = [], list[str]()
    chosen = _anchors(source.names)
    for number, (name, removed) in enumerate(chosen.items()):
        tell(f"costs: the {name} model", number, len(chosen))
        anchor, said = _anchor(source, name, removed, folder, files)
        anchors.append(anchor)
        warnings += said
    tell("costs: anchors", len(chosen), len(chosen))
    return Parts(units, tuple(anchors), tuple(dict.fromkeys(warnings)))


def _anchors(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What each anchor lacks; two that lack the same are one."""
    wanted = {FULL: (), EMPTY: tuple(names), MIDDLE: tuple(names[1::2])}
    wanted[FEW] = tuple(name for place, name in enumerate(names) if place % 4)
    found: dict[str, tuple[str, ...]] = {}
    for name, removed in wanted.items():
        if removed not in found.values():
            found[name] = removed
    return found


def _anchor(
    source: Source, name: str, removed: tuple[str, ...], folder: Path, files: bool
) -> tuple[AnchorFile, tuple[str, ...]]:
    model = source.without(removed) if removed else source.model
    figures: dict[Metric, float] = {
        "params": count_params(model),
        "macs": count_macs(model, source.batch),
    }
    if not files:
        return AnchorFile(name, removed, figures), ()
    path = folder / f"anchor-{name}.onnx"
    trace, run = source.trace, source.run
    plain = source.precision == "fp32"
    made = export_onnx(
        model,
        trace.args,
        trace.kwargs,
        path,
        opset=source.opset,
        varying=source.varying,
        external_data=source.external_data and plain,
    )
    figures["size_bytes"] = made.bytes
    if not plain:
        figures["size_bytes"] = convert(
            path, path, source.precision, source.calibration,
            methods=FASTEST, external_data=source.external_data,
        ).bytes  # fmt: skip
    inputs = OnnxModel(path).feeds(run.args, run.kwargs)
    return AnchorFile(name, removed, figures, path, inputs), made.warnings


def _counted(source: Source, alone: Mapping[str, Isolated]) -> tuple[Unit, ...]:
    return tuple(
        Unit(block.name, alone[block.name].key, block.params, block.macs) for block in source.blocks
    )


def _units(
    source: Source, alone: Mapping[str, Isolated], folder: Path, step: Step
) -> tuple[Unit, ...]:
    """Every block, the files of those that are alike shared."""
    first: dict[str, str] = {}
    for name in source.names:
        if not alone[name].reason:
            first.setdefault(alone[name].key, name)
    traced = isolate(source.model, tuple(first.values()), source.trace)
    made: dict[str, Unit] = {}
    units = []
    for number, block in enumerate(source.blocks):
        step("costs: blocks alone", number, len(source.blocks))
        own = alone[block.name]
        if own.key and own.key not in made:
            made[own.key] = _exported(source, own, traced[block.name], folder / f"{own.key}.onnx")
        like = made.get(own.key)
        units.append(
            Unit(
                name=block.name,
                key=own.key or block.name,
                params=block.params,
                macs=block.macs,
                size_bytes=like.size_bytes if like else BYTES[source.precision] * block.params,
                calls=own.calls,
                path=like.path if like else None,
                inputs=like.inputs if like else None,
                reason=like.reason if like else own.reason,
            )
        )
    return tuple(units)


def _exported(source: Source, own: Isolated, traced: Isolated, path: Path) -> Unit:
    """The file of one block; a Unit without a path, with the reason, where there can be none."""
    params = count_params(own.module)
    bytes_ = BYTES[source.precision] * params
    bare = Unit(own.name, own.key, params, 0, bytes_, reason=traced.reason)
    if traced.reason:
        return bare
    try:
        made = export_onnx(traced.module, traced.args, traced.kwargs, path, opset=source.opset)
        if convertible(path, source.precision):
            seen = Batch(own.args, own.kwargs)  # its time, not its answers, is what is asked
            convert(path, path, source.precision, [seen], methods=FASTEST)
        inputs = OnnxModel(path).feeds(own.args, own.kwargs)
    except MpoError as error:
        return Unit(own.name, own.key, params, 0, bare.size_bytes, reason=error.message)
    return Unit(own.name, own.key, params, 0, weight_bytes(made.path), path=path, inputs=inputs)


def weight_bytes(path: Path) -> int:
    """What a file's nodes and weights take: what a block brings into the file of its model."""
    graph = onnx.load(path).graph
    return sum(item.ByteSize() for item in (*graph.initializer, *graph.node))
