"""Training a plan's model: built, distilled from the original, judged on validation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from mpo.optimizer.objective import Objective, distil
from mpo.optimizer.quality import evaluate, predictor
from mpo.optimizer.rates import choose_rate
from mpo.optimizer.recover import Judge, Schedule, recover
from mpo.pipeline.agreeing import agreed_judge, agreed_schedule, as_words
from mpo.pipeline.context import Context
from mpo.pipeline.shipping import shipped_quality
from mpo.pipeline.snapshots import FolderKeeper
from mpo.records import PlanCandidate, Quality, Recovery

UNTOUCHED = "nothing was removed, so nothing was trained"


def tried(
    context: Context, candidate: PlanCandidate, original: Quality, schedule: Schedule
) -> tuple[nn.Module, PlanCandidate, Recovery]:
    """A plan's model after training, and the plan with the quality of what would be shipped."""
    model, story = train(context, candidate, original, schedule)
    quality = story.after
    if candidate.precision != "fp32":
        quality = shipped_quality(context, model, candidate.precision).value
    return model, candidate.model_copy(update={"recovered_quality": quality}), story


def first_rate(context: Context, candidates: Sequence[PlanCandidate]) -> float | None:
    """The learning rate, chosen once on the first plan that removes something; None when nothing
    is trained."""
    removed = next((one.removed for one in candidates if one.removed), ())
    if context.recipe.epochs == 0 or not removed:
        return None
    model = context.without(removed)
    objective = objective_of(context)
    splits = context.splits()
    return choose_rate(model, objective, splits.train, splits.validation, context.recipe.seed)


def train(
    context: Context,
    candidate: PlanCandidate,
    original: Quality,
    schedule: Schedule,
) -> tuple[nn.Module, Recovery]:
    """Build a plan's model and fine-tune it by distillation from the original; where nothing is
    removed there is nothing to recover."""
    if not candidate.removed:
        value = original.value
        story = Recovery(
            epochs=0, best_epoch=0, before=value, after=value, original=value, note=UNTOUCHED
        )
        return copy.deepcopy(context.original), story
    crew = context.crew
    words = (candidate.model_dump(mode="json"), original.model_dump(mode="json"))
    context.announce("train", candidate=words[0], original=words[1], schedule=as_words(schedule))
    model = context.without(candidate.removed)
    story = recover(
        model,
        objective_of(context),
        context.splits().train,
        agreed_judge(judge_on(context), crew),
        original,
        agreed_schedule(schedule, crew),
        context.progress,
        keeper_of(context, candidate, schedule),
        crew,
    )
    return model, story


def keeper_of(
    context: Context, candidate: PlanCandidate, schedule: Schedule
) -> FolderKeeper | None:
    """Where snapshots of a training go; several processes keep none and train anew."""
    if context.crew.size > 1:
        return None
    return FolderKeeper(context.folder, identity(candidate, schedule))


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
