"""The story of a run: original, analysis, plan, recovery, proof."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx
from torch import nn

from mpo.errors import InfeasibleError, UsageError
from mpo.exporters.external import write_external
from mpo.pipeline.contract.guard import stage_contract
from mpo.pipeline.export.stage import export_formats, wanted_formats
from mpo.pipeline.optimize.doubts import doubts, tell_doubts
from mpo.pipeline.optimize.finishing import finish
from mpo.pipeline.optimize.paper import paper_run
from mpo.pipeline.optimize.recovery import Trained, recovered
from mpo.pipeline.plan.combining import combined_plan, posed
from mpo.pipeline.plan.helping import with_precisions
from mpo.pipeline.plan.planning import make_plan
from mpo.pipeline.plan.table import cost_tables
from mpo.pipeline.run.acceptance import stage_acceptance
from mpo.pipeline.run.analysis import analyze, nothing_removable
from mpo.pipeline.run.budgets import all_hold
from mpo.pipeline.run.context import Context
from mpo.pipeline.run.measuring import FIGURES, ORIGINAL, Measured, measure_model
from mpo.pipeline.run.proof import (
    OPTIMIZED,
    Outcome,
    empty_plan,
    make_report,
    pair_ratios,
)
from mpo.pipeline.run.rebuilt import plan_digest
from mpo.pipeline.run.saved import as_text, read, save
from mpo.pipeline.run.sessions import with_sessions
from mpo.pipeline.run.shipping import require_data
from mpo.pipeline.run.steady import steady_torch
from mpo.records import Analysis, Plan, Report

STAGE_ORIGINAL = "original"
SPARE = 1.3  # of the time that the end of a run is expected to take


def tell(context: Context) -> Report:
    """Run every stage that the folder does not hold yet and return the report.

    Raises:
        UsageError: no budget for a method that needs one, a broken subject, int8 without data.
        InfeasibleError: no plan holds the budgets; the closest one is kept as plan.json.
        MpoError: an exported file is not in parity with its model.
    """
    if not context.recipe.budget and context.recipe.method == "mpruner":
        raise UsageError(
            "No budget is given.",
            hint="Add --budget 50MB (or 12ms, 50%, params=500k), or use --method mpruner-paper.",
        )
    wanted_formats(context)
    result = context.folder.path / OPTIMIZED
    with steady_torch():
        require_data(context, context.recipe.precision)
        _ = context.outputs
        context = with_sessions(context)
        original = stage_original(context)
        context.deadline.keep(reserve(context))
        if already_met(context, original):
            hand_out_original(context)
            formats = export_formats(context, result)
            return make_report(context, Outcome(original, original, formats=formats))
        analysis = analyze(context)
        model, plan, recovery = decide(context, analysis, original)
        folder = context.folder.path
        optimized = stage_result(context, model, original, plan)
        ratios = pair_ratios(context, folder / ORIGINAL, result)
        contract = stage_contract(context, model, plan.precision)
        acceptance = stage_acceptance(context, plan, result)
        formats = export_formats(context, result, plan.precision)
    outcome = Outcome(
        original, optimized, ratios, analysis, plan, recovery, contract, formats, acceptance
    )
    return make_report(context, outcome)


def prepare(context: Context) -> None:
    """The stages that a plan starts from, as `tell` makes them: the original measured, and unless
    it holds every budget, analysis and cost tables.

    Raises:
        UsageError: a broken subject.
        InfeasibleError: no block can go.
    """
    with steady_torch():
        require_data(context, context.recipe.precision)
        _ = context.outputs
        context = with_sessions(context)
        original = stage_original(context)
        if already_met(context, original):
            return
        analysis = analyze(context)
        if context.recipe.precision != "fp32":
            posed(context, analysis, original)
            return
        require_blocks(analysis)
        metrics = {budget.metric for budget in context.recipe.budgets()}
        cost_tables(context, analysis, original, metrics)


def reserve(context: Context) -> float:
    """Seconds that exporting and measuring the result will take, as they took for the original,
    and comparing both models."""
    alone = context.folder.seconds[STAGE_ORIGINAL]
    return SPARE * (alone + context.measuring.pair * len(context.places))


def hand_out_original(context: Context) -> None:
    """The original's file under the name of the result, with weights of its own if they lie
    beside."""
    if not context.external_weights:
        context.folder.place(context.folder.path / ORIGINAL, OPTIMIZED)
        return
    with tempfile.TemporaryDirectory(prefix="mpo-original-") as name:
        written = write_external(onnx.load(context.folder.path / ORIGINAL), Path(name) / OPTIMIZED)
        for file in written:
            context.folder.place(file.path, file.path.name)


def already_met(context: Context, original: Measured) -> bool:
    """True when there are budgets and the original holds all of them, as it is or in any
    precision; one that is asked for by name is made all the same."""
    if context.recipe.precision not in ("fp32", "auto"):
        return False
    return all_hold(context.recipe.budgets(), original.costs(), context.targets)


def decide(context: Context, analysis: Analysis, original: Measured) -> Trained:
    """The pruned and trained model by the recipe's method."""
    if context.recipe.method == "mpruner-paper":
        require_blocks(analysis)
        return paper_run(context, analysis, original)
    try:
        plan = planned(context, analysis, original)
    except InfeasibleError as error:
        closest = {"removed": error.removed, "notes": (error.message,)}
        plan = empty_plan(context).model_copy(update=closest)
        context.folder.write("plan.json", as_text(plan))
        raise with_precisions(context, error, original) from error
    return recovered(context, plan, original)


def planned(context: Context, analysis: Analysis, original: Measured) -> Plan:
    """The plan, in the precision that is asked for or in the best one."""
    if context.recipe.precision != "fp32":
        return combined_plan(context, posed(context, analysis, original), original)
    require_blocks(analysis)
    return make_plan(context, analysis, original)


def require_blocks(analysis: Analysis) -> None:
    """Refuse a model without a single removable block.

    Raises:
        InfeasibleError: as said.
    """
    if not analysis.harms:
        raise nothing_removable(analysis.blocks)


def stage_original(context: Context) -> Measured:
    """The original exported in fp32 and measured, made once; it owes wishes nothing."""

    def make(folder: Path) -> Measured:
        path = folder / ORIGINAL
        made = measure_model(context, context.original, path, "original", None, context.facts())
        told = (*made.warnings, *doubts(context, made.validation))
        return made.model_copy(update={"warnings": told})

    made = _staged(context, STAGE_ORIGINAL, context.base_key, ORIGINAL, make)
    tell_doubts(made.warnings)
    return made


def stage_result(context: Context, model: nn.Module, original: Measured, plan: Plan) -> Measured:
    """The result exported in the plan's precision and measured, made once."""

    def make(folder: Path) -> Measured:
        metadata = context.facts(plan_digest(plan))
        found = finish(context, model, folder, original, plan.precision, metadata)
        context.last_export.drop()  # nothing is made of this model any more
        return found

    return _staged(context, "optimized", context.key, OPTIMIZED, make)


def _staged(
    context: Context, name: str, key: object, file: str, measure: Callable[[Path], Measured]
) -> Measured:
    """One stage of a file and its figures; the file stands at the run's top too."""
    folder = context.folder.stage(name, key, lambda new: save(measure(new), new / FIGURES))
    for made in sorted(folder.glob(f"{file}*")):  # the graph, and its weights when they lie beside
        context.folder.place(made, made.name)
    return read(Measured, folder / FIGURES)
