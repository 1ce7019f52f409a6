"""The recovery stage: short training of the diverse plans, full training of the best, the guard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mpo.optimizer.files.artifact import load_pruned, save_model
from mpo.pipeline.optimize.finished import Finished
from mpo.pipeline.optimize.opening import begun
from mpo.pipeline.optimize.rounds import REJECTED, carried_out, interim
from mpo.pipeline.optimize.workshop import workshop_of
from mpo.pipeline.plan.aims import harm_of
from mpo.pipeline.plan.planning import LIMIT
from mpo.pipeline.run.acceptance import provable, rank
from mpo.pipeline.run.context import Context
from mpo.pipeline.run.measuring import Measured
from mpo.pipeline.run.saved import read, save
from mpo.records import Front, FrontPoint, Plan, PlanCandidate, Quality, Recovery

WEIGHTS = "model.safetensors"
LAST = "accepted"  # names the files of the last accepted model on the way to a rejected plan


@dataclass(frozen=True)
class Chosen:
    """What the recovery stage ends with; `last` is the last accepted model on the way, when the
    plan's own was rejected."""

    model: nn.Module
    plan: Plan
    story: Recovery
    last: Finished | None = None


Trained = tuple[nn.Module, Plan, Recovery]


def recovered(context: Context, plan: Plan, original: Measured) -> Trained:
    """The trained pruned model with the plan that won, made once and kept in the run's folder."""
    return kept(context, lambda: train_plans(context, plan, original.validation))


def kept(context: Context, train: Callable[[], Chosen]) -> Trained:
    """What `train` makes, as the stage "recovery": weights, plan and story, read back from disk."""

    def make(folder: Path) -> None:
        chosen = train()
        save_model(chosen.model, folder / WEIGHTS)
        save(chosen.plan, folder / "plan.json")
        save(chosen.story, folder / "recovery.json")
        if chosen.last is not None:
            save_model(chosen.last.model, folder / f"{LAST}.safetensors")
            save(chosen.last.attempt, folder / f"{LAST}.json")

    folder = context.folder.stage("recovery", context.key, make)
    final = read(Plan, folder / "plan.json")
    model = load_pruned(context.subject.build, final.removed, folder / WEIGHTS)
    context.folder.place(folder / WEIGHTS, WEIGHTS)
    context.folder.place(folder / "plan.json", "plan.json")
    return model.eval(), final, read(Recovery, folder / "recovery.json")


def train_plans(context: Context, plan: Plan, original: Quality) -> Chosen:
    """Successive halving over the plans: a short training each, then a full one of the best.

    The next best plan is trained too when the best one is rejected, when it breaks the contract
    that the recipe asks for, or when the guard's verdict is unproven and may be proved at all. Once
    the time is over no further plan is begun.
    """
    opening = begun(context, plan.alternatives, original)
    ranked, cut = opening.ranked, [*opening.cut]
    shop = workshop_of(context, original, opening.rate)
    done = list[tuple[Finished, Finished | None]]()
    for candidate in ranked:
        if done and context.deadline.over():
            cut.append(f"{len(ranked) - len(done)} of {len(ranked)} plans were not recovered")
            break
        done.append(carried_out(shop, candidate))
        if enough(done[-1][0]):
            break
    best, last = min(done, key=lambda pair: shop.rank(pair[0]))
    if rank(best.candidate.acceptance) == REJECTED and last is None:
        last = next((safe for _, safe in done if safe), None)
    cut += [what for one, _ in done for what in one.attempt.cut]
    return Chosen(
        best.model, settled(context, plan, best, done, ranked, cut, last), best.attempt.story, last
    )


def enough(done: Finished) -> bool:
    """Whether no further plan need be trained after this one."""
    found = done.candidate.acceptance
    if done.attempt.broken or found is None or found.verdict == "rejected":
        return False
    return found.verdict == "accepted" or not provable(found)


def settled(
    context: Context,
    plan: Plan,
    best: Finished,
    done: Sequence[tuple[Finished, Finished | None]],
    ranked: Sequence[PlanCandidate],
    cut: Sequence[str],
    last: Finished | None,
) -> Plan:
    """The plan with the candidate that proved best, and what is known now of the others."""
    chosen = best.candidate
    known = [one.candidate for one, _ in done]
    others = tuple(next((k for k in known if same(k, one)), one) for one in ranked)
    limit = f"{LIMIT} {context.recipe.time_limit}"
    told = told_anew(plan, chosen)
    notes = told.pop("notes", plan.notes)
    if last is not None:
        notes = (*notes, interim(context, last))
    return plan.model_copy(
        update={
            "removed": chosen.removed,
            "harm": harm_of(chosen),
            "alternatives": others,
            "precision": chosen.precision,
            "notes": notes,
            "cut": (*plan.cut, *(f"{limit}: {what}." for what in cut)),
            **told,
        }
    )


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


def same(one: PlanCandidate, other: PlanCandidate) -> bool:
    """Whether two candidates are one plan: blocks and precision."""
    return (one.removed, one.precision) == (other.removed, other.precision)
