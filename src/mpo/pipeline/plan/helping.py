"""What another precision would do for a budget that cannot be met: built and measured."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mpo.errors import InfeasibleError, MpoError
from mpo.pipeline.plan.bases import AUTO
from mpo.pipeline.plan.infeasible import figures
from mpo.pipeline.run.budgets import COUNTED, limits
from mpo.pipeline.run.context import Context
from mpo.pipeline.run.measuring import Measured, quick_figures
from mpo.records import Precision


def with_precisions(
    context: Context, error: InfeasibleError, original: Measured
) -> InfeasibleError:
    """The error, whose hint names the precisions in which its closest plan was measured to hold
    every budget."""
    budgets = context.recipe.budgets()
    if context.recipe.precision == "auto" or {budget.metric for budget in budgets} <= COUNTED:
        return error
    bounds = limits(budgets, original.costs(), context.targets)
    told = []
    for precision in ("fp32", *AUTO):
        if precision == context.recipe.precision:
            continue
        costs = _measured(context, error.removed, original, bounds, precision)
        if costs and all(costs[key] <= bound for key, bound in bounds.items()):
            told.append(f"--precision {precision} ({figures(costs)})")
    if not told:
        return error
    same = "With the same blocks gone" if error.removed else "Without any removal"
    hint = (
        f"{same} the budget was measured to hold with {' or '.join(told)}; --precision auto "
        f"finds the least harmful plan. {error.hint}"
    )
    return InfeasibleError(error.message, hint=hint, removed=error.removed)


def _measured(
    context: Context,
    removed: tuple[str, ...],
    original: Measured,
    bounds: dict[str, float],
    precision: Precision,
) -> dict[str, float]:
    """The bounded figures of the model without these blocks; none when there is no such file."""
    try:
        model = context.without(removed) if removed else context.original
        with tempfile.TemporaryDirectory(prefix="mpo-help-") as folder:
            path = Path(folder) / "model.onnx"
            return quick_figures(context, model, path, original, bounds.keys(), precision)
    except MpoError:
        return {}
