"""A pruned and trained model seen as the whole one again, so that blocks keep their names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

from mpo.optimizer.blocks.surgery import Surgery, remove_blocks
from mpo.optimizer.ground.copies import clone

Weights = Mapping[str, Tensor]


def unpruned(
    original: nn.Module, removed: Collection[str], weights: Mapping[str, Any]
) -> nn.Module:
    """A copy of the original in which all blocks but the removed ones have these weights.

    Args:
        original: the whole model, with the notes of find_blocks; not changed.
        removed: blocks that the weights' model lacks.
        weights: the state dict of that model.
    """
    whole = clone(original)
    surgery = Surgery(whole)
    surgery.remove(removed)
    whole.load_state_dict(dict(weights))  # the blocks that stay are the whole model's own
    surgery.undo()
    return whole


def weights_without(whole: nn.Module, removed: Collection[str]) -> Weights:
    """The state dict that a whole model has once these blocks are gone."""
    return {key: value.clone() for key, value in remove_blocks(whole, removed).state_dict().items()}
