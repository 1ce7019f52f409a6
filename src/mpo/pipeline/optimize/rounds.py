"""Carrying out a plan's removal in rounds: each one takes the next blocks, recovers, is judged.

The plan says which blocks go in the end, and was measured to hold the budgets; a round takes as
many of them as its share is, those first whose joint harm is least in the model as it is trained by
now. A round that the guard rejects is undone: the next one starts from the last model that it let
pass, with half as many blocks, or with other ones. VAIN such rounds are borne with; after one more
what is left goes at once, so that a model that holds the budgets is handed out whatever its
quality.

In one round all blocks go, and there is nothing to undo.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field

from torch import nn

from mpo.optimizer.blocks.bypass import bypass
from mpo.optimizer.blocks.unpruned import Weights, unpruned, weights_without
from mpo.optimizer.data.quality import predictor
from mpo.pipeline.optimize.finished import Finished
from mpo.pipeline.optimize.workshop import Workshop
from mpo.pipeline.plan.aims import harm_of
from mpo.pipeline.plan.planning import evaluations
from mpo.pipeline.run.acceptance import ORDER, rank
from mpo.pipeline.run.context import Context
from mpo.records import PlanCandidate, Round

VAIN = 2  # rounds of a plan that may be undone; one more, and it is given up
REJECTED = ORDER.index("rejected")


@dataclass
class Walk:
    """A plan's removal under way.

    Attributes:
        shop: where models are trained and judged.
        goal: the plan.
        rounds: in how many steps it is carried out.
        size: blocks of the next step.
        gone: blocks that are out of the last model that was kept.
        last: that model; None before the first round.
        safe: the last model on the way that was not rejected.
        given_up: all that is left goes in one round, which is kept.
        vain: rounds that were undone.
        refused: sets of blocks whose removal was rejected from `last`.
        told: the rounds so far.
        ends: models that all of the plan's blocks are gone from.
        cut: what --time-limit kept from being done.
    """

    shop: Workshop
    goal: PlanCandidate
    rounds: int
    size: int
    gone: tuple[str, ...] = ()
    last: Finished | None = None
    safe: Finished | None = None
    given_up: bool = False
    vain: int = 0
    refused: list[frozenset[str]] = field(default_factory=list)
    told: list[Round] = field(default_factory=list)
    ends: list[Finished] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)

    @property
    def left(self) -> tuple[str, ...]:
        """The plan's blocks that are still to go."""
        return tuple(name for name in self.goal.removed if name not in self.gone)

    def step(self) -> None:
        """One round."""
        chosen = self.next()
        if frozenset(chosen) in self.refused:  # all that is left, from the very same model
            self.gone = self.goal.removed
            return
        done = self.shop.attempt(self.partial(chosen), self.epochs(chosen), self.weights(chosen))
        rejected = rank(done.candidate.acceptance) == REJECTED
        whole, kept = chosen == self.left, self.given_up or not rejected
        self.note(chosen, done, kept)
        if whole:
            self.ends.append(done)
        elif not rejected:
            self.safe = done
        if kept:
            self.gone, self.last, self.refused = (*self.gone, *chosen), done, []
        else:
            self.undo(chosen)

    def next(self) -> tuple[str, ...]:
        """What this round takes out; all that is left once there is nothing else to try, or no
        time."""
        if self.given_up or self.shop.context.deadline.over():
            self.given_up = True
            return self.left
        chosen = self.choose()
        if frozenset(chosen) in self.refused:
            self.given_up = True
            return self.left
        return chosen

    def undo(self, chosen: Collection[str]) -> None:
        """Forget a rejected round: the next one starts where it did, with half as many blocks."""
        self.refused.append(frozenset(chosen))
        self.size = math.ceil(len(chosen) / 2)
        self.vain += 1
        self.given_up = self.vain > VAIN

    def choose(self) -> tuple[str, ...]:
        """The next blocks: those of least joint harm in the model as it is now, one after the
        other, and no set that was rejected."""
        left = self.left
        if self.size >= len(left):
            return left
        whole, chosen = self.whole(), list[str]()
        affordable = self.size * len(left) <= evaluations(self.shop.context)
        harms = {} if affordable else {one: self.harm(whole, [one]) for one in left}
        while len(chosen) < self.size:
            free = [one for one in left if one not in chosen]
            if len(chosen) == self.size - 1:
                new = [one for one in free if frozenset([*chosen, one]) not in self.refused]
                free = new or free
            found = harms or {one: self.harm(whole, [*chosen, one]) for one in free}
            chosen.append(min(free, key=lambda one: (found[one], one)))
        return tuple(one for one in left if one in chosen)

    def harm(self, whole: nn.Module, more: Collection[str]) -> float:
        """Joint harm of what is gone and these blocks, against the original."""
        with bypass(whole, [*self.gone, *more]):
            return self.shop.meter.judge(predictor(whole)).kl

    def whole(self) -> nn.Module:
        """The last model with the blocks' own names, what is gone back in its place."""
        context = self.shop.context
        _ = context.blocks
        if self.last is None:
            return context.original
        return unpruned(context.original, self.gone, self.last.model.state_dict())

    def weights(self, chosen: Collection[str]) -> Weights | None:
        """What the next model starts from; None for the original's own weights."""
        return None if self.last is None else weights_without(self.whole(), [*self.gone, *chosen])

    def partial(self, chosen: Collection[str]) -> PlanCandidate:
        """The plan as far as it is carried out after this round."""
        out = {*self.gone, *chosen}
        removed = tuple(name for name in self.goal.removed if name in out)
        if removed == self.goal.removed:
            return self.goal
        return PlanCandidate(
            removed=removed, harm=harm_of(self.goal), precision=self.goal.precision
        )

    def epochs(self, chosen: tuple[str, ...]) -> int:
        """A round's share of the epochs; what division leaves goes to the one that ends it."""
        total = self.shop.context.recipe.passes
        share = total // self.rounds
        if chosen == self.left:
            share = total - share * (self.rounds - 1)
        return max(1, share) if total else 0

    def note(self, chosen: tuple[str, ...], done: Finished, kept: bool) -> None:
        """Keep what a round came to."""
        acceptance = done.candidate.acceptance
        self.cut += done.attempt.cut
        if acceptance is not None:
            epochs, gone = done.attempt.story.epochs, len(self.gone) + len(chosen)
            self.told.append(
                Round(removed=chosen, gone=gone, epochs=epochs, acceptance=acceptance, kept=kept)
            )


def carried_out(shop: Workshop, goal: PlanCandidate) -> tuple[Finished, Finished | None]:
    """The plan's model, trained in the recipe's rounds; and the last model on the way that the
    guard let pass, when the plan's own was rejected."""
    rounds = max(1, min(shop.context.recipe.rounds, len(goal.removed)))
    size = math.ceil(len(goal.removed) / rounds)
    walk = Walk(shop, goal, rounds, size, given_up=rounds == 1)
    walk.step()
    while walk.left:
        walk.step()
    best = min(walk.ends, key=shop.rank)
    if rounds == 1:
        return best, None
    return told(best, walk), fallback(walk, best)


def told(best: Finished, walk: Walk) -> Finished:
    """The plan's model with the story of its rounds."""
    candidate = best.candidate.model_copy(update={"rounds": tuple(walk.told)})
    known = {"candidate": candidate, "cut": tuple(dict.fromkeys(walk.cut))}
    attempt = best.attempt.model_copy(update=known)
    return Finished(best.model, attempt)


def fallback(walk: Walk, best: Finished) -> Finished | None:
    """The last accepted model on the way, when the plan's own is rejected."""
    return walk.safe if rank(best.candidate.acceptance) == REJECTED else None


def interim(context: Context, kept: Finished) -> str:
    """What is told of the last accepted model on the way to a rejected plan."""
    gone = kept.candidate.removed
    return (
        f"The last model that the guard let pass is {context.subject.name} without "
        f"{', '.join(gone)}: its quality holds, the budgets do not. Its weights are kept in "
        "stages/recovery/accepted.safetensors."
    )
