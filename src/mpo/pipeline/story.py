"""The story of a run: original, analysis, plan, recovery, proof."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from mpo.errors import UsageError
from mpo.pipeline.analysis import analyze
from mpo.pipeline.budgets import judge
from mpo.pipeline.context import Context
from mpo.pipeline.measuring import Measured, measure_model
from mpo.pipeline.paper import paper_run
from mpo.pipeline.planning import make_plan
from mpo.pipeline.proof import OPTIMIZED, ORIGINAL, Outcome, make_report, pair_ratio
from mpo.pipeline.recovery import recovered
from mpo.pipeline.saved import read, save
from mpo.profiles.device import physical_cores
from mpo.records import Analysis, Plan, Recovery, Report
from mpo.timing import Stages

FIGURES = "figures.json"


def tell(context: Context) -> Report:
    """Run every stage that the folder does not hold yet and return the report.

    Raises:
        UsageError: no budget for a method that needs one, or a broken subject.
        InfeasibleError: no plan holds the budgets.
    """
    with one_thread_a_core():
        return _tell(context)


def _tell(context: Context) -> Report:
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
        return make_report(context, Outcome(original, original), clock.seconds)
    with clock.timed("analysis"):
        analysis = analyze(context)
    model, plan, recovery = decide(context, analysis, original, clock)
    with clock.timed("optimized"):
        optimized = stage_model(context, model, "optimized", OPTIMIZED)
    with clock.timed("pair"):
        folder = context.folder.path
        ratio = pair_ratio(context, folder / ORIGINAL, folder / OPTIMIZED)
    outcome = Outcome(original, optimized, ratio, analysis, plan, recovery)
    return make_report(context, outcome, clock.seconds)


@contextlib.contextmanager
def one_thread_a_core() -> Iterator[None]:
    """torch on the physical cores this process may use; the same count gives the same sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(physical_cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
