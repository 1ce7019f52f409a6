"""The proof of a run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mpo.records.acceptance import Acceptance
from mpo.records.base import Document, Record
from mpo.records.blocks import Analysis
from mpo.records.budgets import BudgetResult
from mpo.records.contracts import Contract
from mpo.records.conversions import Conversion
from mpo.records.devices import Environment
from mpo.records.engines import Exported
from mpo.records.figures import Artifact, ModelFigures, OnTarget, Parity, Ratio, Ratios, Recovery
from mpo.records.plans import Plan


class TargetReport(Record):
    """Both models on one more target than the first."""

    original: OnTarget
    optimized: OnTarget
    ratio: Ratio
    environment: Environment


class Report(Document):
    """The proof: what was asked, what was done, and both models as measured; `acceptance` is what
    the guard said on validation, `conversion` tells how the optimized file came to another
    precision than fp32."""

    schema_: Literal["mpo.report/1"] = Field("mpo.report/1", alias="schema")
    tool: dict[str, str]
    subject: str
    target: str
    method: str
    seed: int
    budgets: tuple[BudgetResult, ...]
    met: bool
    status: Literal["met", "already-met", "infeasible", "below-floor", "contract-broken"]
    max_drop: float
    original: ModelFigures
    optimized: ModelFigures
    ratio: Ratios
    blocks: int
    removed: tuple[str, ...]
    parity: dict[str, Parity]
    artifacts: tuple[Artifact, ...]
    formats: tuple[Exported, ...] = ()
    recovery: Recovery | None
    acceptance: Acceptance | None = None
    analysis: Analysis
    plan: Plan
    environment: Environment
    contract: Contract | None = None
    others: tuple[TargetReport, ...] = ()
    conversion: Conversion | None = None
    seconds: dict[str, float]
    warnings: tuple[str, ...]
