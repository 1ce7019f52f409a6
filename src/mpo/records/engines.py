"""Engines: what to build from an ONNX file, what came of it, and how it ran."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mpo.records.base import Record
from mpo.records.figures import Artifact, Parity

EngineBackend = Literal["tensorrt", "tensorrt-rtx"]
EngineOutcome = Literal[
    "built", "missing", "rejected", "failed", "crashed", "timed-out", "out-of-memory"
]


class ShapeRange(Record):
    """The shapes that an engine takes for one input: smallest, most common, largest.

    All three have the input's rank; axes that are fixed in the file have one and the same size.
    """

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


class EngineOptions(Record):
    """How an engine is built.

    Attributes:
        backend: the library that builds.
        shapes: by input name; every input with a free axis needs its range.
        precision: "onnx" takes every type from the file (a strongly typed network); the others ask
            for TensorRT 10's builder flags, which TensorRT 11 and TensorRT-RTX do not have.
        workspace_bytes: scratch memory that one layer may use; the library's own limit when None.
        optimization_level: 0 (fast build) to 5 (fast engine); the library's own when None.
        version_compatible: the engine loads in later releases of the same major version.
        hardware: "this" GPU, "ampere+" for any newer one, or "same-capability".
        compute_capabilities: targets such as "8.9", TensorRT-RTX only; all it knows when empty.
        refit: weights can be replaced without building again.
        timeout_s: of the build; then its process is killed.
        memory_bytes: that the build's process may hold; 90 % of what is free when None.
    """

    backend: EngineBackend = "tensorrt-rtx"
    shapes: dict[str, ShapeRange] = Field(default_factory=dict)
    precision: Literal["onnx", "fp16", "bf16", "int8"] = "onnx"
    workspace_bytes: int | None = Field(None, gt=0)
    optimization_level: int | None = Field(None, ge=0, le=5)
    version_compatible: bool = False
    hardware: Literal["this", "ampere+", "same-capability"] = "this"
    compute_capabilities: tuple[str, ...] = ()
    refit: bool = False
    timeout_s: float = Field(1800.0, gt=0)
    memory_bytes: int | None = Field(None, gt=0)


class NodeFault(Record):
    """Why the parser, or the builder, does not take a node of the graph; `index` is -1 when the
    fault lies in no single node."""

    node: str = ""
    operator: str = ""
    index: int = -1
    message: str


class EngineResult(Record):
    """What came of a build. It is a result even when there is no engine: `outcome` and `reason`
    say why.

    Attributes:
        backend: as asked for.
        outcome: "missing" when the library is not installed, "rejected" when the graph or an option
            cannot be built, "failed" for the library's own failure, "crashed", "timed-out" and
            "out-of-memory" for the process's end.
        path, bytes, sha256: of the engine; empty and 0 without one.
        onnx_sha256: of the file it was built from.
        module, version: of the library, or of the command-line tool.
        ran: whether the engine was executed; `ran_reason` says why not.
        device_memory_bytes: activations and scratch that one execution context needs.
        weights_bytes: in the engine.
        peak_memory_bytes: the build process's largest resident size, as sampled.
        layers: in the engine after fusion; None when the library does not tell without a GPU.
        network_layers: before fusion.
        precisions: layers by the type of what they put out.
        cached: the engine was taken from the cache.
    """

    backend: EngineBackend
    outcome: EngineOutcome
    reason: str = ""
    hint: str = ""
    path: str = ""
    bytes: int = 0
    sha256: str = ""
    onnx_sha256: str = ""
    module: str = ""
    version: str = ""
    built: bool = False
    ran: bool = False
    ran_reason: str = ""
    device_memory_bytes: int | None = None
    weights_bytes: int | None = None
    peak_memory_bytes: int | None = None
    seconds: float = 0.0
    layers: int | None = None
    network_layers: int | None = None
    precisions: dict[str, int] = Field(default_factory=dict)
    errors: tuple[NodeFault, ...] = ()
    warnings: tuple[str, ...] = ()
    cached: bool = False


class EngineRun(Record):
    """An engine executed on a GPU.

    Attributes:
        gpu: its name.
        samples_ms: time on the GPU between two CUDA events around one inference.
        p50_ms, p90_ms: of the samples.
        device_memory_bytes: of the execution context (`device_memory_size_v2`).
        weights_bytes: GPU memory taken by loading, the context aside.
        outputs: path of the .npz with the outputs by name.
    """

    gpu: str
    samples_ms: tuple[float, ...]
    p50_ms: float
    p90_ms: float
    device_memory_bytes: int
    weights_bytes: int
    outputs: str


class Exported(Record):
    """What an exporter made of an ONNX file, or why it made nothing.

    Attributes:
        format: the exporter's name.
        ok: every file is there and whole.
        reason, hint: why not, and what to do.
        files: what was written.
        ran: the result was executed by its runtime, as part of the export.
        ran_reason: why not.
        parity: what it answered against the ONNX file, when it ran.
        seconds: it took.
        engine: the build's own result, of engines.
    """

    format: str
    ok: bool
    reason: str = ""
    hint: str = ""
    files: tuple[Artifact, ...] = ()
    ran: bool = False
    ran_reason: str = ""
    parity: Parity | None = None
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    engine: EngineResult | None = None
