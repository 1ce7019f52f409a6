"""What `mpo bench` measured and judged (`mpo.bench/1`), and a line of its history."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mpo.records.base import Document, Record
from mpo.records.devices import Device, SessionOptions
from mpo.records.figures import Quality
from mpo.records.profiles import DeviceWarning
from mpo.records.telemetry import GpuTelemetry

Which = Literal["candidate", "baseline"]
Pairing = Literal["in-process", "process", "stored", "exact", "absolute"]
MemoryMethod = Literal["vmhwm", "rss-sampled"]
BenchVerdict = Literal["pass", "fail", "inconclusive", "not-gated"]


class BenchInput(Record):
    """One input as it was fed: free axes have their sizes."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class BenchSubject(Record):
    """A model that was measured, with what needs no measuring.

    Attributes:
        path: as it was given.
        bytes: of the file and of the data files that it names.
        params: elements of its initializers of a floating type, quantized ones included; None, like
            nodes, when the format does not tell.
        macs: of convolutions and matrix products on these inputs; None when a shape is unknown.
        engine_memory_bytes: that an engine takes beside its weights; the same on every run.
        inputs: in the file's order.
    """

    id: Which
    path: str
    sha256: str
    bytes: int
    params: int | None
    nodes: int | None
    macs: int | None
    engine_memory_bytes: int | None = None
    inputs: tuple[BenchInput, ...]


class BenchPlace(Record):
    """A target as it was.

    Attributes:
        fingerprint: of the device.
        session: the runtime's options for latency; in turn, spinning is off.
        memory_session: for memory.
    """

    target: str
    fingerprint: str
    device: Device
    session: SessionOptions
    memory_session: SessionOptions
    batch: int


class BenchProtocol(Record):
    """How it was measured; figures of different protocols are not compared.

    Attributes:
        id: changes whenever the same model would read differently.
        looks: after how many pairs a verdict is sought.
        alpha_fail, alpha_pass: one-sided, of each look, before they are shared by the rules.
        seconds: of sampling a process.
        inputs: "random", "file" or "run": where the inputs come from; `seed` is of random ones.
    """

    id: str
    looks: tuple[int, ...]
    alpha_fail: float
    alpha_pass: float
    seconds: float
    inputs: Literal["random", "file", "run"]
    seed: int


class BenchProcess(Record):
    """One model alone: what a fresh process measured of its latency; `device_p50_ms` is the GPU's
    own time, where an engine tells it; `telemetry` its state meanwhile, where nvidia-smi tells."""

    load_ms: float
    first_ms: float
    device_p50_ms: float | None = None
    p10_ms: float
    p50_ms: float
    p90_ms: float
    samples: int
    steady: bool
    telemetry: GpuTelemetry | None = None


class BenchMemory(Record):
    """One model alone in a lean process: what it held until it was loaded, and at most, above what
    the same process holds with a model that does nothing."""

    load_bytes: int
    peak_bytes: int
    method: MemoryMethod = "vmhwm"


class BenchRuns(Record):
    """Raw figures of one target, by model; both models took turns.

    Attributes:
        alone: one entry a process, in the order of measuring.
        memory: the same, of the processes for memory.
        samples_ms: single calls of all processes alone together, thinned evenly.
        pairs_ms: (baseline, candidate) p10 of each process that ran both in turn; only their ratio
            means something.
        pairs_telemetry: the GPU during each of them; empty where nothing tells.
    """

    target: str
    alone: dict[Which, tuple[BenchProcess, ...]]
    memory: dict[Which, tuple[BenchMemory, ...]]
    samples_ms: dict[Which, tuple[float, ...]]
    pairs_ms: tuple[tuple[float, float], ...] = ()
    pairs_telemetry: tuple[GpuTelemetry | None, ...] = ()


class BenchMetric(Record):
    """One figure of one model.

    Attributes:
        name: "latency.p50", "memory", "size", ...
        unit: "ms", "B", "1/s", "count" or "share".
        target: empty for what is the same on all.
        value: None when there is none; `reason` says why.
        ci95: over processes; None where no interval can be had.
        method: how a figure was taken where that matters: "vmhwm ...", or "rss-sampled ..." where
            the system tells no peak.
        scope: "process" of memory.
        baseline_subtracted: of memory, what the same process holds with a model that does nothing.
        resolution_ms: between two looks, of sampled memory.
        deterministic: the same file gives the same figure on any machine.
    """

    name: str
    unit: str
    subject: Which
    target: str = ""
    value: float | None
    reason: str = ""
    ci95: tuple[float, float] | None = None
    n_processes: int = 0
    n_samples: int = 0
    method: str = ""
    scope: Literal["", "process"] = ""
    baseline_subtracted: bool = False
    resolution_ms: float | None = None
    deterministic: bool = False


class BenchComparison(Record):
    """The candidate against a limit, or only against the baseline.

    Attributes:
        rule: as given; empty when nothing is gated.
        unit: of estimate, low, high and limit: "%" of change against the baseline, "pp", or the
            metric's own.
        low, high: what the verdict rests on: one-sided bounds; equal to the estimate when exact;
            None when there are too few pairs for any.
        pairs: that decided.
        sd_log: standard deviation of ln(new / old) over pairs.
        mde: the change, in `unit`, that would be confirmed nine times in ten with this noise and as
            many pairs.
        pairing: what was compared with what.
    """

    metric: str
    target: str = ""
    rule: str = ""
    unit: str
    limit: float | None = None
    estimate: float | None
    low: float | None = None
    high: float | None = None
    pairs: int = 0
    sd_log: float | None = None
    mde: float | None = None
    pairing: Pairing
    verdict: BenchVerdict
    reason: str = ""


class Bench(Document):
    """Figures of a model, and how it stands against its baseline and its limits (`mpo.bench/1`).

    Attributes:
        created: ISO 8601, UTC.
        quality: of each model on the subject's test split, through the runtime.
        baseline: what --baseline named: a model that was measured beside, or a stored record.
        seconds: by phase.
        strict: what stays inconclusive fails too.
        verdict: of all rules together; "not-gated" without rules.
        exit_code: of the command.
    """

    schema_: Literal["mpo.bench/1"] = Field("mpo.bench/1", alias="schema")
    run_id: str
    created: str
    tool: dict[str, str]
    places: tuple[BenchPlace, ...]
    subjects: tuple[BenchSubject, ...]
    baseline: Literal["none", "model", "stored"]
    protocol: BenchProtocol
    runs: tuple[BenchRuns, ...]
    quality: dict[Which, Quality] = Field(default_factory=dict)
    metrics: tuple[BenchMetric, ...]
    comparisons: tuple[BenchComparison, ...]
    warnings: tuple[DeviceWarning, ...]
    seconds: dict[str, float]
    strict: bool
    verdict: BenchVerdict
    exit_code: int

    def subject(self, which: Which) -> BenchSubject | None:
        """The model of this name, if there is one."""
        return next((one for one in self.subjects if one.id == which), None)


class HistoryEntry(Document):
    """One line of a history file (`mpo.history/1`): the candidate's figures of one bench.

    Attributes:
        model: the file's name.
        fingerprints: of each target's device, by target: figures of other devices are another
            series.
        values: by metric, with " on TARGET" after it for what depends on the target.
        units: by the same keys.
    """

    schema_: Literal["mpo.history/1"] = Field("mpo.history/1", alias="schema")
    run_id: str
    created: str
    model: str
    sha256: str
    note: str = ""
    fingerprints: dict[str, str]
    values: dict[str, float]
    units: dict[str, str]
