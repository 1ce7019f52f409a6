"""An export: the ONNX file, how far it agrees with the model, and what else was made of it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from mpo.records.base import Document, Record
from mpo.records.conversions import Conversion, Precision
from mpo.records.engines import Exported
from mpo.records.figures import Artifact, Parity, Quality

Tracer = Literal["dynamo", "dynamo-strict", "torchscript", "given"]


class ExportAxis(Record):
    """A free axis of the exported file with the sizes that engines are built for.

    Attributes:
        name: of the axis in the file; inputs that share it have the same size there.
        inputs: where it is, as "input:0".
        low, best, high: the smallest, the most common and the largest size.
        source: who said so: the user, the data, or a default.
    """

    name: str
    inputs: tuple[str, ...]
    low: int
    best: int
    high: int
    source: Literal["asked", "data", "default"]


class Trunk(Record):
    """The ONNX file that everything else is made of.

    Attributes:
        tracer: what made the graph; "given" when the subject was an ONNX file.
        opset: as read back from the file.
        nodes: in the file; `raw_nodes` before simplification.
        simplified: whether onnxsim's graph was kept; `simplify_reason` says why not.
        precision: of the file that is handed out; `conversion` says how it was made of the float32
            graph.
        axes: the free ones.
        parity: of the float32 graph with the torch model; None without a torch model.
        reduced: of the file in another precision with the torch model; None for fp32.
        quality: the task's metric on the test split by what answered: "torch" or "onnx".
        dropped: quality that the file lost on validation, as --max-drop counts it; None for fp32.
        metadata: what was written into the file.
    """

    tracer: Tracer
    opset: int
    nodes: int
    raw_nodes: int
    simplified: bool
    simplify_reason: str = ""
    precision: Precision = "fp32"
    conversion: Conversion | None = None
    axes: tuple[ExportAxis, ...] = ()
    parity: Parity | None = None
    reduced: Parity | None = None
    quality: dict[str, Quality] = Field(default_factory=dict)
    dropped: float | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class Export(Document):
    """What `mpo export` made, written beside the files as export.json.

    Attributes:
        subject: as named; `kind` is what it was.
        removed: blocks that the run's plan took out of the model.
        plan_sha256: fingerprint of that plan; empty without one.
        trunk: the ONNX file.
        formats: every asked format, in the asked order, with its reason when it was not made.
        artifacts: the files, relative to the folder of this record.
        status: "partial" when a format could not be made (exit code 7); "below-floor" when the
            file in the asked precision lost more quality than allowed (exit code 3).
        seconds: by step.
    """

    schema_: Literal["mpo.export/1"] = Field("mpo.export/1", alias="schema")
    tool: dict[str, str]
    subject: str
    kind: Literal["subject", "run", "onnx"]
    removed: tuple[str, ...] = ()
    plan_sha256: str = ""
    trunk: Trunk
    formats: tuple[Exported, ...]
    artifacts: tuple[Artifact, ...]
    status: Literal["complete", "partial", "below-floor"]
    seconds: dict[str, float]
    warnings: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """What the command ends with."""
        return {"complete": 0, "below-floor": 3, "partial": 7}[self.status]
