"""What is asked: bounds on a metric, and how they came out."""

from __future__ import annotations

from typing import Literal

from mpo.records.base import Record

Metric = Literal["size_bytes", "memory_bytes", "params", "macs", "latency_p50_ms", "latency_p90_ms"]


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
    """A budget beside the figure measured on one target; bytes of the file, parameters and MACs
    are the same on all, and are told of the first."""

    text: str
    target: str
    metric: Metric
    limit: float
    measured: float
    met: bool
