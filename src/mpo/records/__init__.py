"""What flows between the parts: frozen, JSON-able records with units in their field names.

A record holds what was measured or decided; nothing is rounded here (render does that), and none
holds a torch object. The report's schema is `mpo.report/1`, made from `Report` and shipped as
`schemas/report.json`.
"""

from mpo.records.base import Document, Record
from mpo.records.bench import (
    Bench,
    BenchComparison,
    BenchInput,
    BenchMemory,
    BenchMetric,
    BenchPlace,
    BenchProcess,
    BenchProtocol,
    BenchRuns,
    BenchSubject,
    BenchVerdict,
    HistoryEntry,
    Which,
)
from mpo.records.blocks import Analysis, Block, Cluster, Harm
from mpo.records.budgets import Budget, BudgetResult, Metric
from mpo.records.conversions import Conversion, KeptNode, Precision, Runtime
from mpo.records.costs import Anchor, CostTable, Fit, How, Line, UnitCost
from mpo.records.devices import Cpu, Device, Environment, Gpu, Jetson, SessionOptions
from mpo.records.doctor import Advisory, Doctor, Package, Place, Trial
from mpo.records.engines import (
    EngineBackend,
    EngineOptions,
    EngineOutcome,
    EngineResult,
    EngineRun,
    Exported,
    NodeFault,
    ShapeRange,
)
from mpo.records.exports import Export, ExportAxis, Tracer, Trunk
from mpo.records.figures import (
    Artifact,
    Latency,
    ModelFigures,
    OnTarget,
    OutputParity,
    Parity,
    Quality,
    Ratio,
    Ratios,
    Recovery,
)
from mpo.records.plans import Front, FrontPoint, Plan, PlanCandidate, PlannedBudget, Reason
from mpo.records.profiles import (
    Conditions,
    DeviceProfile,
    DeviceWarning,
    Limits,
    Noise,
    Source,
)
from mpo.records.reports import Report, TargetReport
from mpo.records.sessions import SessionChoice, SessionTrial

__all__ = [
    "Advisory",
    "Analysis",
    "Anchor",
    "Artifact",
    "Bench",
    "BenchComparison",
    "BenchInput",
    "BenchMemory",
    "BenchMetric",
    "BenchPlace",
    "BenchProcess",
    "BenchProtocol",
    "BenchRuns",
    "BenchSubject",
    "BenchVerdict",
    "Block",
    "Budget",
    "BudgetResult",
    "Cluster",
    "Conditions",
    "Conversion",
    "CostTable",
    "Cpu",
    "Device",
    "DeviceProfile",
    "DeviceWarning",
    "Doctor",
    "Document",
    "EngineBackend",
    "EngineOptions",
    "EngineOutcome",
    "EngineResult",
    "EngineRun",
    "Environment",
    "Export",
    "ExportAxis",
    "Exported",
    "Fit",
    "Front",
    "FrontPoint",
    "Gpu",
    "Harm",
    "HistoryEntry",
    "How",
    "Jetson",
    "KeptNode",
    "Latency",
    "Limits",
    "Line",
    "Metric",
    "ModelFigures",
    "NodeFault",
    "Noise",
    "OnTarget",
    "OutputParity",
    "Package",
    "Parity",
    "Place",
    "Plan",
    "PlanCandidate",
    "PlannedBudget",
    "Precision",
    "Quality",
    "Ratio",
    "Ratios",
    "Reason",
    "Record",
    "Recovery",
    "Report",
    "Runtime",
    "SessionChoice",
    "SessionOptions",
    "SessionTrial",
    "ShapeRange",
    "Source",
    "TargetReport",
    "Tracer",
    "Trial",
    "Trunk",
    "UnitCost",
    "Which",
]
