"""Training a plan's model: built, distilled from the original, judged on validation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from torch import nn

from mpo.optimizer.blocks.cuts import Cut
from mpo.optimizer.blocks.unpruned import Weights
from mpo.optimizer.data.quality import evaluate, predictor
from mpo.optimizer.ground.randomness import own_randomness
from mpo.optimizer.training.hidden import across, balanced
from mpo.optimizer.training.objective import Objective, distil
from mpo.optimizer.training.rates import choose_rate, helps
from mpo.optimizer.training.recover import Judge, Schedule, recover
from mpo.optimizer.training.shares import evened
from mpo.optimizer.training.together import same_weights
from mpo.pipeline.optimize.agreeing import agreed_judge, agreed_schedule, as_words
from mpo.pipeline.optimize.compensating import cut_model
from mpo.pipeline.run.context import Context
from mpo.pipeline.run.fingerprints import fingerprint_model
from mpo.pipeline.run.shipping import shipped_quality
from mpo.pipeline.run.snapshots import FolderKeeper
from mpo.records import PlanCandidate, Quality, Recovery

HIDDEN_SHARE = 1.0  # of the outputs' gradient, at the start
BALANCED = 2  # batches that weights are measured on
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
    model, _, _ = cut_model(context, removed, judge_on(context))
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
    schedule = replace(schedule, accumulate=context.recipe.accumulate)
    if not context.recipe.finetune:
        schedule = replace(schedule, rate=None, epochs=0)
    crew = context.crew
    begin_together(context, candidate, original, schedule)
    judge = judge_on(context)
    model, cuts, made_up = cut_model(context, candidate.removed, judge, start)
    same_weights(model, crew)
    told = identity(candidate, schedule)
    if start is not None:
        told["start"] = fingerprint_model(model)
    story = recover(
        model,
        chosen_objective(context, model, cuts, schedule),
        context.splits().train,
        agreed_judge(judge, crew),
        original,
        agreed_schedule(schedule, crew),
        context.progress,
        # several processes keep no snapshots: they train anew
        FolderKeeper(context.folder, told) if crew.size == 1 else None,
        crew,
    )
    return model, story.model_copy(update={"compensation": made_up})


def begin_together(
    context: Context, candidate: PlanCandidate, original: Quality, schedule: Schedule
) -> None:
    """Tell the other processes, if any, which training begins; they call `train` alike."""
    context.announce(
        "train",
        candidate=candidate.model_dump(mode="json"),
        original=original.model_dump(mode="json"),
        schedule=as_words(schedule),
    )


def identity(candidate: PlanCandidate, schedule: Schedule) -> dict[str, Any]:
    """What tells one training of a run from another; precision comes after training."""
    told = {key: value for key, value in vars(schedule).items() if key != "stop"}
    return {"removed": candidate.removed, **told}


def chosen_objective(
    context: Context, model: nn.Module, cuts: tuple[Cut, ...], schedule: Schedule
) -> Objective:
    """What a training minimises: the outputs' distillation, with hidden states across the cuts
    where a short race on validation shows that they help this model; trainings of a few steps only
    rank plans, and hold no race."""
    plain = objective_of(context)
    if not cuts or schedule.rate is None or schedule.max_steps is not None:
        return plain
    splits, seed = context.splits(), context.recipe.seed
    with own_randomness(seed):  # a resumed training must weigh alike
        leading = list(islice(splits.train, BALANCED))
        hidden = balanced(across(plain, cuts), model, leading, HIDDEN_SHARE)
    data, steps = (splits.train, splits.validation), schedule.steps(len(splits.train))
    better = helps(model, plain, hidden, schedule.rate, *data, seed, steps)
    return hidden if context.crew.tell(better) else plain  # the first process decides for all


def objective_of(context: Context) -> Objective:
    """What recovery minimises: distillation from a copy of the original, and the task's loss in
    its units."""
    near = context.recipe.distil == "boundary"
    plain = distil(context.subject, copy.deepcopy(context.original), boundary=near)
    if plain.usual or not context.recipe.finetune:
        return plain  # before any data are read
    with own_randomness(context.recipe.seed):  # a resumed training must weigh alike
        return evened(plain, list(islice(context.splits().train, BALANCED)))


def judge_on(context: Context) -> Judge:
    """A function that gives a model's quality on the validation split."""
    validation = context.splits().validation
    reference = predictor(context.original)

    def judge(model: nn.Module) -> Quality:
        predict = predictor(model)
        return evaluate(predict, context.subject, validation, reference, interval=False)

    return judge
