"""A plan's model as training finds it: blocks out, and made up for as far as arithmetic can."""

from __future__ import annotations

import copy
from collections.abc import Collection

from torch import nn

from mpo.optimizer.blocks.cuts import Cut, find_cuts
from mpo.optimizer.blocks.unpruned import Weights
from mpo.optimizer.data.batches import limit
from mpo.optimizer.data.quality import drop
from mpo.optimizer.training.compensation import compensate
from mpo.optimizer.training.recover import Judge
from mpo.pipeline.run.analysis import HARM_EXAMPLES
from mpo.pipeline.run.context import Context
from mpo.records import Compensation


def cut_model(
    context: Context, removed: Collection[str], judge: Judge, start: Weights | None = None
) -> tuple[nn.Module, tuple[Cut, ...], Compensation | None]:
    """The original without these blocks, where they stood, and what was made up for; the latter is
    None for random inputs, which say nothing of what the model will see.

    Outputs that are nearer to the original's are mostly, not always, better ones: what lowers
    validation quality is taken back.

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
    bare = copy.deepcopy(model.state_dict())
    batches = limit(context.calibration(), HARM_EXAMPLES)
    told = compensate(context.original, model, cuts, batches, context.kind)
    if not told.steps:
        return model, cuts, told
    after = judge(model)
    made_up = copy.deepcopy(model.state_dict())
    model.load_state_dict(bare)
    before = judge(model)
    kept = drop(before, after) <= 0
    if kept:
        model.load_state_dict(made_up)
    known = {"quality_before": before.value, "quality_after": after.value, "kept": kept}
    return model, cuts, told.model_copy(update=known)
