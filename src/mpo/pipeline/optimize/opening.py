"""What full training starts from: a learning rate, and the plans in the order that short trainings
give. Each step is a part of the recovery stage, so that a kill costs one of them at most."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mpo.optimizer.training.recover import Schedule
from mpo.pipeline.optimize.training import first_rate, tried
from mpo.pipeline.run.context import Context
from mpo.pipeline.run.saved import read, save
from mpo.records import PlanCandidate, Quality, Record

SHORT_STEPS = 60  # of each plan in the first round of successive halving


class Opening(Record):
    """What full training starts from: the learning rate, None where nothing is trained, and the
    plans, the best first; `cut` is what the time limit kept from being done."""

    rate: float | None
    ranked: tuple[PlanCandidate, ...]
    cut: tuple[str, ...] = ()


class Rate(Record):
    """The learning rate that won its race; None where nothing is trained."""

    rate: float | None


def begun(context: Context, candidates: Sequence[PlanCandidate], original: Quality) -> Opening:
    """The race of rates and the short trainings, made once and kept while the stage is made; once
    the time is over, no rate and the plans in the order of their harm."""
    if context.recipe.passes and context.deadline.over():  # not kept: a resumed run has time again
        return Opening(rate=None, ranked=tuple(candidates), cut=("nothing was trained",))

    def make(folder: Path) -> None:
        save(opening(context, candidates, original), folder / "opening.json")

    folder = context.folder.part("opening", None, make)
    return read(Opening, folder / "opening.json")


def opening(context: Context, candidates: Sequence[PlanCandidate], original: Quality) -> Opening:
    """The learning rate and the plans in the order of full training."""
    rate = raced(context, candidates) if context.recipe.passes else None
    ranked = tuple(shortlist(context, candidates, original, rate))
    late = rate is not None and context.deadline.over()
    cut = ("short trainings were cut",) if late else ()
    return Opening(rate=rate, ranked=ranked, cut=cut)


def raced(context: Context, candidates: Sequence[PlanCandidate]) -> float | None:
    """The learning rate of all trainings."""

    def make(folder: Path) -> None:
        save(Rate(rate=first_rate(context, candidates)), folder / "rate.json")

    return read(Rate, context.folder.part("rate", None, make) / "rate.json").rate


def shortlist(
    context: Context, candidates: Sequence[PlanCandidate], original: Quality, rate: float | None
) -> list[PlanCandidate]:
    """The plans by their quality after a short training, the best first."""
    if len(candidates) == 1 or context.recipe.passes == 0:
        return list(candidates)
    stop = context.deadline.over if context.deadline.seconds is not None else None
    short = Schedule(rate, 1, context.recipe.seed, SHORT_STEPS, stop=stop)
    found = [
        shortly(context, number, candidate, original, short)
        for number, candidate in enumerate(candidates)
    ]
    sign = -1.0 if original.lower_is_better else 1.0
    return sorted(found, key=lambda one: -sign * (one.recovered_quality or 0.0))


def shortly(
    context: Context, number: int, candidate: PlanCandidate, original: Quality, short: Schedule
) -> PlanCandidate:
    """A plan with the quality that a short training left it."""

    def make(folder: Path) -> None:
        save(tried(context, candidate, original, short)[1], folder / "candidate.json")

    key = [candidate.model_dump(mode="json"), short.rate]
    return read(PlanCandidate, context.folder.part(f"short-{number}", key, make) / "candidate.json")
