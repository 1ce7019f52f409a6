"""A plan's model as training finds it: blocks out, and made up for as far as arithmetic can."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from mpo.optimizer.blocks.cuts import Cut, find_cuts
from mpo.optimizer.blocks.unpruned import Weights
from mpo.optimizer.data.batches import limit
from mpo.optimizer.training.compensation import compensate, taken_back_where_worse
from mpo.optimizer.training.recover import Judge
from mpo.pipeline.run.analysis import HARM_EXAMPLES
from mpo.pipeline.run.context import Context
from mpo.records import Compensation


def cut_model(
    context: Context, removed: Collection[str], judge: Judge, start: Weights | None = None
) -> tuple[nn.Module, tuple[Cut, ...], Compensation | None]:
    """The original without these blocks, where they stood, and what was made up for; the latter is
    None for random inputs, which say nothing of what the model will see.

    What lowers validation quality is taken back.

    Args:
        judge: gives a model's quality on validation.
        start: weights to begin with; the original's when None.
    """
    model = context.without(removed)
    if start is not None:
        model.load_state_dict(dict(start))
    cuts = find_cuts(context.original, model, removed)
    if context.recipe.input:
        return model, cuts, None
    batches = limit(context.calibration(), HARM_EXAMPLES)

    def change() -> Compensation:
        return compensate(context.original, model, cuts, batches, context.kind)

    return model, cuts, taken_back_where_worse(model, judge, change)
