"""What flows between the parts: frozen, JSON-able records with units in their field names.

A record holds what was measured or decided; nothing is rounded here (render does that), and none
holds a torch object. The report's schema is `mpo.report/1`, made from `Report` and shipped as
`schemas/report.json`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Metric = Literal["size_bytes", "memory_bytes", "params", "macs", "latency_p50_ms", "latency_p90_ms"]


class Record(BaseModel):
    """Base of all records: frozen, unknown keys refused, NaN and infinity refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Budget(Record):
    """One bound that must hold: `metric` <= `limit`, or <= `factor` of the original when
    relative."""

    text: str
    metric: Metric
    limit: float | None = None
    factor: float | None = None

    def resolve(self, original: float) -> float:
        """The bound in the metric's own unit, given the original's figure."""
        return self.limit if self.limit is not None else float(self.factor or 0.0) * original


class BudgetResult(Record):
    """A budget beside the figure measured on the target."""

    text: str
    metric: Metric
    limit: float
    measured: float
    met: bool


class Block(Record):
    """A module whose output can stand in for its input, or the reason why it cannot.

    `params` counts parameters that no other module shares; `macs` multiply-accumulates at batch 1.
    """

    name: str
    kind: str
    index: int
    group: str
    params: int
    macs: int
    removable: bool
    reason: str = ""


class Harm(Record):
    """What single-block removal does on calibration data.

    `kl` is the mean KL divergence (nats per decision) between the original's output distribution
    and the output with the block bypassed, or the relative squared error for outputs that are no
    logits; `agreement` the share of equal decisions; `branch_ratio` = mean ||F(x)|| / ||x|| of the
    block's own change.
    """

    name: str
    kl: float
    agreement: float
    branch_ratio: float


class Cluster(Record):
    """Blocks that analysis found alike: consecutive, same shape, CKA with the anchor above the
    threshold."""

    members: tuple[str, ...]
    anchor: str
    min_cka: float


class PlanCandidate(Record):
    """A set of blocks to remove with what it is predicted to do.

    `harm` is surrogate harm (additive plus pairwise) until `joint_kl` is measured by a forward
    pass with all of them bypassed; `costs` are the table's predictions of the pruned model per
    metric.
    """

    removed: tuple[str, ...]
    harm: float
    joint_kl: float | None = None
    costs: dict[str, float] = Field(default_factory=dict)
    recovered_quality: float | None = None


class Plan(Record):
    """What will be removed, why, and what else was considered: printable, diffable, saved as
    plan.json."""

    schema_: Literal["mpo.plan/1"] = Field("mpo.plan/1", alias="schema")
    method: str
    subject: str
    seed: int
    removed: tuple[str, ...]
    harm: float
    alternatives: tuple[PlanCandidate, ...] = ()
    pareto: tuple[PlanCandidate, ...] = ()
    notes: tuple[str, ...] = ()

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        populate_by_name=True,
        serialize_by_alias=True,
    )


class Quality(Record):
    """The task metric on `samples` examples with a 95 % interval."""

    metric: str
    value: float
    samples: int
    ci95: tuple[float, float]
    lower_is_better: bool = False


class Latency(Record):
    """Solo latency of one inference at the recorded batch and threads; `samples_ms` keeps the raw
    times."""

    p50: float
    p90: float
    n: int
    samples_ms: tuple[float, ...] = ()


class ModelFigures(Record):
    """One model, as measured on the target."""

    params: int
    macs: int
    size_bytes: int
    peak_memory_bytes: int
    load_memory_bytes: int
    latency_ms: Latency
    quality: Quality


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


class Parity(Record):
    """An artefact against the torch model on real samples."""

    max_abs: float
    max_rel: float
    agreement: float
    samples: int
    batches: tuple[int, ...]
    ok: bool
    reason: str = ""


class Artifact(Record):
    """A file that the run made."""

    path: str
    format: str
    precision: str
    bytes: int
    sha256: str


class Recovery(Record):
    """How fine-tuning went; `history` is one row an epoch: epoch, loss, validation quality."""

    epochs: int
    best_epoch: int
    before: float
    after: float
    original: float
    history: tuple[dict[str, float], ...] = ()
    note: str = ""


class Environment(Record):
    """The machine and runtime that the figures were measured on."""

    cpu: str
    cores: int
    memory_bytes: int
    os: str
    python: str
    runtimes: dict[str, str]
    batch: int
    threads: int
    options: dict[str, str] = Field(default_factory=dict)


class Analysis(Record):
    """Blocks, their similarity and their harm. `similarity` is row-major over `names`; None where
    undefined."""

    names: tuple[str, ...]
    similarity: tuple[tuple[float | None, ...], ...]
    null_95: float
    threshold: float
    samples: int
    clusters: tuple[Cluster, ...]
    harms: tuple[Harm, ...]
    blocks: tuple[Block, ...]


class Report(Record):
    """The proof: what was asked, what was done, and both models as measured."""

    schema_: Literal["mpo.report/1"] = Field("mpo.report/1", alias="schema")
    tool: dict[str, str]
    subject: str
    target: str
    method: str
    seed: int
    budgets: tuple[BudgetResult, ...]
    met: bool
    status: Literal["met", "already-met", "infeasible", "below-floor"]
    max_drop: float
    original: ModelFigures
    optimized: ModelFigures
    ratio: Ratios
    blocks: int
    removed: tuple[str, ...]
    parity: dict[str, Parity]
    artifacts: tuple[Artifact, ...]
    recovery: Recovery | None
    analysis: Analysis
    plan: Plan
    environment: Environment
    seconds: dict[str, float]
    warnings: tuple[str, ...]

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        populate_by_name=True,
        serialize_by_alias=True,
    )
