"""The contract as the guard of a run: a screen on validation while plans are tried, and the verdict
on the test split, once, for the model that is handed out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import nn

from mpo.errors import UsageError
from mpo.optimizer.data.quality import Predict, predictor
from mpo.optimizer.decisions.decisions import Tallied, reading_of
from mpo.pipeline.contract.claims import STRATA, Terms, claims_of, make_terms, overall
from mpo.pipeline.contract.comparing import make_contract
from mpo.pipeline.contract.scene import Asked, calibrate
from mpo.pipeline.run.context import Context
from mpo.pipeline.run.proof import OPTIMIZED
from mpo.pipeline.run.saved import read, save
from mpo.pipeline.run.shipping import shipped_predictor
from mpo.recipe import Recipe, nearest
from mpo.records import Contract, Precision, Recovery
from mpo.records.contracts import Judged
from mpo.units import parse_share

KEYS = ("eps", *STRATA, "mass", "tau", "confidence", "claims", "tolerance", "split_at")
FILE, WITNESSES = "contract.json", "witnesses.npz"
Guard = Callable[[nn.Module, Precision, int], Judged | None]  # model, its precision, which look


def parse_contract(text: str) -> Terms:
    """The terms in `eps=5%,region=10%,mass=10%,confidence=0.95,claims=overall+region`.

    `eps` is for every stratum; `overall`, `region` and `class` for one. Without `claims`, what is
    overall and in the region is claimed: classes need many samples each.

    Raises:
        UsageError: an unknown key, or a value out of range.
    """
    eps: list[str] = []
    values: dict[str, object] = {"strata": ("overall", "region")}
    for part in (piece.strip() for piece in text.split(",")):
        key, _, value = (piece.strip() for piece in part.partition("="))
        if not value:
            raise UsageError(f"{part!r} says nothing.", hint="Write --contract eps=5%,mass=10%.")
        if key == "eps" or key in STRATA:
            eps.append(value if key == "eps" else f"{key}={value}")
        elif key == "claims":
            values["strata"] = tuple(value.split("+"))
        elif key == "mass":
            values[key] = parse_share(value)
        elif key in ("tau", "confidence", "split_at"):
            values[key] = _number(key, value)
        elif key == "tolerance":
            values[key] = value
        else:
            raise UsageError(
                f"A contract has no {key!r}.{nearest(key, KEYS)}",
                hint=f"Known: {', '.join(KEYS)}.",
            )
    return make_terms(eps=eps, **values)


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"{key} is {text!r}.", hint="Give a number.") from error


def check_terms(recipe: Recipe) -> None:
    """Refuse bad terms before a run's folder is made.

    Raises:
        UsageError: terms that cannot be read.
    """
    if recipe.contract is not None:
        parse_contract(recipe.contract)


def guard_of(context: Context) -> Guard:
    """What screens a trained candidate, as it would be shipped: its verdict on the validation
    split, None without a contract.

    The split also steers training, so this is a screen and no claim; candidate j of the open series
    spends 1 / (j (j + 1)) of the error.
    """
    if context.recipe.contract is None:
        return lambda model, precision, look: None
    terms = parse_contract(context.recipe.contract)

    def guard(model: nn.Module, precision: Precision, look: int) -> Judged:
        now = replace(terms, looks=1, look=look)
        with shipped_predictor(context, model, precision) as candidate:
            return screened(context, candidate, now)

    return guard


def screened(context: Context, candidate: Predict, terms: Terms) -> Judged:
    """The claims' verdict on the validation split."""
    original = predictor(context.original)
    validation = context.splits().validation
    reading = reading_of(context.outputs, context.batch, context.kind, terms.split_at)
    calibrated = calibrate(original, reading, validation, terms)
    found = Tallied(reading, context.recipe.seed)
    for batch in validation:
        found.add(batch, original(batch), candidate(batch))
    return overall(claims_of(terms, found, calibrated.tau, calibrated.limit))


def noted(story: Recovery, verdict: Judged | None) -> Recovery:
    """The story of a recovery with what the screen said."""
    if verdict is None:
        return story
    note = f"{story.note}; contract on validation: {verdict}".removeprefix("; ")
    return story.model_copy(update={"note": note})


def stage_contract(context: Context, model: nn.Module, precision: Precision) -> Contract | None:
    """The contract of what is handed out, on the test split, made once and kept; with
    counterexamples where they can be searched. None when the recipe asks for none.

    In another precision than fp32 the file is judged, since rounding turns decisions too.
    """
    if context.recipe.contract is None:
        return None
    terms = parse_contract(context.recipe.contract)

    def make(folder: Path) -> None:
        asked = Asked(
            original=context.original,
            candidate=model if precision == "fp32" else context.folder.path / OPTIMIZED,
            data=context.subject,
            terms=terms,
            seed=context.recipe.seed,
            mine=None,
            witnesses=folder / WITNESSES,
        )
        found = make_contract(asked, context.progress)
        save(renamed(found, context.subject.name), folder / FILE)

    folder = context.folder.stage("contract", context.key, make)
    for name in (FILE, WITNESSES):
        if (folder / name).is_file():
            context.folder.place(folder / name, name)
    return read(Contract, folder / FILE)


def renamed(found: Contract, subject: str) -> Contract:
    """The record with the names that the run uses."""
    mining = found.mining and found.mining.model_copy(
        update={"file": WITNESSES if found.mining.file else ""}
    )
    return found.model_copy(
        update={
            "original": found.original.model_copy(update={"name": subject}),
            "candidate": found.candidate.model_copy(update={"name": "the pruned model"}),
            "mining": mining,
        }
    )
