"""Training a plan's model: built, distilled from the original, judged on validation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from mpo.optimizer.objective import Objective, distil
from mpo.optimizer.quality import evaluate, predictor
from mpo.optimizer.rates import choose_rate
from mpo.optimizer.recover import Judge, Schedule, recover
from mpo.optimizer.unpruned import Weights
from mpo.pipeline.compensating import cut_model
from mpo.pipeline.context import Context
from mpo.pipeline.fingerprints import fingerprint_model
from mpo.pipeline.shipping import shipped_quality
from mpo.pipeline.snapshots import FolderKeeper
from mpo.records import Compensation, PlanCandidate, Quality, Recovery

UNTOUCHED = "nothing was removed, so nothing was trained"


def tried(
    context: Context,
    candidate: PlanCandidate,
    original: Quality,
    schedule: Schedule,
    start: Weights | None = None,
) -> tuple[nn.Module, PlanCandidate, Recovery]:
    """A plan's model after training, and the plan with the quality of what would be shipped.

    Args:
        start: weights to begin with; the original's without the removed blocks when None.
    """
    model, story = train(context, candidate, original, schedule, start)
    quality = story.after
    if candidate.precision != "fp32":
        quality = shipped_quality(context, model, candidate.precision).value
    return model, candidate.model_copy(update={"recovered_quality": quality}), story


def first_rate(context: Context, candidates: Sequence[PlanCandidate]) -> float | None:
    """The learning rate, chosen once on the first plan that removes something; None when nothing
    is trained."""
    removed = next((one.removed for one in candidates if one.removed), ())
    recipe = context.recipe
    if recipe.epochs == 0 or not recipe.finetune or not removed:
        return None
    model, _, _ = cut_model(context, removed)
    objective = objective_of(context)
    splits = context.splits()
    return choose_rate(model, objective, splits.train, splits.validation, recipe.seed)


def train(
    context: Context,
    candidate: PlanCandidate,
    original: Quality,
    schedule: Schedule,
    start: Weights | None = None,
) -> tuple[nn.Module, Recovery]:
    """Build a plan's model, make up for what went, and fine-tune it by distillation from the
    original, unless the recipe wants no training; where nothing is removed there is nothing to
    recover."""
    if not candidate.removed:
        value = original.value
        story = Recovery(
            epochs=0, best_epoch=0, before=value, after=value, original=value, note=UNTOUCHED
        )
        return copy.deepcopy(context.original), story
    model, _, made_up = cut_model(context, candidate.removed, start)
    told = identity(candidate, schedule)
    if start is not None:
        told["start"] = fingerprint_model(model)
    if not context.recipe.finetune:
        schedule = replace(schedule, rate=None, epochs=0)
    story = recover(
        model,
        objective_of(context),
        context.splits().train,
        judge_on(context),
        original,
        schedule,
        context.progress,
        FolderKeeper(context.folder, told),
    )
    return model, with_compensation(context, candidate, story, made_up, start)


def with_compensation(
    context: Context,
    candidate: PlanCandidate,
    story: Recovery,
    made_up: Compensation | None,
    start: Weights | None,
) -> Recovery:
    """The record of a recovery with what was made up for before it, and the quality before that."""
    if made_up is None or not made_up.steps:
        return story.model_copy(update={"compensation": made_up})
    bare = context.without(candidate.removed)
    if start is not None:
        bare.load_state_dict(dict(start))
    known = {"quality_before": judge_on(context)(bare).value, "quality_after": story.before}
    return story.model_copy(update={"compensation": made_up.model_copy(update=known)})


def identity(candidate: PlanCandidate, schedule: Schedule) -> dict[str, Any]:
    """What tells one training of a run from another; precision comes after training."""
    told = {key: value for key, value in vars(schedule).items() if key != "stop"}
    return {"removed": candidate.removed, **told}


def objective_of(context: Context) -> Objective:
    """What recovery minimises: distillation from a copy of the original."""
    near = context.recipe.distil == "boundary"
    return distil(context.subject, copy.deepcopy(context.original), boundary=near)


def judge_on(context: Context) -> Judge:
    """A function that gives a model's quality on the validation split."""
    validation = context.splits().validation
    reference = predictor(context.original)

    def judge(model: nn.Module) -> Quality:
        predict = predictor(model)
        return evaluate(predict, context.subject, validation, reference, interval=False)

    return judge
