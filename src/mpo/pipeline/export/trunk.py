"""The ONNX file that everything else is made of: exported, compared with torch on real samples,
judged by the task, and in the asked precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mpo.errors import MpoError, UsageError
from mpo.exporters.flatten import input_names
from mpo.exporters.onnx import OnnxExport, export_onnx
from mpo.exporters.parity import ROUNDED, check_parity
from mpo.exporters.shapes import free_inputs
from mpo.exporters.suspects import find_suspect
from mpo.optimizer.data.batches import primary, take
from mpo.optimizer.data.quality import drop, evaluate, predictor
from mpo.pipeline.export.dynamic import AskedAxis, export_axes, seen_sizes, wanted_axes
from mpo.pipeline.run.context import Context
from mpo.pipeline.run.graphs import count_nodes, read_model
from mpo.pipeline.run.inputs import Call, call_of, example, parity_calls
from mpo.pipeline.run.precision import convert
from mpo.pipeline.run.shipping import file_predictor, file_quality, floor_of, require_data
from mpo.records import (
    Conversion,
    ExportAxis,
    Parity,
    Precision,
    Quality,
    Runtime,
    Trunk,
)

FIXED_CALLS = 8  # of a file whose batch is fixed


@dataclass
class Exporting:
    """One model on its way to a file.

    Attributes:
        context: of its subject.
        model: that is exported, in eval mode.
        asked: every --dynamic; None fixes all axes.
        metadata: facts to write into the file.
        folder: where other precisions for other runtimes are made.
    """

    context: Context
    model: nn.Module
    asked: Sequence[AskedAxis] | None
    metadata: dict[str, Any]
    folder: Path
    _made: dict[Runtime, Path] = field(default_factory=dict)
    conversions: dict[Runtime, Conversion] = field(default_factory=dict)

    def exported(self, path: Path) -> tuple[OnnxExport, tuple[ExportAxis, ...]]:
        """The float32 file at `path`, and its free axes.

        Raises:
            UsageError: axes that the model does not have, or fixes.
            MpoError: torch cannot export the model.
        """
        context = self.context
        axes = wanted_axes(self.asked, input_names(self.model, *example(context)))
        fixed = axes is not None and not any(0 in own for own in axes)
        if fixed and context.batch.size < context.recipe.batch:
            raise UsageError(
                f"A fixed batch of {context.recipe.batch} needs a sample of that size; the data "
                f"come in batches of {context.batch.size}.",
                hint=f"Give --batch {context.batch.size} or less, or leave the batch free.",
            )
        call = call_of(take(context.batch, context.recipe.batch)) if fixed else example(context)
        made = export_onnx(
            self.model,
            *call,
            path,
            opset=context.recipe.opset,
            varying=context.varying,
            axes=axes,
            metadata=self.metadata,
        )
        seen = seen_sizes(context)
        return made, export_axes(path, self.asked, context.recipe.batch, seen)

    def calls(self, path: Path) -> list[Call]:
        """Test samples in the batches that the file takes: several sizes, or its one."""
        size = fixed_size(path)
        if not size:
            return parity_calls(self.context)
        test = islice(self.context.splits().test, FIXED_CALLS)
        return [call_of(take(batch, size)) for batch in test if batch.size >= size]

    def proved(self, path: Path) -> Parity:
        """The float32 file against the torch model.

        Raises:
            MpoError: not in parity, with the first node that departs.
        """
        calls = self.calls(path)
        parity = check_parity(self.model, path, calls, primary)
        if not parity.ok:
            suspect = find_suspect(self.model, *calls[-1], path, opset=self.context.recipe.opset)
            raise MpoError(
                f"The ONNX file differs from the torch model on {parity.samples} samples: "
                f"{parity.reason} {suspect}".strip(),
                hint="Nothing is written. Data-dependent control flow, a fixed axis (see "
                "--dynamic) and random operations are the usual causes.",
            )
        return parity

    def converted(self, trunk: Path, target: Path, precision: Precision) -> None:
        """The file in the asked precision for ONNX Runtime at `target`."""
        self._made["onnxruntime"] = self._convert(trunk, target, precision, "onnxruntime")

    def source(self, trunk: Path, precision: Precision) -> Callable[[Runtime], Path]:
        """The ONNX file for a runtime: made when it is first asked for."""

        def file(runtime: Runtime) -> Path:
            if precision == "fp32":
                return trunk
            if runtime not in self._made:
                target = self.folder / f"{runtime}.onnx"
                self._made[runtime] = self._convert(trunk, target, precision, runtime)
            return self._made[runtime]

        return file

    def _convert(self, trunk: Path, target: Path, precision: Precision, runtime: Runtime) -> Path:
        judged = precision == "int8" and runtime == "onnxruntime" and not fixed_size(trunk)
        floor = floor_of(self.context, self.wanted) if judged else None
        first = self.conversions.get("onnxruntime")
        keep = [one.node for one in first.kept] if first and first.mixed else []
        self.context.progress(f"precision: {precision} for {runtime}", 0, 1)
        self.conversions[runtime] = convert(
            trunk,
            target,
            precision,
            self.context.calibration(),
            runtime=runtime,
            floor=floor,
            keep=keep,
        )
        self.context.progress(f"precision: {precision} for {runtime}", 1, 1)
        return target

    @cached_property
    def wanted(self) -> Quality:
        """The torch model's quality on validation."""
        split, original = self.context.splits().validation, predictor(self.context.original)
        ours = predictor(self.model)
        return evaluate(ours, self.context.subject, split, original, interval=False)

    def dropped(self, path: Path) -> float:
        """Quality that a file loses against the torch model on validation."""
        return drop(self.wanted, file_quality(self.context, path))

    def judged(self, path: Path) -> dict[str, Quality]:
        """The task's metric on the test split, of the torch model and of the file."""
        context, found = self.context, {}
        ways = {"torch": predictor(self.model), "onnx": file_predictor(context, path)}
        for number, (name, predict) in enumerate(ways.items()):
            context.progress("task metric", number, len(ways))
            with torch.no_grad():
                found[name] = evaluate(
                    predict, context.subject, context.splits().test, predictor(context.original)
                )
        context.progress("task metric", len(ways), len(ways))
        return found


def fixed_size(path: Path) -> int:
    """The batch of a file that takes one size only; 0 when its batch is free."""
    first = next(iter(free_inputs(path).values()))
    return first[0] if first and isinstance(first[0], int) else 0


def nodes_of(path: Path) -> int:
    """Operators in a file."""
    return count_nodes(read_model(path).graph)


def make_trunk(
    exporting: Exporting, path: Path, precision: Precision
) -> tuple[Trunk, OnnxExport, Path]:
    """The file at `path` in the asked precision, its record, and the float32 file.

    Raises:
        UsageError: axes or a precision that cannot be had.
        MpoError: no export, or no parity.
    """
    context = exporting.context
    plain = path if precision == "fp32" else exporting.folder / "fp32.onnx"
    context.progress("export: onnx", 0, 1)
    export, axes = exporting.exported(plain)
    context.progress("export: onnx", 1, 1)
    parity = exporting.proved(plain)
    reduced, dropped = None, None
    if precision != "fp32":
        require_data(context, precision)
        exporting.converted(plain, path, precision)
        calls = exporting.calls(path)
        reduced = check_parity(exporting.model, path, calls, primary, ROUNDED[precision])
        if not reduced.ok:
            raise MpoError(f"The {precision} file is not the model any more: {reduced.reason}")
        dropped = exporting.dropped(path) if export.dynamic_batch else None
        if dropped is None:
            told = f"The batch is fixed, so nobody judged what {precision} costs in quality."
            export = replace(export, warnings=(*export.warnings, told))
    trunk = Trunk(
        tracer=export.tracer,
        opset=export.opset,
        nodes=export.nodes if precision == "fp32" else nodes_of(path),
        raw_nodes=export.raw_nodes,
        simplified=export.simplified,
        simplify_reason=export.reason,
        precision=precision,
        conversion=exporting.conversions.get("onnxruntime"),
        axes=axes,
        parity=parity,
        reduced=reduced,
        quality=exporting.judged(path) if export.dynamic_batch else {},
        dropped=dropped,
        metadata=exporting.metadata,
    )
    return trunk, export, plain
