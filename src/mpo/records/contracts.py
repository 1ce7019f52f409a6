"""Whether a candidate decides as its original does (`mpo.contract/1`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mpo.records.base import Document, Record
from mpo.records.figures import Quality

Judged = Literal["kept", "broken", "undecided"]
Stratum = Literal["overall", "region", "class"]
Search = Literal["data", "gradient", "mixture", "corruption", "tokens"]


class ContractSide(Record):
    """One of the two models: `kind` tells how it was named, `digest` is the sha256 of its file or
    of its parameters."""

    name: str
    kind: Literal["module", "subject", "run", "onnx", "bundle", "weights"]
    digest: str
    params: int | None = None


class ContractData(Record):
    """Which examples served what. The bound's were never seen by calibration, training or mining.

    `samples` is how many the bound stands on, `duplicates` how many of the test split were left
    out because the very same input is in the train or validation split.
    """

    subject: str
    bound_split: str
    samples: int
    duplicates: int
    tau_split: str
    tau_samples: int
    mining_split: str = ""
    statement: str
    notes: tuple[str, ...] = ()


class Region(Record):
    """Inputs whose top-two margin under the original is at most `tau`; `mass` is the share of the
    fresh samples in it, with its 95 % interval. `asked_mass` is the share tau was chosen for."""

    tau: float
    asked_mass: float | None = None
    mass: float
    mass_ci95: tuple[float, float]


class Claim(Record):
    """P(decision differs | stratum) <= eps.

    `low` and `high` are exact one-sided bounds (Clopper & Pearson), each missed with probability
    `alpha` at most; `hoeffding` is the looser upper bound beside them. `needed` samples of the
    stratum keep the claim when none of them differs; `more` decide it when the share of differing
    ones stays as it is (None: no number does, or the claim is decided).
    """

    stratum: Stratum
    label: str = ""
    eps: float
    alpha: float
    samples: int
    differ: int
    rate: float
    low: float
    high: float
    hoeffding: float
    needed: int | None = None
    more: int | None = None
    verdict: Judged


class MarginBin(Record):
    """Agreement among fresh samples with a margin in (low, high], with its 95 % interval."""

    low: float
    high: float
    samples: int
    agreement: float
    ci95: tuple[float, float]


class Certificate(Record):
    """Inputs whose decision the change of the logits cannot have turned: half the range of the
    change is below half the margin. Shares of the fresh samples."""

    samples: int
    certified: int
    share: float
    region_share: float | None = None
    class_share: dict[str, float] = Field(default_factory=dict)


class Distances(Record):
    """How far values are apart: the largest difference within each example, as quantiles.

    `tolerance` is in the outputs' unit; `spread` the original's standard deviation on the split
    that tau would come from."""

    tolerance: float
    spread: float
    median: float
    p90: float
    p99: float
    largest: float


class Divergence(Record):
    """Mean KL(original || candidate) in nats per decision, with a bootstrap 95 % interval; with
    several decisions an example (tokens), `agreement` counts them all, and only one of each
    example, drawn by seed, enters the bounds."""

    mean: float
    ci95: tuple[float, float]
    decisions: int
    agreement: float


class Picture(Record):
    """A grey picture, one byte a pixel as hexadecimal, row by row."""

    width: int
    height: int
    grey: str


class Witness(Record):
    """An input within the valid range on which the two decide differently.

    `linf` is the largest change of any value from the seed input, in the input's unit;
    `linf_of_range` the same as a share of the range that the data show; `tokens` how many tokens
    were changed. `margin` is the original's on the witness. `seed_row` counts in the split.
    """

    search: Search
    detail: str = ""
    seed_row: int
    original: int
    candidate: int
    seed_decision: int
    margin: float
    linf: float | None = None
    linf_of_range: float | None = None
    l2: float | None = None
    tokens: int | None = None
    before: Picture | None = None
    after: Picture | None = None
    text_before: str = ""
    text_after: str = ""


class Mining(Record):
    """The search for disagreement: it falsifies, and never enters a probability.

    `found` counts the inputs from which each search reached a witness, of `seeds` that both models
    decide alike ("data": examples of the split itself that they do not); `smallest` is the least
    change by search, as a share of the inputs' range, or in tokens.
    """

    seeds: int
    radius_of_range: float
    forward_passes: int
    found: dict[str, int]
    smallest: dict[str, float]
    file: str = ""


class Contract(Document):
    """Does the candidate decide as the original does: bounds on fresh samples, and witnesses.

    `kept` when every claim's upper bound is at most its eps, `broken` when some lower bound is
    above it (or eps is 0 and an input was found), else `undecided`.
    """

    schema_: Literal["mpo.contract/1"] = Field("mpo.contract/1", alias="schema")
    tool: dict[str, str]
    created: str
    original: ContractSide
    candidate: ContractSide
    data: ContractData
    outputs: Literal["classes", "positions", "sides", "values"]
    classes: int | None = None
    confidence: float
    seed: int
    looks: int
    look: int
    region: Region | None = None
    claims: tuple[Claim, ...]
    curve: tuple[MarginBin, ...] = ()
    certificate: Certificate | None = None
    divergence: Divergence | None = None
    distances: Distances | None = None
    quality: dict[str, Quality] = Field(default_factory=dict)
    mining: Mining | None = None
    witnesses: tuple[Witness, ...] = ()
    verdict: Judged
    strict: bool = False
    exit_code: int
    seconds: dict[str, float] = Field(default_factory=dict)
