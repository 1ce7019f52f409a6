"""The result's file: plain, and where int8 breaks the quality floor, with the fewest layers in
float32 that reach it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from mpo.optimizer.data.quality import drop
from mpo.pipeline.run.budgets import judge
from mpo.pipeline.run.context import Context
from mpo.pipeline.run.measuring import ORIGINAL, Measured, measure_model
from mpo.pipeline.run.proof import OPTIMIZED
from mpo.pipeline.run.shipping import floor_of
from mpo.records import Precision


def finish(
    context: Context,
    model: nn.Module,
    folder: Path,
    original: Measured,
    precision: Precision,
    metadata: Mapping[str, Any] | None = None,
) -> Measured:
    """Export, convert and measure the result into `folder`.

    A mixed file is taken when it reaches the floor and breaks no budget that the plain one holds.
    """
    beside, path = context.folder.path / ORIGINAL, folder / OPTIMIZED
    plain = measure_model(context, model, path, "optimized", beside, metadata, precision=precision)
    allowed = context.recipe.allowed_drop()
    if precision != "int8" or drop(original.validation, plain.validation) <= allowed:
        return plain
    with tempfile.TemporaryDirectory(prefix="mpo-mixed-") as name:
        other = Path(name) / OPTIMIZED
        floor = floor_of(context, original.validation)
        mixed = measure_model(
            context, model, other, "mixed", beside, metadata, precision=precision, floor=floor
        )
        reason = _worse(context, original, plain, mixed)
        if not reason:
            for made in other.parent.glob(f"{OPTIMIZED}*"):
                (folder / made.name).write_bytes(made.read_bytes())
            return mixed
    return plain.model_copy(update={"warnings": (*plain.warnings, reason)})


def _worse(context: Context, original: Measured, plain: Measured, mixed: Measured) -> str:
    """Why the plain file stays; "" when the mixed one is better."""
    made = mixed.conversion
    if made is None or not made.mixed:
        return "; ".join(made.warnings) if made else "int8 was not made."
    held = [over(context, original, one) for one in (plain, mixed)]
    if held[1] - held[0]:
        return (
            f"With {len(made.kept)} layers in float32 int8 reaches the quality floor, but breaks "
            f"{', '.join(sorted(held[1] - held[0]))}; all layers are in int8."
        )
    return ""


def over(context: Context, original: Measured, made: Measured) -> set[str]:
    """The budgets that a measured file breaks, as they were given."""
    seen = original.seen_beside(made)
    results = judge(context.recipe.budgets(), seen.costs(), made.costs(), context.targets)
    return {result.text for result in results if not result.met}
