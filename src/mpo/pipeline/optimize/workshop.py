"""Where a plan's model is trained and judged, one attempt after the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from mpo.optimizer.analysis.harm import HarmMeter
from mpo.optimizer.blocks.unpruned import Weights
from mpo.optimizer.data.quality import drop
from mpo.optimizer.training.recover import Schedule
from mpo.pipeline.contract.guard import Guard, guard_of, noted
from mpo.pipeline.optimize.finished import Attempt, Finished, finished
from mpo.pipeline.optimize.training import tried
from mpo.pipeline.run.acceptance import Acceptor, acceptor_of, rank
from mpo.pipeline.run.analysis import harm_meter
from mpo.pipeline.run.context import Context
from mpo.records import PlanCandidate, Quality
from mpo.timing import Deadline

Rank = tuple[bool, int, float]


@dataclass
class Workshop:
    """What all attempts of a run share.

    Attributes:
        context: of the run.
        original: its quality on validation.
        rate: the learning rate; None where nothing is trained.
        accept: the guard of quality.
        guard: the guard of the contract.
        looks: attempts judged so far; each one is a look at the validation split.
    """

    context: Context
    original: Quality
    rate: float | None
    accept: Acceptor
    guard: Guard
    looks: int = 0

    @cached_property
    def meter(self) -> HarmMeter:
        """What measures joint harm against the original."""
        return harm_meter(self.context)

    def attempt(
        self, candidate: PlanCandidate, epochs: int, start: Weights | None = None
    ) -> Finished:
        """Train a plan's model and judge it; once the time is over it is not trained, and only made
        up for by arithmetic.

        Args:
            epochs: at most.
            start: weights to begin with; the original's without the removed blocks when None.
        """
        self.looks += 1
        look = self.looks
        key = {
            "candidate": candidate.model_dump(mode="json"),
            "epochs": epochs,
            "rate": self.rate,
            "look": look,  # the same look starts from the same weights: all before it is kept too
        }
        name = f"attempt-{look}"
        return finished(self.context, name, key, lambda: self._make(candidate, epochs, look, start))

    def _make(
        self, candidate: PlanCandidate, epochs: int, look: int, start: Weights | None
    ) -> Finished:
        context, late = self.context, self.context.deadline.over()
        stop = Stop(context.deadline)
        rate, epochs = (None, 0) if late else (self.rate, epochs)
        limited = context.deadline.seconds is not None
        schedule = Schedule(rate, epochs, context.recipe.seed, stop=stop if limited else None)
        model, found, story = tried(context, candidate, self.original, schedule, start)
        acceptance = self.accept(model, candidate.precision, look)
        contract = self.guard(model, candidate.precision, look)
        cut: tuple[str, ...] = ()
        if candidate.removed and self.rate is not None and (late or stop.heard):
            cut = (cut_short(candidate, story.epochs, 0 if late else epochs),)
        return Finished(
            model,
            Attempt(
                candidate=found.model_copy(update={"acceptance": acceptance}),
                story=noted(story, contract),
                broken=contract == "broken",
                cut=cut,
            ),
        )

    def rank(self, done: Finished) -> Rank:
        """How good a finished plan is, the best first: the contract, the guard's verdict, quality
        on validation."""
        found = done.candidate
        return done.attempt.broken, rank(found.acceptance), self.lost(found)

    def lost(self, candidate: PlanCandidate) -> float:
        """The drop of a trained plan on validation."""
        value = {"value": candidate.recovered_quality}
        return drop(self.original, self.original.model_copy(update=value))


class Stop:
    """Asks a deadline whether training shall end, and remembers a yes."""

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        self.heard = False

    def __call__(self) -> bool:
        """Whether training shall end now."""
        self.heard = self.heard or self._deadline.over()
        return self.heard


def cut_short(candidate: PlanCandidate, done: int, epochs: int) -> str:
    """What time kept from being done for a plan; `epochs` 0: it was not trained at all."""
    blocks = f"the plan without {len(candidate.removed)} blocks"
    if not epochs:
        return f"{blocks} was not trained, only compensated"
    return f"training of {blocks} ended in epoch {done} of at most {epochs}"


def workshop_of(context: Context, original: Quality, rate: float | None) -> Workshop:
    """The workshop of a run."""
    return Workshop(context, original, rate, acceptor_of(context), guard_of(context))
