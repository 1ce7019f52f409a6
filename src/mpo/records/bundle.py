"""The manifest of an edge bundle (`mpo.bundle/1`): what bundle.json says, and nothing else."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from mpo.records.base import Document, Record
from mpo.records.budgets import BudgetResult
from mpo.records.devices import SessionOptions
from mpo.records.engines import EngineOptions

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Slug = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$")]
Text = Annotated[str, StringConstraints(max_length=2000)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Stamp = Annotated[
    str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")
]
Provider = Literal["CPUExecutionProvider", "CUDAExecutionProvider"]
Role = Literal[
    "model",
    "weights",
    "selftest",
    "runtime",
    "plan",
    "report",
    "doc",
    "licence",
    "sbom",
    "provenance",
    "evidence",
]


class BundleFile(Record):
    """One member of the bundle: its content's sha256, its bytes, and what it is for."""

    sha256: Digest
    size: Count
    role: Role


class BundleTool(Record):
    """What made the bundle."""

    name: Slug
    version: Slug


class BundleModel(Record):
    """The model that the bundle is about.

    Attributes:
        path: of the ONNX graph.
        weights: files beside it that hold its weights; empty when they are in the graph's file.
        precision: of most weights: "fp32", "fp16", "int8".
        params: of the model, as the report counts them.
        bytes: of graph and weights together.
        macs: of one inference at the batch of the figures; None when unknown.
    """

    format: Literal["onnx"] = "onnx"
    path: Text
    weights: tuple[Text, ...] = ()
    opset: Count
    ir_version: Count
    precision: Slug
    params: Count
    bytes: Count
    macs: Count | None = None


class BundleTensor(Record):
    """An input or output: numpy's name of its type; each axis a size, or the name of a free one."""

    name: Text
    dtype: Slug
    shape: tuple[Count | Text, ...]


class BundleRuntime(Record):
    """What the model runs with.

    Attributes:
        python, onnxruntime: the lowest versions.
        tested_onnxruntime: the one that the expected outputs come from.
        providers: of onnxruntime, the best first; no other is ever used.
        session: the options that latency and memory were measured with.
        batch: examples in one inference of those figures.
        fallback: "allow" lets a device run on its CPU although a GPU was meant; "refuse" makes that
            an error (exit 6), because a silent fall-back is an outage in disguise.
    """

    python: Slug = "3.8"
    onnxruntime: Slug
    tested_onnxruntime: Slug
    providers: tuple[Provider, ...] = Field(min_length=1)
    session: SessionOptions
    batch: int = Field(ge=1)
    fallback: Literal["allow", "refuse"]


class Tolerance(Record):
    """How far an output may be off: |got - expected| <= atol + rtol * max |expected|, and a cosine
    of at least this between the two."""

    atol: float = Field(ge=0)
    rtol: float = Field(ge=0)
    cosine: float = Field(ge=-1, le=1)


class BundleMetric(Record):
    """The task's metric on the test split, as the report has it."""

    name: Text
    value: float
    samples: Count
    lower_is_better: bool = False


class BundleSelftest(Record):
    """Samples of the subject's own test data, and what the packaged file answered where it was
    packaged.

    Attributes:
        inputs, outputs: .npz with each call's arrays, named CALL:NAME ("0:x").
        samples: calls.
        runtime: tolerance of ONNX Runtime on another processor.
        engine: tolerance of an engine built on the device.
    """

    inputs: Text
    outputs: Text
    samples: int = Field(ge=1, le=8)
    runtime: Tolerance
    engine: Tolerance
    metric: BundleMetric | None = None


class BundleTarget(Record):
    """A device that the bundle is for. "tested": figures were measured there, and `evidence` names
    them; "expected": nobody has measured there, so there are no figures.

    Attributes:
        name: of the target or preset.
        device: "cpu" or "cuda:N".
        evidence: a member of the bundle, with the place in it after "#".
    """

    name: Text
    status: Literal["tested", "expected"]
    arch: Text = ""
    os: Text = ""
    cpu: Text = ""
    device: Slug = "cpu"
    runtimes: dict[str, Text] = Field(default_factory=dict)
    threads: int | None = Field(default=None, ge=1)
    latency_p50_ms: float | None = Field(default=None, gt=0)
    latency_p90_ms: float | None = Field(default=None, gt=0)
    peak_memory_bytes: Count | None = None
    load_memory_bytes: Count | None = None
    evidence: Text | None = None

    @model_validator(mode="after")
    def _words_mean_what_they_say(self) -> Self:
        figures = (self.latency_p50_ms, self.latency_p90_ms, self.peak_memory_bytes)
        if self.status == "tested" and (self.evidence is None or None in figures):
            raise ValueError("a tested target has figures and names their evidence")
        if self.status == "expected" and (self.evidence or any(one is not None for one in figures)):
            raise ValueError("an expected target was not measured: it has no figures")
        return self


class BundleLineage(Record):
    """What the model came from, by sha256.

    Attributes:
        original: the ONNX file of the model before anything was removed.
        plan, report: the files in this bundle.
        parent: the digest of the bundle that this one replaces.
    """

    original: Digest | None = None
    plan: Digest
    report: Digest
    parent: Digest | None = None


class Bundle(Document):
    """The manifest. `files` is complete: a member that it does not name, or one that is missing,
    makes the bundle invalid. Its own sha256 is the bundle's digest, which signatures are of.

    Attributes:
        bundle_version: counts up; a device that has seen a higher one refuses a lower.
        created: only when it was given (SOURCE_DATE_EPOCH), so that a rebuild gives the same bytes.
        engine: the recipe of an engine to build on the device; never an engine.
        limitations: what a user must know before relying on it.
    """

    schema_: Literal["mpo.bundle/1"] = Field("mpo.bundle/1", alias="schema")
    bundle_version: int = Field(default=1, ge=1, lt=2**31)
    name: Slug
    version: Slug
    created: Stamp | None = None
    tool: BundleTool
    files: dict[str, BundleFile] = Field(min_length=1)
    model: BundleModel
    inputs: tuple[BundleTensor, ...] = Field(min_length=1)
    outputs: tuple[BundleTensor, ...] = Field(min_length=1)
    runtime: BundleRuntime
    engine: EngineOptions | None = None
    selftest: BundleSelftest
    targets: tuple[BundleTarget, ...] = ()
    budgets: tuple[BudgetResult, ...] = ()
    lineage: BundleLineage
    license: Text
    limitations: tuple[Text, ...] = ()

    @model_validator(mode="after")
    def _evidence_is_here(self) -> Self:
        for target in self.targets:
            if target.evidence and target.evidence.partition("#")[0] not in self.files:
                raise ValueError(f"target {target.name!r} names evidence that is no file here")
        return self
