"""The planner's problem of a run: what is bounded, what each block is worth, how far predictions
can be off. Pure: made from saved records, so that a dry run needs no model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mpo.optimizer.planning.explain import explain
from mpo.optimizer.planning.front import front
from mpo.optimizer.planning.problem import Item, Limit, Pairs, keeps_clusters
from mpo.pipeline.run.analysis import near_pairs
from mpo.pipeline.run.budgets import Costs, key_of, metric_of, placed
from mpo.records import (
    Analysis,
    Budget,
    CostTable,
    Fit,
    Front,
    Metric,
    PlanCandidate,
    PlannedBudget,
    Precision,
    Reason,
)

# Planned this far under a limit that is measured with noise, so that the final figure holds too.
MARGIN: dict[Metric, float] = {
    "latency_p50_ms": 0.03,
    "latency_p90_ms": 0.05,
    "memory_bytes": 0.01,
}
LARGEST_MARGIN = (
    0.15  # of the original: a table that is further off than this is corrected by measuring instead
)


@dataclass(frozen=True)
class Problem:
    """What the planner works on.

    Attributes:
        analysis: blocks, clusters, harms.
        tables: the cost table of each target, by its name; the first target's is under "".
        bounds: the limit of each bounded key (see pipeline/run/budgets.py).
        precision: of the files that the tables were measured on, and of the plan's.
    """

    analysis: Analysis
    tables: Mapping[str, CostTable]
    bounds: Costs
    precision: Precision = "fp32"

    @property
    def clusters(self) -> tuple[tuple[str, ...], ...]:
        """Groups of alike blocks of which one stays, of blocks that may go at all."""
        free = {harm.name for harm in self.analysis.harms}
        members = (tuple(x for x in c.members if x in free) for c in self.analysis.clusters)
        return tuple(group for group in members if len(group) > 1)

    @property
    def pairs(self) -> Pairs:
        """Penalties for removing two near-copies."""
        return near_pairs(self.analysis)

    @property
    def additive(self) -> bool:
        """Whether every target's table may be trusted to rank plans."""
        return all(table.additive for table in self.tables.values())

    def items(self) -> list[Item]:
        """The removable blocks with their harm and what each takes off every bounded key."""
        worth: dict[str, Costs] = {harm.name: {} for harm in self.analysis.harms}
        for label, table in self.tables.items():
            for name, savings in table.savings().items():
                for metric, saved in savings.items():
                    worth[name].setdefault(key_of(metric, label), saved)
        groups = {block.name: block.group for block in self.analysis.blocks}
        return [
            Item(harm.name, harm.kl, worth[harm.name], group=groups[harm.name])
            for harm in self.analysis.harms
        ]

    def every_cost(self, removed: Sequence[str]) -> Costs:
        """What the tables say of the model without these blocks."""
        costs: Costs = {}
        for label, table in self.tables.items():
            for metric, cost in table.predict(removed).items():
                costs.setdefault(key_of(metric, label), cost)
        return costs

    def predicted(self, removed: Sequence[str]) -> Costs:
        """The same for the bounded keys."""
        costs = self.every_cost(removed)
        return {key: costs[key] for key in self.bounds}

    def targets(self) -> Costs:
        """The bounds less the margin for the noise of the final measurement."""
        return {
            key: bound * (1 - MARGIN.get(metric_of(key), 0.0)) for key, bound in self.bounds.items()
        }

    def safe_targets(self) -> Costs:
        """The bounds less what the tables may be off by: what a first proposal must hold."""
        off = self.off()
        return {key: min(aim, self.bounds[key] - off[key]) for key, aim in self.targets().items()}

    def off(self) -> Costs:
        """What the prediction of each bounded key may be off by, in its own unit."""
        fits, whole = self.fits(), self.predicted(())
        return {key: min(fits[key].margin, LARGEST_MARGIN) * whole[key] for key in self.bounds}

    def limits(self, targets: Mapping[str, float]) -> list[Limit]:
        """These targets as the planner takes them."""
        full = self.predicted(())
        return [Limit(key, full[key], bound) for key, bound in targets.items()]

    def miss(self, candidate: PlanCandidate) -> float:
        """How far a measured plan is from the bounds."""
        return excess(candidate, self.bounds)

    def with_tables(self, tables: Mapping[str, CostTable]) -> Problem:
        """The same problem with tables that know more."""
        return replace(self, tables=tables)

    def fits(self) -> dict[str, Fit]:
        """How each key is predicted; keys that a table does not know are missing."""
        found: dict[str, Fit] = {}
        for label, table in self.tables.items():
            for metric, fit in table.fits.items():
                found.setdefault(key_of(metric, label), fit)
        return found

    def fronts(self, removed: Sequence[str]) -> tuple[Front, ...]:
        """Harm against each cost that the tables know, with the chosen plan's place."""
        costs, clusters = self.every_cost(()), self.kept_clusters(removed)
        return tuple(
            front(self.items(), key, costs[key], removed, self.pairs, clusters=clusters)
            for key in costs
        )

    def reasons(self, removed: Sequence[str], aims: Mapping[str, float]) -> tuple[Reason, ...]:
        """Why each block goes and not its neighbour; an exact solve for each."""
        clusters = self.kept_clusters(removed)
        return explain(self.items(), self.limits(aims), self.pairs, clusters, removed)

    def kept_clusters(self, removed: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """The clusters, or none where the plan could only hold by emptying one."""
        return self.clusters if keeps_clusters(self.clusters, removed) else ()

    def notes(self) -> list[str]:
        """What a reader must know of the tables."""
        several = len(self.tables) > 1
        return [
            f"{table.target}: {warning}" if several else warning
            for table in self.tables.values()
            for warning in table.warnings
        ]

    def planned(
        self, budgets: Sequence[Budget], removed: Sequence[str], original: Mapping[str, float]
    ) -> tuple[PlannedBudget, ...]:
        """Every budget beside what the tables predict."""
        targets = [table.target for table in self.tables.values()]
        predicted, off = self.predicted(removed), self.off()
        return tuple(
            PlannedBudget(
                text=budget.text,
                target=target,
                metric=budget.metric,
                limit=budget.resolve(original[key]),
                predicted=predicted[key],
                margin=off[key],
            )
            for budget, target, key in placed(budgets, targets)
        )


def excess(candidate: PlanCandidate, bounds: Mapping[str, float]) -> float:
    """The worst ratio of a figure to its bound: 1 or less when all hold."""
    return max(_over(candidate.costs[key], bound) for key, bound in bounds.items())


def _over(cost: float, bound: float) -> float:
    if bound > 0:
        return cost / bound
    return 1.0 if cost <= bound else math.inf
