"""What flows between the parts: frozen, JSON-able records with units in their field names.

A record holds what was measured or decided; nothing is rounded here (render does that), and none
holds a torch object. The report's schema is `mpo.report/1`, made from `Report` and shipped as
`schemas/report.json`.
"""

from mpo.records.base import Document, Record
from mpo.records.blocks import Analysis, Block, Cluster, Harm
from mpo.records.budgets import Budget, BudgetResult, Metric
from mpo.records.devices import Environment, SessionOptions
from mpo.records.figures import (
    Artifact,
    Latency,
    ModelFigures,
    Parity,
    Quality,
    Ratio,
    Ratios,
    Recovery,
)
from mpo.records.plans import Plan, PlanCandidate
from mpo.records.reports import Report

__all__ = [
    "Analysis",
    "Artifact",
    "Block",
    "Budget",
    "BudgetResult",
    "Cluster",
    "Document",
    "Environment",
    "Harm",
    "Latency",
    "Metric",
    "ModelFigures",
    "Parity",
    "Plan",
    "PlanCandidate",
    "Quality",
    "Ratio",
    "Ratios",
    "Record",
    "Recovery",
    "Report",
    "SessionOptions",
]
