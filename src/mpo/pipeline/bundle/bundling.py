"""What goes into a bundle: the manifest and the files, from a finished run."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import onnxruntime
from onnx import helper

from mpo import __version__
from mpo.bundle import mpo_edge, mpo_signature
from mpo.bundle.writer import STARTER, STARTER_NAME, Part, listed
from mpo.errors import UsageError
from mpo.optimizer.data.subject import Subject
from mpo.pipeline.bundle.facts import (
    Wishes,
    expected_target,
    licence_text,
    limitations,
    tested_targets,
)
from mpo.pipeline.bundle.runs import FinishedRun
from mpo.pipeline.bundle.samples import ENGINE, QUANTIZED, RUNTIME, samples
from mpo.pipeline.run.graphs import wanted_inputs
from mpo.records import (
    Bundle,
    BundleLineage,
    BundleMetric,
    BundleModel,
    BundleRuntime,
    BundleSelftest,
    BundleTensor,
    BundleTool,
    EngineOptions,
    ShapeRange,
)

MODEL, INPUTS, OUTPUTS = "model/model.onnx", "selftest/inputs.npz", "selftest/outputs.npz"
LARGEST_BATCH = 32
# The first ONNX Runtime that reads a file of this IR version, or of this opset.
SINCE_IR = {8: "1.13", 9: "1.15", 10: "1.18"}
SINCE_OPSET = {17: "1.13", 18: "1.14", 19: "1.15", 20: "1.17", 21: "1.18"}


def gathered(run: FinishedRun, subject: Subject, wishes: Wishes) -> dict[str, Part]:
    """The files of a bundle that are no text about it.

    Raises:
        UsageError: no licence file where one was named; samples that cannot be taken.
    """
    inputs, outputs, _ = samples(run, subject)
    weights = {f"model/{path.name}": Part(path, "weights") for path in run.weights}
    return {
        STARTER_NAME: Part(STARTER, "runtime"),
        "LICENSE": Part(licence_text(subject, wishes), "licence"),
        MODEL: Part(run.model, "model"),
        **weights,
        INPUTS: Part(inputs, "selftest"),
        OUTPUTS: Part(outputs, "selftest"),
        "runtime/mpo_edge.py": Part(Path(mpo_edge.__file__), "runtime"),
        "runtime/mpo_signature.py": Part(Path(mpo_signature.__file__), "runtime"),
        "runtime/requirements.txt": Part(_requirements(run).encode(), "runtime"),
    }


def manifest_of(run: FinishedRun, parts: dict[str, Part], wishes: Wishes) -> Bundle:
    """The manifest of these files, of which plan.json and report.json must be two.

    Raises:
        UsageError: a name or version that none can have, or an unknown preset.
    """
    files, report = listed(parts), run.report
    for what, text in (("name", _name(run, wishes)), ("version", wishes.version)):
        if not mpo_edge.SLUG.fullmatch(text):
            raise UsageError(
                f"{text[:100]!r} is no {what} of a bundle.", hint="Letters and digits."
            )
    return Bundle(
        bundle_version=wishes.bundle_version,
        name=_name(run, wishes),
        version=wishes.version,
        created=_created(),
        tool=BundleTool(name="mpo", version=__version__),
        files=files,
        model=_model(run),
        inputs=tensors(run, "input"),
        outputs=tensors(run, "output"),
        runtime=_runtime(run, wishes),
        engine=_engine(run, wishes),
        selftest=_selftest(run, parts),
        targets=(*tested_targets(run), *map(expected_target, wishes.expected)),
        budgets=report.budgets,
        lineage=BundleLineage(
            original=run.original_sha256,
            plan=files["plan.json"].sha256,
            report=files["report.json"].sha256,
            parent=wishes.parent,
        ),
        license=wishes.license,
        limitations=limitations(run, wishes),
    )


def _selftest(run: FinishedRun, parts: dict[str, Part]) -> BundleSelftest:
    quality = run.report.optimized.quality
    return BundleSelftest(
        inputs=INPUTS,
        outputs=OUTPUTS,
        samples=calls_in(parts),
        runtime=RUNTIME.get(_precision(run), QUANTIZED),
        engine=ENGINE,
        metric=BundleMetric(
            name=quality.metric,
            value=quality.value,
            samples=quality.samples,
            lower_is_better=quality.lower_is_better,
        ),
    )


def calls_in(parts: dict[str, Part]) -> int:
    """How many calls the self-test's inputs are."""
    content = parts[INPUTS].content
    names = mpo_edge.read_arrays(content if isinstance(content, bytes) else content.read_bytes())
    return len({name.partition(":")[0] for name in names})


def tensors(run: FinishedRun, kind: Literal["input", "output"]) -> tuple[BundleTensor, ...]:
    """The model's inputs or outputs."""
    if kind == "input":
        rows = [(one.name, one.dtype, one.axes) for one in wanted_inputs(run.graph)]
    else:
        rows = [_value(value) for value in run.graph.graph.output]
    return tuple(BundleTensor(name=name, dtype=dtype, shape=axes) for name, dtype, axes in rows)


def _value(value: Any) -> tuple[str, str, tuple[int | str, ...]]:
    kind = value.type.tensor_type
    axes = (
        axis.dim_value if axis.HasField("dim_value") else axis.dim_param or "?"
        for axis in kind.shape.dim
    )
    return value.name, str(helper.tensor_dtype_to_np_dtype(kind.elem_type)), tuple(axes)


def _name(run: FinishedRun, wishes: Wishes) -> str:
    plain = re.sub(r"[^A-Za-z0-9._+-]+", "-", run.path.resolve().name).strip("-._+")
    return wishes.name or plain[:100] or "model"


def _created() -> str | None:
    """Only when it is given from outside, so that a rebuild gives the same bytes."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not re.fullmatch(r"[0-9]{1,11}", text):
        return None
    return datetime.fromtimestamp(int(text), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _precision(run: FinishedRun) -> str:
    kinds = {one.path: one.precision for one in run.report.artifacts}
    return kinds.get(run.model.name, "fp32")


def _model(run: FinishedRun) -> BundleModel:
    figures = run.report.optimized
    return BundleModel(
        path=MODEL,
        weights=tuple(f"model/{path.name}" for path in run.weights),
        opset=_opset(run),
        ir_version=run.graph.ir_version,
        precision=_precision(run),
        params=figures.params,
        bytes=sum(path.stat().st_size for path in (run.model, *run.weights)),
        macs=figures.macs,
    )


def _opset(run: FinishedRun) -> int:
    found = [one.version for one in run.graph.opset_import if one.domain in ("", "ai.onnx")]
    return int(max(found))


def _least_runtime(run: FinishedRun) -> str:
    found = [SINCE_IR.get(max(run.graph.ir_version, 8)), SINCE_OPSET.get(max(_opset(run), 17))]
    known = [one for one in found if one]
    if len(known) < len(found):
        return str(onnxruntime.__version__)
    return max(known, key=lambda one: int(one.split(".")[1]))


def _runtime(run: FinishedRun, wishes: Wishes) -> BundleRuntime:
    on_gpu = run.session.device != "cpu"
    return BundleRuntime(
        onnxruntime=_least_runtime(run),
        tested_onnxruntime=onnxruntime.__version__,
        providers=("CUDAExecutionProvider",) if on_gpu else ("CPUExecutionProvider",),
        session=run.session,
        batch=run.recipe.batch,
        fallback=wishes.fallback,
    )


def _requirements(run: FinishedRun) -> str:
    return f"numpy\nonnxruntime>={_least_runtime(run)}\n"


def _engine(run: FinishedRun, wishes: Wishes) -> EngineOptions | None:
    """The recipe: what the run was measured on decides, unless it is said."""
    backend = wishes.engine or ("tensorrt" if run.session.device != "cpu" else "none")
    if backend == "none":
        return None
    shapes = {}
    for one in wanted_inputs(run.graph):
        free = [place for place, axis in enumerate(one.axes) if isinstance(axis, str)]
        if free and free != [0]:
            raise UsageError(
                f"Input {one.name!r} has free axes beside the batch: no engine's range is known.",
                hint="Export it with fixed axes, or leave the engine out: --engine none.",
            )
        if free:
            rest = tuple(int(axis) for axis in one.axes[1:])
            sizes = (1, run.recipe.batch, max(LARGEST_BATCH, run.recipe.batch))
            low, best, high = ((size, *rest) for size in sizes)
            shapes[one.name] = ShapeRange(min=low, opt=best, max=high)
    return EngineOptions(backend=backend, shapes=shapes)
