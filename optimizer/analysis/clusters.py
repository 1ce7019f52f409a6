"""Runs of consecutive blocks that analysis finds alike.

The rule is the published one ("anchor linkage", MPruner 2408.13482 as released): walk the blocks in
execution order; a run holds every next block whose CKA with the run's *first* block is at least the
threshold; the
first one that falls short starts a new run. Removal keeps the first of a run and takes `run[1::k]`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, pairwise

import numpy as np

from mpo.errors import UsageError
from mpo.optimizer.analysis.cka import Matrix, Similarity
from mpo.records import Block, Cluster, Harm

ABOVE_NULL = 0.9


def anchor_runs(matrix: Matrix, threshold: float) -> tuple[tuple[int, ...], ...]:
    """Split 0..L-1 into contiguous runs in which CKA with the first member is >= threshold.

    Args:
        matrix: CKA [L, L]; an undefined entry (NaN) ends a run.
        threshold: a share, 0.98 for the paper's "98".

    Returns:
        Runs in order, singletons included: together every index once.
    """
    runs: list[list[int]] = []
    for index in range(len(matrix)):
        if runs and matrix[runs[-1][0], index] >= threshold:
            runs[-1].append(index)
        else:
            runs.append([index])
    return tuple(tuple(run) for run in runs)


def paper_removals(runs: Sequence[Sequence[int]], k: int) -> tuple[int, ...]:
    """What the released algorithm deletes: `run[1::k]` of every run, so a larger stride k removes
    less.

    Raises:
        UsageError: k below 1.
    """
    if k < 1:
        raise UsageError(
            f"The removal stride must be at least 1 and is {k}.", hint="The paper uses 1, 2 and 3."
        )
    return tuple(index for run in runs for index in run[1::k])


def default_threshold(null_95: float, share: float = ABOVE_NULL) -> float:
    """The threshold that lies `share` of the way from chance level (the null's 95 % quantile) to 1.

    With thousands of examples the null is near 0 and this is near `share`; with few examples chance
    alone makes blocks look alike, and the threshold rises. An undefined null counts as 0.
    """
    floor = min(max(null_95, 0.0), 1.0) if np.isfinite(null_95) else 0.0
    return floor + share * (1.0 - floor)


def find_clusters(
    similarity: Similarity, blocks: Sequence[Block], threshold: float
) -> tuple[Cluster, ...]:
    """Runs of at least two similar blocks, never across the border of a `Block.group`.

    A run's first member is its anchor; `min_cka` is the lowest CKA of a member with the anchor.

    Raises:
        UsageError: a name of the similarity that is not among the blocks.
    """
    groups = {block.name: block.group for block in blocks}
    unknown = [name for name in similarity.names if name not in groups]
    if unknown:
        raise UsageError(
            f"The similarity speaks of {unknown[0]!r}, which is not among the {len(groups)} blocks."
        )
    found: list[Cluster] = []
    for start, stop in _stretches([groups[name] for name in similarity.names]):
        for run in anchor_runs(similarity.matrix[start:stop, start:stop], threshold):
            if len(run) > 1:
                members = [start + index for index in run]
                found.append(_cluster(similarity, members))
    return tuple(found)


def _stretches(groups: Sequence[str]) -> list[tuple[int, int]]:
    """[start, stop) of every stretch of equal neighbours."""
    borders = [i for i in range(1, len(groups)) if groups[i] != groups[i - 1]]
    edges = [0, *borders, len(groups)]
    return [(start, stop) for start, stop in pairwise(edges) if stop > start]


def _cluster(similarity: Similarity, members: Sequence[int]) -> Cluster:
    names = tuple(similarity.names[index] for index in members)
    lowest = float(similarity.matrix[members[0], list(members[1:])].min())
    return Cluster(members=names, anchor=names[0], min_cka=lowest)


def near_copies(
    similarity: Similarity, harms: Sequence[Harm], clusters: Sequence[Cluster]
) -> dict[tuple[str, str], float]:
    """Penalties for removing both of two blocks of one cluster: 2 s sqrt(harm_i harm_j).

    To second order the KL divergence is a quadratic form in the change of the logits, so removing
    i and j costs harm_i + harm_j + 2 rho sqrt(harm_i harm_j), rho being the correlation of their
    two effects. CKA stands in for rho: s = (CKA - null_95) / (1 - null_95), cut to [0, 1]. Pairs
    with an undefined entry or without a measured harm have none.
    """
    alone = {harm.name: harm.kl for harm in harms}
    places = {name: place for place, name in enumerate(similarity.names)}
    null = similarity.null_95 if np.isfinite(similarity.null_95) else 0.0
    penalties = {}
    for one, other in _pairs(clusters):
        likeness = (similarity.matrix[places[one], places[other]] - null) / (1.0 - null)
        if one in alone and other in alone and likeness > 0:
            share = min(float(likeness), 1.0)
            penalties[one, other] = 2.0 * share * math.sqrt(alone[one] * alone[other])
    return penalties


def _pairs(clusters: Sequence[Cluster]) -> list[tuple[str, str]]:
    return [pair for cluster in clusters for pair in combinations(cluster.members, 2)]
