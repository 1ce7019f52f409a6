"""What became of a model in another precision."""

from __future__ import annotations

from typing import Literal

from mpo.records.base import Record

Precision = Literal["fp32", "fp16", "bf16", "int8", "int8-dynamic"]
Runtime = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"]


class KeptNode(Record):
    """A node that stayed in float32, and why."""

    node: str
    op: str
    reason: str


class Conversion(Record):
    """A file that was made of a float32 one.

    Attributes:
        runtime: that it was made for.
        bytes: of all its files.
        sha256: of the file to load.
        kept: nodes that could have been converted and stayed in float32.
        mixed: whether they stayed because plain int8 broke the quality floor.
        samples: examples that ranges and overflow were taken from.
        error: of the outputs on those examples, relative to the float32 outputs' scale (fp16 and
            bf16: the largest; int8: root mean square); None without examples.
        quality: what the judge of the floor said of the file; None when none was asked.
        note: how it was made: the calibration that was chosen.
        warnings: what was not as asked, one sentence each.
    """

    precision: Precision
    runtime: Runtime
    bytes: int
    sha256: str
    kept: tuple[KeptNode, ...] = ()
    mixed: bool = False
    samples: int = 0
    error: float | None = None
    quality: float | None = None
    note: str = ""
    warnings: tuple[str, ...] = ()
