"""The recovery stage: short training of the diverse plans, full training of the best, the guard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from mpo.optimizer.artifact import load_pruned, save_model
from mpo.optimizer.quality import drop
from mpo.optimizer.recover import Schedule
from mpo.pipeline.aims import harm_of
from mpo.pipeline.context import Context
from mpo.pipeline.guard import guard_of, noted
from mpo.pipeline.measuring import Measured
from mpo.pipeline.saved import read, save
from mpo.pipeline.training import first_rate, tried
from mpo.records import Front, FrontPoint, Plan, PlanCandidate, Quality, Recovery

SHORT_STEPS = 60  # of each plan in the first round of successive halving
WEIGHTS = "model.safetensors"
Trained = tuple[nn.Module, Plan, Recovery]


def recovered(context: Context, plan: Plan, original: Measured) -> Trained:
    """The trained pruned model with the plan that won, made once and kept in the run's folder."""
    return kept(context, lambda: train_plans(context, plan, original.validation))


def kept(context: Context, train: Callable[[], Trained]) -> Trained:
    """What `train` makes, as the stage "recovery": weights, plan and story, read back from disk."""

    def make(folder: Path) -> None:
        model, final, story = train()
        save_model(model, folder / WEIGHTS)
        save(final, folder / "plan.json")
        save(story, folder / "recovery.json")

    folder = context.folder.stage("recovery", context.key, make)
    final = read(Plan, folder / "plan.json")
    model = load_pruned(context.subject.build, final.removed, folder / WEIGHTS)
    context.folder.place(folder / WEIGHTS, WEIGHTS)
    context.folder.place(folder / "plan.json", "plan.json")
    return model.eval(), final, read(Recovery, folder / "recovery.json")


def train_plans(context: Context, plan: Plan, original: Quality) -> Trained:
    """Successive halving over the plans: a short training each, then a full one of the best.

    The next best plan is trained too when the best one ends below the quality floor, or breaks the
    contract that the recipe asks for.
    """
    guard = guard_of(context)
    rate = first_rate(context, plan.alternatives)
    ranked = shortlist(context, plan.alternatives, original, rate)
    seed = context.recipe.seed
    best: tuple[nn.Module, PlanCandidate, Recovery] | None = None
    broken = False
    for candidate in ranked:
        schedule = Schedule(rate, context.recipe.epochs, seed)
        model, found, story = tried(context, candidate, original, schedule)
        verdict = guard(model, candidate.precision)
        rank = (verdict == "broken", _lost(original, found))
        if best is None or rank < (broken, _lost(original, best[1])):
            best, broken = (model, found, noted(story, verdict)), verdict == "broken"
        if not broken and _lost(original, best[1]) <= context.recipe.allowed_drop():
            break
    if best is None:
        raise ValueError("a plan without candidates")
    model, chosen, story = best
    others = tuple(chosen if same(one, chosen) else one for one in ranked)
    harm = harm_of(chosen)
    final = plan.model_copy(
        update={
            "removed": chosen.removed,
            "harm": harm,
            "alternatives": others,
            "precision": chosen.precision,
            **told_anew(plan, chosen),
        }
    )
    return model, final, story


def told_anew(plan: Plan, chosen: PlanCandidate) -> dict[str, Any]:
    """What a plan says of itself, once another candidate than its first proved better: the reasons
    were given for that one, and the chosen point on each front was its."""
    if set(chosen.removed) == set(plan.removed) and chosen.precision == plan.precision:
        return {}

    def moved(front: Front) -> Front:
        cost = chosen.costs.get(front.metric)
        if cost is None:
            return front.model_copy(update={"chosen": None, "least": None})
        point = FrontPoint(removed=chosen.removed, harm=chosen.harm, cost=cost)
        least = min((one.harm for one in front.points if one.cost <= cost), default=None)
        return front.model_copy(update={"chosen": point, "least": least})

    note = (
        f"Of plans that hold the budgets, the one chosen recovered best on validation; predicted "
        f"harm alone would have taken {', '.join(plan.removed) or 'nothing'} in {plan.precision}."
    )
    fronts = tuple(moved(front) for front in plan.fronts)
    return {"reasons": (), "fronts": fronts, "notes": (*plan.notes, note)}


def shortlist(
    context: Context, candidates: Sequence[PlanCandidate], original: Quality, rate: float | None
) -> list[PlanCandidate]:
    """The plans by their quality after a short training, the best first."""
    if len(candidates) == 1 or context.recipe.epochs == 0:
        return list(candidates)
    short = Schedule(rate, 1, context.recipe.seed, SHORT_STEPS)
    found = [tried(context, candidate, original, short)[1] for candidate in candidates]
    sign = -1.0 if original.lower_is_better else 1.0
    return sorted(found, key=lambda one: -sign * (one.recovered_quality or 0.0))


def same(one: PlanCandidate, other: PlanCandidate) -> bool:
    """Whether two candidates are one plan: blocks and precision."""
    return (one.removed, one.precision) == (other.removed, other.precision)


def _lost(original: Quality, candidate: PlanCandidate) -> float:
    return drop(original, original.model_copy(update={"value": candidate.recovered_quality}))
