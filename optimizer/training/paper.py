"""The published algorithm, `--method mpruner-paper`: anchor runs of CKA, stride k, retrain, accept
or roll back.

 Source: MPruner (arXiv 2408.13482) and its authors' released code. The loop, the threshold, the
     stride k = 1..3

     and
the acceptance rule are theirs. Plain faults are repaired, each listed in docs/algorithm.md: one
unbiased CKA for every model (theirs uses three estimators), calibration from the training split
and acceptance on validation (theirs: the test split for both), blocks whose removal is proved by a
forward pass, clusters within one group.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from mpo.optimizer.analysis.cka import Similarity
from mpo.optimizer.analysis.clusters import anchor_runs, paper_removals
from mpo.optimizer.blocks.bypass import bypass
from mpo.optimizer.data.quality import drop
from mpo.records import Block, Quality, Recovery

LAST_STRIDE = 3
Measure = Callable[[nn.Module, tuple[str, ...]], Similarity]
Retrain = Callable[[nn.Module], tuple[Quality, Recovery]]


@dataclass(frozen=True)
class PaperResult:
    """What the loop ended with.

    Attributes:
        model: the last accepted model, in its original form; the removed blocks are still to be
            taken out.
        removed: names of the blocks that go.
        recovery: of the last accepted iteration; None when nothing was accepted.
        notes: one sentence an iteration.
    """

    model: nn.Module
    removed: tuple[str, ...]
    recovery: Recovery | None
    notes: tuple[str, ...]


def run_paper(
    model: nn.Module,
    blocks: Sequence[Block],
    measure: Measure,
    retrain: Retrain,
    original: Quality,
    *,
    threshold: float,
    max_drop: float,
) -> PaperResult:
    """Prune until no cluster is left or every stride was refused.

    Blocks under removal are bypassed, which computes the same as their physical removal, so that
    names stay.

    Args:
        model: the trained model; it is copied.
        blocks: all blocks in execution order.
        measure: similarity of the named blocks of a model.
        retrain: trains the model in place and judges it on validation.
        original: quality of the original on validation.
        threshold: CKA with the anchor that keeps a run going, in (0, 1].
        max_drop: largest drop that is accepted.
    """
    best: nn.Module = copy.deepcopy(model)
    recovery: Recovery | None = None
    notes: list[str] = []
    stride = 1
    accepted: tuple[str, ...] = ()
    while stride <= LAST_STRIDE:
        chosen = propose(best, blocks, accepted, measure, threshold, stride)
        if not chosen:
            notes.append(f"k = {stride}: no cluster above {threshold:g} is left to thin.")
            break
        gone = {*accepted, *chosen}
        trial, removed = copy.deepcopy(best), tuple(b.name for b in blocks if b.name in gone)
        with bypass(trial, removed):
            quality, tried = retrain(trial)
        lost = drop(original, quality)
        verdict = "accepted" if lost <= max_drop else "rolled back"
        notes.append(f"k = {stride}: {len(chosen)} blocks out, drop {lost:.4f}: {verdict}.")
        if lost <= max_drop:
            best, accepted, recovery = trial, removed, tried
        else:
            stride += 1
    return PaperResult(best, accepted, recovery, tuple(notes))


def propose(
    model: nn.Module,
    blocks: Sequence[Block],
    gone: Sequence[str],
    measure: Measure,
    threshold: float,
    stride: int,
) -> tuple[str, ...]:
    """The blocks that one iteration removes: `run[1::stride]` of each anchor run, removable ones
    only."""
    kept = [block for block in blocks if block.name not in gone]
    names = tuple(block.name for block in kept)
    with bypass(model, gone):
        similarity = measure(model, names)
    removable = {block.name for block in kept if block.removable}
    chosen: list[str] = []
    for run in anchor_runs(similarity.matrix, threshold):
        chosen += [names[i] for i in paper_removals([run], stride) if names[i] in removable]
    return tuple(chosen)
