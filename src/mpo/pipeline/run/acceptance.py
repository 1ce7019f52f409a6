"""The guard of a run's quality: is a trained model's drop within --max-drop, beyond doubt?

It judges on the validation split, beside the original on the same examples, and never sees the test
split. (The contract, another guard, asks whether both decide alike: pipeline/contract/guard.py.)

Of 5 % error, look j spends 1 / (j (j + 1)), so that all looks together stay below it however many
models are tried. The split also chose each model's best epoch, which no bound here knows of: a
verdict is a screen before the test split is touched, and no figure of the report.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from torch import nn

from mpo.bounds import open_share
from mpo.optimizer.data.paired import Loss, compare
from mpo.optimizer.data.quality import Predict, exceeds, predictor
from mpo.pipeline.run.context import Context
from mpo.pipeline.run.saved import read, save
from mpo.pipeline.run.shipping import file_predictor, shipped_predictor
from mpo.records import Acceptance, Plan, Precision

ERROR = 0.05
FILE = "acceptance.json"
ORDER = ("accepted", "unproven", "rejected")  # the best verdict first
Acceptor = Callable[[nn.Module, Precision, int], Acceptance]  # model, its precision, which look


def acceptor_of(context: Context) -> Acceptor:
    """What judges a trained model as it would be shipped."""

    def accept(model: nn.Module, precision: Precision, look: int) -> Acceptance:
        with shipped_predictor(context, model, precision) as candidate:
            return accepted(context, candidate, look)

    return accept


def accepted(context: Context, candidate: Predict, look: int) -> Acceptance:
    """The verdict on a candidate at this look (from 1) at the validation split."""
    alpha, allowed = ERROR * open_share(look), context.recipe.allowed_drop()
    validation, original = context.splits().validation, predictor(context.original)
    found = compare(original, candidate, context.subject, validation, alpha=alpha, allowed=allowed)
    return judged(found, allowed, alpha, look)


def judged(found: Loss, allowed: float, alpha: float, look: int) -> Acceptance:
    """The verdict on a loss. Without a bound the drop alone decides."""
    sure = found.drop if found.bound is None else found.bound
    verdict = "unproven" if exceeds(sure, allowed) else "accepted"
    return Acceptance.model_validate(
        {
            **vars(found),
            "verdict": "rejected" if exceeds(found.drop, allowed) else verdict,
            "allowed": allowed,
            "alpha": alpha,
            "look": look,
        }
    )


def stage_acceptance(context: Context, plan: Plan, file: Path) -> Acceptance | None:
    """The verdict on what is handed out; None where no guard judged, as for mpruner-paper.

    In another precision than fp32 the finished file is judged once more, since finishing it may
    have kept some layers in float32.
    """
    wanted = (plan.removed, plan.precision)
    chosen = [one for one in plan.alternatives if (one.removed, one.precision) == wanted]
    found = chosen[0].acceptance if chosen else None
    if found is None or plan.precision == "fp32":
        return found
    looks = [one.acceptance for one in plan.alternatives]
    looks += [step.acceptance for one in plan.alternatives for step in one.rounds]
    last = max(one.look for one in looks if one)

    def make(folder: Path) -> None:
        save(accepted(context, file_predictor(context, file), last + 1), folder / FILE)

    return read(Acceptance, context.folder.stage("acceptance", context.key, make) / FILE)


def rank(found: Acceptance | None) -> int:
    """0 for accepted, 1 for unproven, 2 for rejected; a model that was not judged is unproven."""
    return ORDER.index("unproven" if found is None else found.verdict)


def provable(found: Acceptance) -> bool:
    """Whether the next look could accept any model at all: one that loses nothing on these
    examples."""
    alpha = ERROR * open_share(found.look + 1)
    return -math.expm1(math.log(alpha) / found.samples) <= found.allowed


def warning(found: Acceptance | None) -> tuple[str, ...]:
    """What a reader must know of a verdict that is not proved, with what to do about it."""
    if found is None:
        return ()
    drop, allowed = f"{100 * found.drop:.2f} %", f"{100 * found.allowed:.3g} %"
    if found.verdict == "accepted" and found.bound is None:
        return (
            f"The drop on validation ({drop}, {allowed} allowed) has no bound: the metric's "
            "inputs cannot be resampled by example. Outputs of one shape from the model give one.",
        )
    if found.verdict != "unproven" or found.bound is None:
        return ()
    more = (
        f"about {found.needed:,} validation examples like these would prove it"
        if found.needed
        else "no number of validation examples like these would prove it"
    )
    return (
        f"Unproven: on {found.samples:,} validation examples the drop is {drop}, within the "
        f"{allowed} allowed, but it may be up to {100 * found.bound:.2f} % "
        f"({100 * (1 - found.alpha):.4g} % confidence). {more.capitalize()}; or allow more with "
        "--max-drop.",
    )
