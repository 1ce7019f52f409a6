"""The analysis stage: blocks, their similarity, clusters and harm."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mpo.errors import InfeasibleError
from mpo.optimizer.analysis.cka import Similarity, measure_similarity
from mpo.optimizer.analysis.clusters import default_threshold, find_clusters, near_copies
from mpo.optimizer.analysis.harm import HarmMeter, measure_harm
from mpo.optimizer.data.batches import Batch, limit
from mpo.optimizer.ground.distributed import ALONE, Crew
from mpo.optimizer.training.gates import learn_gates
from mpo.pipeline.run.context import Context
from mpo.pipeline.run.fingerprints import fingerprint_batches
from mpo.pipeline.run.saved import read, save
from mpo.pipeline.run.snapshots import FolderKeeper
from mpo.records import Analysis, Block, Harm

HARM_EXAMPLES = 128
PAPER_THRESHOLD = 0.98  # the released code's default, 98
NOTHING = Analysis(
    names=(), similarity=(), null_95=0.0, threshold=1.0, samples=0, clusters=(), harms=(), blocks=()
)
NO_SIMILARITY = Similarity((), np.zeros((0, 0)), 0.0, 0)


def analyze(context: Context) -> Analysis:
    """The analysis of the run, made once and kept in its folder."""

    def make(folder: Path) -> None:
        record, similarity = measure_analysis(context)
        save(record, folder / "analysis.json")
        (folder / "similarity.npz").write_bytes(packed(similarity))

    folder = context.folder.stage("analysis", context.base_key, make)
    context.folder.place(folder / "similarity.npz", "similarity.npz")
    return read(Analysis, folder / "analysis.json")


def measure_analysis(context: Context) -> tuple[Analysis, Similarity]:
    """Find blocks, stream their similarity over calibration batches, bypass each one alone; with
    several processes each on its share of the batches."""
    steps = 3
    context.announce("analysis")
    context.progress("analysis: blocks", 0, steps)
    blocks = context.blocks
    if not any(block.removable for block in blocks):
        return NOTHING.model_copy(update={"blocks": blocks}), NO_SIMILARITY
    context.progress("analysis: similarity", 1, steps)
    similarity = similarity_of(context, comparable(blocks))
    context.progress("analysis: harm", 2, steps)
    blocks = without_broken(blocks, similarity)
    removable = tuple(block.name for block in blocks if block.removable)
    meter = harm_meter(context, context.crew)
    ratios, keeper = similarity.branch_ratio, keeper_of(context, removable, "harm", meter.batches)
    harms = measure_harm(context.original, removable, (), ratios, meter=meter, keeper=keeper)
    if context.recipe.harm == "gates" and context.crew.rank == 0:
        harms = gate_harms(context, harms)
    context.progress("analysis: harm", steps, steps)
    threshold = context.recipe.threshold or usual_threshold(context, similarity)
    record = Analysis(
        names=similarity.names,
        similarity=as_rows(similarity.matrix),
        # nothing to compare by chance either where nothing varies
        null_95=similarity.null_95 if np.isfinite(similarity.null_95) else 0.0,
        threshold=threshold,
        samples=similarity.samples,
        clusters=find_clusters(similarity, blocks, threshold),
        harms=harms,
        blocks=blocks,
        warnings=(*undefined(similarity), *similarity.remarks, *meter.remarks),
    )
    return record, similarity


def similarity_of(context: Context, names: Sequence[str]) -> Similarity:
    """How alike these blocks' outputs are."""
    batches = context.calibration()
    return measure_similarity(
        context.original,
        names,
        batches,
        limit_examples=context.recipe.calibration,
        seed=context.recipe.seed,
        crew=context.crew,
        keeper=keeper_of(context, names, "similarity", batches),
    )


def keeper_of(
    context: Context, names: Sequence[str], what: str, batches: Sequence[Batch]
) -> FolderKeeper | None:
    """What keeps figures of these blocks on these batches through a kill; None with several
    processes, and where the analysis is no stage of a run. A loader of the user's own may shuffle
    anew each time, so its batches are in the key."""
    if context.crew.size > 1 or not context.folder.under_way:
        return None
    return FolderKeeper(context.folder, [*names, fingerprint_batches(batches)], what)


def without_broken(blocks: Sequence[Block], similarity: Similarity) -> tuple[Block, ...]:
    """The blocks; those whose output was NaN or infinite may not go, since nothing is known of
    them."""
    broken = {"removable": False, "reason": "Its output is NaN or infinite on calibration data."}
    return tuple(
        block.model_copy(update=broken if block.name in similarity.broken else {})
        for block in blocks
    )


def undefined(similarity: Similarity) -> tuple[str, ...]:
    """A warning for blocks without a similarity: not finite, or constant."""
    places = zip(similarity.names, similarity.matrix.diagonal(), strict=True)
    without = [name for name, own in places if not np.isfinite(own)]
    broken = [name for name in without if name in similarity.broken]
    constant = [name for name in without if name not in similarity.broken]
    told = []
    if broken:
        told.append(
            f"NaN or infinite output of {', '.join(broken)} on calibration data: similarity is "
            "undefined there, and nothing of it is removed."
        )
    if constant:
        told.append(
            f"A degenerate output of {', '.join(constant)} (the same for all calibration examples, "
            "or missing for some): similarity is undefined there, and it is in no cluster."
        )
    return tuple(told)


def harm_meter(context: Context, crew: Crew = ALONE) -> HarmMeter:
    """What measures the harm of removals as the recipe asks, on the leading calibration batches.

    Args:
        crew: the processes that share the batches.
    """
    return HarmMeter(
        context.original,
        limit(context.calibration(), HARM_EXAMPLES),
        context.kind,
        boundary=context.recipe.harm in ("boundary", "gates"),
        crew=crew,
    )


def gate_harms(context: Context, harms: Sequence[Harm]) -> tuple[Harm, ...]:
    """The harms as learned gates tell them: how surely a block is needed, -ln P(it may go).

    Joint removals are still judged by forward passes, along the boundary.
    """
    params = {block.name: float(block.params) for block in context.blocks if block.removable}
    batches = limit(context.calibration(), HARM_EXAMPLES)
    gates = learn_gates(
        context.original, params, batches, seed=context.recipe.seed, kind=context.kind
    )
    return tuple(one.model_copy(update={"kl": gates.harm(one.name)}) for one in harms)


def nothing_removable(blocks: Sequence[Block]) -> InfeasibleError:
    """The error for a model without a single removable block."""
    reasons = [f"{block.name}: {block.reason}" for block in blocks[:3]]
    told = f" ({'; '.join(reasons)})" if reasons else ""
    return InfeasibleError(
        f"No budget can be met by removing blocks: none of the model's {len(blocks)} "
        f"candidate blocks can go{told}.",
        hint="Depth pruning needs repeated blocks of equal shape; `mpo analyze` lists all reasons.",
    )


def comparable(blocks: Sequence[Block]) -> tuple[str, ...]:
    """Blocks that the probe saw run, so that they have an output to compare."""
    return tuple(block.name for block in blocks if block.removable or block.macs > 0)


def usual_threshold(context: Context, similarity: Similarity) -> float:
    """The published default for the published method, else relative to the permutation null."""
    if context.recipe.method == "mpruner-paper":
        return PAPER_THRESHOLD
    return default_threshold(similarity.null_95)


def near_pairs(analysis: Analysis) -> dict[tuple[str, str], float]:
    """The planner's penalties for removing two near-copies, from a saved analysis."""
    matrix = np.array(analysis.similarity, dtype=np.float64).reshape(len(analysis.names), -1)
    similarity = Similarity(analysis.names, matrix, analysis.null_95, analysis.samples)
    return near_copies(similarity, analysis.harms, analysis.clusters)


def as_rows(matrix: np.ndarray) -> tuple[tuple[float | None, ...], ...]:
    """A matrix for JSON: None where it is undefined."""
    return tuple(
        tuple(None if not np.isfinite(value) else float(value) for value in row) for row in matrix
    )


def packed(similarity: Similarity) -> bytes:
    """similarity.npz: matrix, names, samples and the null's 95 % quantile."""
    buffer = io.BytesIO()
    np.savez(
        buffer,
        matrix=similarity.matrix,
        names=np.array(json.dumps(similarity.names)),
        samples=similarity.samples,
        null_95=similarity.null_95,
    )
    return buffer.getvalue()
