"""The story of a run: original, analysis, plan, recovery, proof."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from mpo.errors import UsageError
from mpo.pipeline.analysis import analyze
from mpo.pipeline.budgets import judge
from mpo.pipeline.context import Context
from mpo.pipeline.measuring import Measured, measure_model
from mpo.pipeline.paper import paper_run
from mpo.pipeline.planning import make_plan
from mpo.pipeline.proof import OPTIMIZED, ORIGINAL, SAME, make_report, pair_ratio
from mpo.pipeline.recovery import recovered
from mpo.pipeline.saved import read, save
from mpo.records import Analysis, Plan, Recovery, Report
from mpo.timing import Stages

FIGURES = "figures.json"


def tell(context: Context) -> Report:
    """Run every stage that the folder does not hold yet and return the report.

    Raises:
        UsageError: no budget for a method that needs one, or a broken subject.
        InfeasibleError: no plan holds the budgets.
    """
    budgets, clock = context.recipe.budgets(), Stages()
    if not budgets and context.recipe.method == "mpruner":
        raise UsageError(
            "No budget is given.",
            hint="Add --budget 50MB (or 12ms, 50%, params=500k), or use --method mpruner-paper.",
        )
    _ = context.outputs
    with clock.timed("original"):
        original = stage_model(context, context.original, "original", ORIGINAL)
    if budgets and all(result.met for result in judge(budgets, original.figures, original.figures)):
        return make_report(context, original, original, SAME, clock.seconds)
    with clock.timed("analysis"):
        analysis = analyze(context)
    model, plan, recovery = decide(context, analysis, original, clock)
    with clock.timed("optimized"):
        optimized = stage_model(context, model, "optimized", OPTIMIZED)
    with clock.timed("pair"):
        folder = context.folder.path
        ratio = pair_ratio(context, folder / ORIGINAL, folder / OPTIMIZED)
    return make_report(
        context,
        original,
        optimized,
        ratio,
        clock.seconds,
        analysis=analysis,
        plan=plan,
        recovery=recovery,
    )


def decide(
    context: Context, analysis: Analysis, original: Measured, clock: Stages
) -> tuple[nn.Module, Plan, Recovery]:
    """The pruned and trained model by the recipe's method."""
    if context.recipe.method == "mpruner-paper":
        with clock.timed("paper"):
            return paper_run(context, analysis, original)
    with clock.timed("plan"):
        plan = make_plan(context, analysis, original)
    with clock.timed("recovery"):
        return recovered(context, plan, original)


def stage_model(context: Context, model: nn.Module, name: str, file: str) -> Measured:
    """One model exported and measured, made once; its ONNX file stands at the run's top."""

    def make(folder: Path) -> None:
        save(measure_model(context, model, folder / file, name), folder / FIGURES)

    folder = context.folder.stage(name, context.key, make)
    context.folder.place(folder / file, file)
    return read(Measured, folder / FIGURES)
