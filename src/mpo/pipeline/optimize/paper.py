"""The published algorithm in a run: analysis, thinning, retraining, accept or roll back."""

from __future__ import annotations

from torch import nn

from mpo.errors import UsageError
from mpo.optimizer.analysis.cka import Similarity, measure_similarity
from mpo.optimizer.analysis.harm import HarmMeter
from mpo.optimizer.blocks.surgery import remove_blocks
from mpo.optimizer.data.batches import limit
from mpo.optimizer.training.objective import task_only
from mpo.optimizer.training.paper import run_paper
from mpo.optimizer.training.rates import choose_rate
from mpo.optimizer.training.recover import Schedule, recover
from mpo.pipeline.optimize.recovery import Chosen, Trained, kept
from mpo.pipeline.optimize.training import judge_on
from mpo.pipeline.run.analysis import HARM_EXAMPLES
from mpo.pipeline.run.context import Context
from mpo.pipeline.run.measuring import Measured
from mpo.records import Analysis, Plan, PlanCandidate, Precision, Quality, Recovery

KEPT = Recovery(
    epochs=0, best_epoch=0, before=0.0, after=0.0, original=0.0, note="nothing accepted"
)


def paper_run(context: Context, analysis: Analysis, original: Measured) -> Trained:
    """The model that the published loop ends with, made once and kept in the run's folder."""
    return kept(context, lambda: thin(context, analysis, original.validation))


def thin(context: Context, analysis: Analysis, original: Quality) -> Chosen:
    """Run the loop and take the removed blocks out.

    Raises:
        UsageError: data without targets, which the published retraining needs.
    """
    if context.batch.targets is None:
        raise UsageError(
            "mpruner-paper retrains with labels, and the data has none.",
            hint="Give (inputs, targets), or use --method mpruner, which distils.",
        )
    _ = context.blocks
    blocks = [block for block in analysis.blocks if block.name in set(analysis.names)]
    result = run_paper(
        context.original,
        blocks,
        lambda model, names: _similarity(context, model, names),
        lambda model: _retrain(context, model, original),
        original,
        threshold=analysis.threshold,
        max_drop=context.recipe.allowed_drop(),
    )
    model = remove_blocks(result.model, result.removed)
    batches = limit(context.calibration(), HARM_EXAMPLES)
    harm = HarmMeter(context.original, batches, context.kind).kl(result.removed)
    story = result.recovery or KEPT.model_copy(
        update={"before": original.value, "after": original.value, "original": original.value}
    )
    asked = context.recipe.precision
    precision: Precision = "fp32" if asked == "auto" else asked
    candidate = PlanCandidate(removed=result.removed, harm=harm, joint_kl=harm, precision=precision)
    plan = Plan(
        method=context.recipe.method,
        subject=context.subject.name,
        seed=context.recipe.seed,
        removed=result.removed,
        harm=harm,
        precision=precision,
        alternatives=(candidate,),
        notes=result.notes,
    )
    return Chosen(model, plan, story)


def _similarity(context: Context, model: nn.Module, names: tuple[str, ...]) -> Similarity:
    recipe = context.recipe
    return measure_similarity(
        model, names, context.calibration(), limit_examples=recipe.calibration, seed=recipe.seed
    )


def _retrain(context: Context, model: nn.Module, original: Quality) -> tuple[Quality, Recovery]:
    splits, seed = context.splits(), context.recipe.seed
    objective, judge = task_only(context.subject), judge_on(context)
    rate = None
    if context.recipe.epochs:
        rate = choose_rate(model, objective, splits.train, splits.validation, seed)
    schedule = Schedule(rate, context.recipe.epochs, seed, accumulate=context.recipe.accumulate)
    train = context.splits().train
    story = recover(model, objective, train, judge, original, schedule, context.progress)
    return judge(model), story
