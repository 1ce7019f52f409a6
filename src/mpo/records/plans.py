"""What will be removed, and what else was considered."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mpo.records.base import Document, Record


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


class Plan(Document):
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
