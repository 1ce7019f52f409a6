"""What was measured of a model and its files."""

from __future__ import annotations

from mpo.records.base import Record


class Quality(Record):
    """The task metric on `samples` examples with a 95 % interval."""

    metric: str
    value: float
    samples: int
    ci95: tuple[float, float]
    lower_is_better: bool = False


class Latency(Record):
    """Solo latency of one inference at the recorded batch and threads; `samples_ms` keeps the raw
    times, the ranges are the lowest and the highest process."""

    p50: float
    p90: float
    n: int
    samples_ms: tuple[float, ...] = ()
    p50_range: tuple[float, float] | None = None
    p90_range: tuple[float, float] | None = None


class ModelFigures(Record):
    """One model, as measured on the first target; the range of memory is the lowest and the highest
    process."""

    params: int
    macs: int
    size_bytes: int
    peak_memory_bytes: int
    load_memory_bytes: int
    latency_ms: Latency
    quality: Quality
    peak_memory_range: tuple[int, int] | None = None


class OnTarget(Record):
    """One model as one target runs it."""

    target: str
    peak_memory_bytes: int
    load_memory_bytes: int
    latency_ms: Latency
    peak_memory_range: tuple[int, int] | None = None


class Ratio(Record):
    """optimized / original with a 95 % interval from paired measurements."""

    estimate: float
    ci95: tuple[float, float]
    pairs: int


class Ratios(Record):
    """optimized / original of every figure."""

    latency: Ratio
    memory: float
    size: float
    params: float
    macs: float


class OutputParity(Record):
    """One output of an artefact against the same output of its reference; `max_rel` is over the
    largest magnitude of the reference's, `cosine` that of all values as one vector."""

    name: str
    max_abs: float
    max_rel: float
    cosine: float


class Parity(Record):
    """An artefact against its reference (the torch model, or the file it was made of) on real
    samples. The figures are those of the deciding output; `outputs` has every output of floating
    type."""

    max_abs: float
    max_rel: float
    cosine: float | None = None
    agreement: float
    samples: int
    batches: tuple[int, ...]
    ok: bool
    reason: str = ""
    outputs: tuple[OutputParity, ...] = ()


class Artifact(Record):
    """A file that the run made."""

    path: str
    format: str
    precision: str
    bytes: int
    sha256: str


class Compensation(Record):
    """What was made up for without training, after blocks went.

    Attributes:
        steps: what was kept, in words, with the harm before and after it.
        harm_before: the output's KL divergence from the original (or the lost share of variance)
            on calibration batches that no step was fitted on.
        harm_after: the same afterwards.
        quality_before: validation quality before; None when nothing was done.
        quality_after: and afterwards.
        kept: False when validation quality fell, so that the model is as it was before.
    """

    steps: tuple[str, ...]
    harm_before: float
    harm_after: float
    quality_before: float | None = None
    quality_after: float | None = None
    kept: bool = True


class Recovery(Record):
    """How recovery went.

    Attributes:
        before: validation quality before fine-tuning.
        after: of the weights that are kept.
        original: of the original.
        history: one row an epoch: epoch, loss, validation quality.
        events: what did not go as planned, in words: rolled back, memory spared, snapshots lost.
    """

    epochs: int
    best_epoch: int
    before: float
    after: float
    original: float
    history: tuple[dict[str, float], ...] = ()
    note: str = ""
    events: tuple[str, ...] = ()
    compensation: Compensation | None = None
