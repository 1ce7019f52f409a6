"""The original in other precisions, measured: what precision alone gives, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import get_args

from mpo.errors import MpoError
from mpo.optimizer.data.quality import drop
from mpo.pipeline.run.budgets import COUNTED, judge
from mpo.pipeline.run.context import Context
from mpo.pipeline.run.measuring import ORIGINAL, Measured, measure_model
from mpo.pipeline.run.saved import read, save
from mpo.pipeline.run.shipping import file_harm, require_data
from mpo.recipe import Recipe
from mpo.records import Budget, Precision, Record

PRECISIONS = "precisions"  # the stage
AUTO: tuple[Precision, ...] = ("fp16", "int8", "int8-dynamic")
Bases = Mapping[Precision, "Based"]


class Based(Record):
    """The original in one precision.

    Attributes:
        precision: of the file.
        measured: its figures; None when there is no such file, for a `reason`.
        harm: of the precision alone, on calibration data.
        reason: why there is none.
    """

    precision: Precision
    measured: Measured | None = None
    harm: float = 0.0
    reason: str = ""


def bases(context: Context, original: Measured) -> Bases:
    """The original in every precision that the recipe asks for, fp32 aside, made once.

    Raises:
        UsageError, MpoError: the one precision that is asked for cannot be made. With "auto" such
            a precision is left out and says why.
    """
    asked = context.recipe.precision
    if asked == "fp32":
        return {}
    counted = {budget.metric for budget in context.recipe.budgets()} <= COUNTED
    wanted = (() if counted else AUTO) if asked == "auto" else (asked,)

    def make(folder: Path) -> None:
        for precision in wanted:
            found = _based(context, precision, folder, strict=asked != "auto")
            save(found, folder / f"{precision}.json")

    key = {**context.base_key, "precisions": wanted, "original": original.sha256}
    return read_bases(context.folder.stage(PRECISIONS, key, make))


def read_bases(folder: Path) -> Bases:
    """What a finished stage holds."""
    files = [folder / f"{precision}.json" for precision in get_args(Precision)]
    found = [read(Based, path) for path in files if path.is_file()]
    return {one.precision: one for one in found}


def _based(context: Context, precision: Precision, folder: Path, *, strict: bool) -> Based:
    path, beside = folder / f"{precision}.onnx", context.folder.path / ORIGINAL
    what = f"original in {precision}"
    try:
        require_data(context, precision)
        measured = measure_model(context, context.original, path, what, beside, precision=precision)
    except MpoError as error:
        if strict:
            raise
        return Based(precision=precision, reason=error.message)
    return Based(precision=precision, measured=measured, harm=file_harm(context, path))


def holding_alone(
    found: Bases, budgets: Iterable[Budget], original: Measured, targets: tuple[str, ...]
) -> list[Precision]:
    """The precisions that hold every budget without any removal, the least harmful first."""
    asked = tuple(budgets)

    def holds(made: Measured) -> bool:
        seen = original.seen_beside(made)
        return all(r.met for r in judge(asked, seen.costs(), made.costs(), targets))

    good = [one for one in found.values() if one.measured is not None and holds(one.measured)]
    return [one.precision for one in sorted(good, key=lambda one: one.harm)]


def above_floor(
    found: Bases, alone: Iterable[Precision], original: Measured, allowed: float
) -> list[Precision]:
    """Those of them that lose no more quality on validation than is allowed."""
    made = {precision: found[precision].measured for precision in alone}
    return [
        precision
        for precision, one in made.items()
        if one is not None and drop(original.validation, one.validation) <= allowed
    ]


def enough_alone(
    found: Bases, recipe: Recipe, original: Measured, targets: tuple[str, ...]
) -> tuple[Precision, ...]:
    """The precisions that hold every budget without any removal: those that also keep the quality
    floor on validation first, the least harmful first among them and among the others."""
    alone = holding_alone(found, recipe.budgets(), original, targets)
    safe = above_floor(found, alone, original, recipe.allowed_drop())
    return (*safe, *(one for one in alone if one not in safe))


def dominated(found: Bases, original: Measured, keys: Iterable[str]) -> dict[Precision, Precision]:
    """Precisions that another one, or fp32, beats: it harms no more and costs no more in any
    bounded figure."""
    watched = tuple(keys)
    known: dict[Precision, tuple[float, dict[str, float]]] = {"fp32": (0.0, original.costs())}
    known |= {p: (one.harm, one.measured.costs()) for p, one in found.items() if one.measured}
    beaten: dict[Precision, Precision] = {}
    for precision, (harm, costs) in known.items():
        for other, (less, others) in known.items():
            better = less <= harm and all(others[key] <= costs[key] for key in watched)
            if better and other != precision and other not in beaten:  # of equals one stays
                beaten[precision] = other
                break
    return beaten
