"""What will be removed, and what else was considered."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mpo.records.acceptance import Acceptance, Round
from mpo.records.base import Document, Record
from mpo.records.budgets import Metric
from mpo.records.conversions import Precision


class PlanCandidate(Record):
    """A set of blocks to remove with what it is predicted to do.

    `harm` is surrogate harm (additive plus pairwise) until `joint_kl` is measured by a forward
    pass with all of them bypassed; `costs` are the table's predictions of the pruned model per
    metric, until `measured` tells that it was built and measured on the targets. In another
    `precision` than fp32, measured harm, costs and quality are those of the converted file.
    `acceptance` is what the guard said after full recovery, `rounds` how it came there when it was
    carried out in several.
    """

    removed: tuple[str, ...]
    harm: float
    joint_kl: float | None = None
    costs: dict[str, float] = Field(default_factory=dict)
    measured: bool = False
    recovered_quality: float | None = None
    acceptance: Acceptance | None = None
    rounds: tuple[Round, ...] = ()
    precision: Precision = "fp32"


class PrecisionChoice(Record):
    """One precision that was weighed.

    Attributes:
        harm: of the precision alone, without any removal: the output's KL divergence (or lost share
            of variance) on calibration data.
        total: harm of its best plan, removals included; None when it has none.
        removed: by that plan.
        note: why it has none, or was not looked at further.
    """

    precision: Precision
    harm: float
    total: float | None = None
    removed: tuple[str, ...] = ()
    note: str = ""


class PlannedBudget(Record):
    """A budget beside what the cost table predicts of the plan; `margin`, in the metric's unit, is
    what the prediction may be off by."""

    text: str
    target: str
    metric: Metric
    limit: float
    predicted: float
    margin: float


class FrontPoint(Record):
    """A set of blocks to remove, its surrogate harm, and the predicted cost in one metric."""

    removed: tuple[str, ...]
    harm: float
    cost: float


class Front(Record):
    """What each level of one cost takes at least in surrogate harm.

    `points` are exact for the surrogate, none beaten in both, in order of falling cost. `chosen`
    is where the chosen plan lies: on the front, or above it when other budgets, or the joint harm
    that was measured, decided; `least` is the lowest harm of any set that costs no more than it.
    """

    metric: str
    points: tuple[FrontPoint, ...]
    chosen: FrontPoint | None = None
    least: float | None = None


class Reason(Record):
    """Why one block goes, or stays, in a plan.

    `harm_difference` is the surrogate harm of the best plan that holds the budgets with this block
    decided the other way, less the chosen plan's; None when there is no such plan. `instead` are
    the blocks that this other plan removes in the place of a block that goes, or keeps in the place
    of a block that stays.
    """

    block: str
    removed: bool
    text: str
    harm_difference: float | None = None
    instead: tuple[str, ...] = ()


class Plan(Document):
    """What will be removed, why, and what else was considered: printable, diffable, saved as
    plan.json. `choices` are the precisions that were weighed, the best one first; `cut` is what
    --time-limit kept from being done."""

    schema_: Literal["mpo.plan/1"] = Field("mpo.plan/1", alias="schema")
    method: str
    subject: str
    seed: int
    removed: tuple[str, ...]
    harm: float
    precision: Precision = "fp32"
    choices: tuple[PrecisionChoice, ...] = ()
    budgets: tuple[PlannedBudget, ...] = ()
    alternatives: tuple[PlanCandidate, ...] = ()
    fronts: tuple[Front, ...] = ()
    reasons: tuple[Reason, ...] = ()
    cut: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
