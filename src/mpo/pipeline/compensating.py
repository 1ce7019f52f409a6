"""A plan's model as training finds it: blocks out, and made up for as far as arithmetic can."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from mpo.optimizer.batches import limit
from mpo.optimizer.compensation import compensate
from mpo.optimizer.cuts import Cut, find_cuts
from mpo.optimizer.unpruned import Weights
from mpo.pipeline.analysis import HARM_EXAMPLES
from mpo.pipeline.context import Context
from mpo.records import Compensation


def cut_model(
    context: Context, removed: Collection[str], start: Weights | None = None
) -> tuple[nn.Module, tuple[Cut, ...], Compensation | None]:
    """The original without these blocks, where they stood, and what was made up for; the latter is
    None for random inputs, which say nothing of what the model will see.

    Args:
        start: weights to begin with; the original's when None.
    """
    model = context.without(removed)
    if start is not None:
        model.load_state_dict(dict(start))
    cuts = find_cuts(context.original, model, removed)
    if context.recipe.input:
        return model, cuts, None
    batches = limit(context.calibration(), HARM_EXAMPLES)
    return model, cuts, compensate(context.original, model, cuts, batches, context.kind)
