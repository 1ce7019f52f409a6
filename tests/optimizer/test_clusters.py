"""Runs by anchor, clusters inside groups, and the threshold beside the null."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mpo.errors import UsageError
from mpo.optimizer.analysis.cka import Similarity
from mpo.optimizer.analysis.clusters import (
    anchor_runs,
    default_threshold,
    find_clusters,
    near_copies,
    paper_removals,
)
from mpo.records import Block, Harm

NAN = float("nan")


def symmetric(upper: list[list[float]]) -> np.ndarray:
    matrix = np.triu(np.array(upper))
    return matrix + np.triu(matrix, 1).T


CHAIN = symmetric(
    [
        [1.0, 0.99, 0.97, 0.80],
        [0.0, 1.00, 0.99, 0.98],
        [0.0, 0.00, 1.00, 0.99],
        [0.0, 0.00, 0.00, 1.00],
    ]
)


def block(name: str, group: str, index: int) -> Block:
    return Block(
        name=name, kind="B", index=index, group=group, params=1, macs=1, removable=True
    )  # fmt: skip


def similar(matrix: np.ndarray, names: str) -> Similarity:
    return Similarity(tuple(names), matrix, 0.05, 1000, {})


def test_members_are_compared_with_the_anchor_and_not_with_their_neighbour() -> None:
    assert anchor_runs(CHAIN, 0.98) == ((0, 1), (2, 3))
    assert anchor_runs(CHAIN, 0.97) == ((0, 1, 2), (3,))


def test_a_similar_block_beyond_a_gap_is_never_grouped() -> None:
    matrix = symmetric([[1.0, 0.5, 0.99], [0, 1.0, 0.5], [0, 0, 1.0]])
    assert anchor_runs(matrix, 0.9) == ((0,), (1,), (2,))


def test_the_threshold_itself_counts_as_similar() -> None:
    assert anchor_runs(CHAIN, 0.99) == ((0, 1), (2, 3))


def test_an_undefined_entry_ends_a_run() -> None:
    matrix = symmetric([[1.0, NAN, 0.99], [0, NAN, NAN], [0, 0, 1.0]])
    assert anchor_runs(matrix, 0.5) == ((0,), (1,), (2,))


def test_no_blocks_make_no_runs() -> None:
    assert anchor_runs(np.zeros((0, 0)), 0.5) == ()


@pytest.mark.parametrize(
    ("k", "removed"), [(1, (1, 2, 3, 4, 5, 6, 8)), (2, (1, 3, 5, 8)), (3, (1, 4, 8))]
)
def test_a_larger_stride_removes_less(k: int, removed: tuple[int, ...]) -> None:
    assert paper_removals(((0, 1, 2, 3, 4, 5, 6), (7, 8)), k) == removed


def test_a_stride_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 1 and is 0"):
        paper_removals(((0, 1),), 0)


def test_clusters_stay_inside_their_group() -> None:
    blocks = [
        block(name, group, i) for i, (name, group) in enumerate(zip("abcd", "xxyy", strict=True))
    ]
    found = find_clusters(similar(np.ones((4, 4)), "abcd"), blocks, 0.9)
    assert [(c.anchor, c.members) for c in found] == [("a", ("a", "b")), ("c", ("c", "d"))]


def test_a_cluster_names_its_lowest_similarity_with_the_anchor() -> None:
    blocks = [block(name, "x", i) for i, name in enumerate("abcd")]
    (found,) = find_clusters(similar(CHAIN, "abcd"), blocks, 0.97)
    assert found.members == ("a", "b", "c")
    assert found.min_cka == pytest.approx(0.97)


def test_lonely_blocks_are_no_clusters() -> None:
    blocks = [block(name, "x", i) for i, name in enumerate("abcd")]
    assert find_clusters(similar(np.eye(4), "abcd"), blocks, 0.9) == ()


def test_a_name_without_a_block_is_refused() -> None:
    with pytest.raises(UsageError, match="'b'"):
        find_clusters(similar(np.eye(2), "ab"), [block("a", "x", 0)], 0.9)


@pytest.mark.parametrize(
    ("null", "expected"), [(0.0, 0.9), (0.5, 0.95), (NAN, 0.9), (-0.1, 0.9), (1.0, 1.0)]
)
def test_the_threshold_rises_with_the_null(null: float, expected: float) -> None:
    assert default_threshold(null) == pytest.approx(expected)


def test_near_copies_of_one_cluster_are_penalised_by_their_similarity() -> None:
    blocks = [block(name, "x", i) for i, name in enumerate("abcd")]
    similarity = similar(CHAIN, "abcd")
    clusters = find_clusters(similarity, blocks, 0.97)
    harms = [
        Harm(name=name, kl=kl, agreement=1.0, branch_ratio=0.1)
        for name, kl in zip("abd", (0.1, 0.4, 0.3), strict=True)
    ]
    penalties = near_copies(similarity, harms, clusters)
    assert list(penalties) == [("a", "b")]
    assert penalties["a", "b"] == pytest.approx(2 * (0.94 / 0.95) * math.sqrt(0.04))
