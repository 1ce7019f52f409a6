"""The verbs about decisions as Python functions: contract, decompose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpo.api.quiet import silent
from mpo.api.runs import optimize
from mpo.optimizer.data.subject import Subject
from mpo.pipeline.contract.claims import make_terms
from mpo.pipeline.contract.comparing import make_contract
from mpo.pipeline.contract.deciders import Named
from mpo.pipeline.contract.scene import Asked
from mpo.pipeline.run.context import Progress
from mpo.pipeline.run.steady import steady_torch
from mpo.recipe import DECOMPOSED
from mpo.records import Contract, Report


def contract(
    original: Named,
    candidate: Named,
    data: Named | None = None,
    *,
    seed: int = 0,
    mine: bool = False,
    radius: float = 0.1,
    witnesses: str | Path | None = None,
    progress: Progress = silent,
    **terms: Any,
) -> Contract:
    """Does the candidate decide as the original does? Bounds on fresh samples, and witnesses.

    Args:
        original: a subject, a run folder (its pruned model), an ONNX file, a torch module.
        candidate: the same, or weights for the original's factory.
        data: a subject with data; the models' own when None.
        mine: search for inputs that both decide differently.
        radius: of the search, as a share of the inputs' range.
        witnesses: an .npz file to save them in.
        terms: eps ("5%", "region=10%"), tau or mass, confidence, strata, looks, look, tolerance,
            split_at.

    Raises:
        UsageError: bad input, models of different label spaces, no fresh samples.
    """
    asked = Asked(
        original,
        candidate,
        data,
        make_terms(**terms),
        seed=seed,
        mine=mine,
        radius=radius,
        witnesses=Path(witnesses) if witnesses else None,
    )
    with steady_torch():
        return make_contract(asked, progress)


def decompose(
    subject: str | Path | Subject,
    classes: Sequence[int],
    budget: str | Sequence[str] = (),
    *,
    contract: str = DECOMPOSED,
    **options: Any,
) -> Report:
    """A smaller model for some of the classes, all others counting as one, under a contract.

    Args:
        classes: their numbers.
        contract: the terms that the result must not break.
        options: as `optimize` takes them.

    Raises:
        UsageError: bad input, or classes that the model does not have.
        InfeasibleError: no plan holds the budgets.
    """
    return optimize(subject, budget, classes=tuple(classes), contract=contract, **options)
