"""The story of a run: original, analysis, plan, recovery, proof."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from mpo.errors import InfeasibleError, UsageError
from mpo.pipeline.analysis import analyze, nothing_removable
from mpo.pipeline.budgets import judge
from mpo.pipeline.context import Context
from mpo.pipeline.measuring import Measured, measure_model
from mpo.pipeline.paper import paper_run
from mpo.pipeline.planning import make_plan
from mpo.pipeline.proof import (
    OPTIMIZED,
    ORIGINAL,
    Outcome,
    empty_plan,
    make_report,
    pair_ratio,
)
from mpo.pipeline.recovery import Trained, recovered
from mpo.pipeline.saved import as_text, read, save
from mpo.profiles.device import physical_cores
from mpo.records import Analysis, Report

FIGURES = "figures.json"


def tell(context: Context) -> Report:
    """Run every stage that the folder does not hold yet and return the report.

    Raises:
        UsageError: no budget for a method that needs one, or a broken subject.
        InfeasibleError: no plan holds the budgets; the closest one is kept as plan.json.
        MpoError: an exported file is not in parity with its model.
    """
    if not context.recipe.budget and context.recipe.method == "mpruner":
        raise UsageError(
            "No budget is given.",
            hint="Add --budget 50MB (or 12ms, 50%, params=500k), or use --method mpruner-paper.",
        )
    with steady_torch():
        _ = context.outputs
        original = stage_model(context, context.original, "original", ORIGINAL)
        if already_met(context, original):
            context.folder.place(context.folder.path / ORIGINAL, OPTIMIZED)
            return make_report(context, Outcome(original, original))
        analysis = analyze(context)
        model, plan, recovery = decide(context, analysis, original)
        optimized = stage_model(context, model, "optimized", OPTIMIZED)
        folder = context.folder.path
        ratio = pair_ratio(context, folder / ORIGINAL, folder / OPTIMIZED)
    return make_report(context, Outcome(original, optimized, ratio, analysis, plan, recovery))


def already_met(context: Context, original: Measured) -> bool:
    """True when there are budgets and the original holds all of them."""
    results = judge(context.recipe.budgets(), original.figures, original.figures)
    return bool(results) and all(result.met for result in results)


@contextlib.contextmanager
def steady_torch() -> Iterator[None]:
    """torch on the physical cores this process may use: the same count gives the same sums.

    The attention fast path is off, because it hands nested tensors from layer to layer, which have
    no shape to compare.
    """
    threads, fast = torch.get_num_threads(), torch.backends.mha.get_fastpath_enabled()
    torch.set_num_threads(physical_cores())
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.mha.set_fastpath_enabled(fast)


def decide(context: Context, analysis: Analysis, original: Measured) -> Trained:
    """The pruned and trained model by the recipe's method."""
    if not any(block.removable for block in analysis.blocks):
        raise nothing_removable(analysis.blocks)
    if context.recipe.method == "mpruner-paper":
        return paper_run(context, analysis, original)
    try:
        plan = make_plan(context, analysis, original)
    except InfeasibleError as error:
        closest = {"removed": error.removed, "notes": (error.message,)}
        plan = empty_plan(context).model_copy(update=closest)
        context.folder.write("plan.json", as_text(plan))
        raise
    return recovered(context, plan, original)


def stage_model(context: Context, model: nn.Module, name: str, file: str) -> Measured:
    """One model exported and measured, made once; its ONNX file stands at the run's top."""

    def make(folder: Path) -> None:
        save(measure_model(context, model, folder / file, name), folder / FIGURES)

    folder = context.folder.stage(name, context.key, make)
    context.folder.place(folder / file, file)
    return read(Measured, folder / FIGURES)
