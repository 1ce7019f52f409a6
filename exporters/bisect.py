"""The first node at which two ONNX graphs, or a graph and a list of reference values, part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto

from mpo.errors import UsageError
from mpo.exporters.converted import Array, Feeds, bodies, difference, read_graph, run

CHUNK = 32  # reference values compared in one run


@dataclass(frozen=True)
class Divergence:
    """Where two graphs part.

    Attributes:
        node, op: in the original graph; all that goes into it agrees.
        value: the node's output that differs.
        error: relative to the largest magnitude of the original's value; infinite when shapes
            differ or one of the two is NaN.
        want, got: the two entries that differ the most; NaN when shapes differ.
        feed: place of the input on which it was seen.
        runs: how often each graph was run on the feeds.
    """

    node: str
    op: str
    value: str
    error: float
    want: float
    got: float
    feed: int
    runs: int

    def __str__(self) -> str:
        return (
            f"{self.op} {self.node!r} is the first node that differs: its output {self.value!r} is "
            f"{self.got:.6g} where {self.want:.6g} is expected ({self.error:.2g} of its scale)"
        )


def first_divergence(
    original: Path | ModelProto,
    candidate: Path | ModelProto,
    feeds: Feeds,
    tolerance: float = 1e-3,
) -> Divergence | None:
    """Bisect to the first value, in the original's order, that differs by more than `tolerance`.

    Both graphs run as they are written, without fusions, about log2(nodes) times: each time only
    the values that cross the middle of what is left are fetched. When they all agree, what parts
    the graphs lies behind them. Values are matched by name, so fused or renamed ones are passed
    over and the next common one is named. A difference that no later value shows is not found.

    Args:
        feeds: inputs by name, the same for both.
        tolerance: largest difference over the value's largest magnitude; NaN, infinities and
            shapes must agree as well.

    Returns:
        None when every output agrees.

    Raises:
        UsageError: a graph that cannot be read or run, or no value with a common name.
    """
    first, second = _graph(original), _graph(candidate)
    search = _Search(first, second, feeds, tolerance)
    names = search.names
    if not names:
        raise UsageError(
            "The two graphs have no value of the same name, so nothing can be compared."
        )
    low, high = 0, len(names)  # everything before `low` agrees, something before `high` differs
    last = search.differing(search.crossing(high))
    if last is None:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        found = search.differing(search.crossing(middle))
        low, high = (middle, high) if found is None else (low, middle)
        last = last if found is None else found
    return replace(last, runs=search.runs)


def against(
    path: Path | ModelProto,
    references: Sequence[Mapping[str, Array]],
    feeds: Feeds,
    tolerance: float = 1e-3,
) -> Divergence | None:
    """The first value of the graph that differs from its reference, such as a torch module's
    output kept under the value's name.

    Args:
        references: one mapping a feed: the expected arrays by value name; others are left out.

    Raises:
        UsageError: no reference that is a value of the graph, or not one mapping a feed.
    """
    graph = _graph(path)
    known = set().union(*references) if references else set()
    names = [name for name in _produced(graph) if name in known]
    if not names or len(references) != len(feeds):
        raise UsageError(
            f"{len(references)} sets of reference values with {len(names)} names that the graph "
            f"has cannot be compared on {len(feeds)} inputs."
        )
    for start in range(0, len(names), CHUNK):
        chunk = names[start : start + CHUNK]
        values = list(run(graph, feeds, chunk))
        for name in chunk:
            for feed, (reference, got) in enumerate(zip(references, values, strict=True)):
                if name in reference and difference(reference[name], got[name]) > tolerance:
                    pair = reference[name], got[name]
                    return _divergence(graph, name, *pair, feed, start // CHUNK + 1)
    return None


class _Search:
    """The common values of two graphs in order, and whether some of them differ."""

    def __init__(
        self, first: ModelProto, second: ModelProto, feeds: Feeds, tolerance: float
    ) -> None:
        self.first, self.second, self.feeds, self.tolerance = first, second, feeds, tolerance
        common = set(_produced(second))
        self.names = [name for name in _produced(first) if name in common]
        self.last_use = _last_uses(first, self.names)
        self.runs = 0

    def crossing(self, place: int) -> list[str]:
        """Of the first `place` values those that something behind them still needs."""
        return [name for name in self.names[:place] if self.last_use[name] >= place]

    def differing(self, names: list[str]) -> Divergence | None:
        """The first of these values that differs."""
        self.runs += 1
        worst: dict[str, Divergence] = {}
        pairs = zip(
            run(self.first, self.feeds, names), run(self.second, self.feeds, names), strict=True
        )
        for feed, (want, got) in enumerate(pairs):
            for name in names:
                if name in worst or not isinstance(want[name], np.ndarray):  # a list of tensors
                    continue
                if difference(want[name], got[name]) > self.tolerance:
                    worst[name] = _divergence(
                        self.first, name, want[name], got[name], feed, self.runs
                    )
        return next((worst[name] for name in names if name in worst), None)


def _graph(model: Path | ModelProto) -> ModelProto:
    return read_graph(model) if isinstance(model, Path) else model


def _produced(model: ModelProto) -> list[str]:
    return [name for node in model.graph.node for name in node.output if name]


def _last_uses(model: ModelProto, names: list[str]) -> dict[str, int]:
    """Per common value the place, among the common ones, of the last one that depends on it with
    no other common value between; the end for what reaches an output. All through one backward
    walk: a value that only one graph has hands its own users on to what it is made of.
    """
    places = {name: place for place, name in enumerate(names)}
    uses = {value.name: len(names) for value in model.graph.output}
    for node in reversed(model.graph.node):
        reach = -1
        for name in node.output:
            reach = max(reach, places.get(name, uses.get(name, -1)))
        for name in _consumed(node):
            uses[name] = max(uses.get(name, -1), reach)
    return {name: uses.get(name, -1) for name in names}


def _consumed(node: NodeProto) -> list[str]:
    names = [name for name in node.input if name]
    for body in bodies(node):
        names += [name for inner in body.node for name in _consumed(inner)]
        names += [value.name for value in body.output]
    return names


def _divergence(
    model: ModelProto, value: str, want: Array, got: Array, feed: int, runs: int
) -> Divergence:
    node = next(node for node in model.graph.node if value in node.output)
    pair = (float("nan"), float("nan"))
    if want.shape == got.shape and want.size:
        gaps = np.abs(np.asarray(want, np.float64) - np.asarray(got, np.float64))
        place = int(np.argmax(np.where(np.isnan(gaps), np.inf, gaps)))
        pair = float(want.reshape(-1)[place]), float(got.reshape(-1)[place])
    error = difference(want, got)
    return Divergence(node.name, node.op_type, value, error, *pair, feed, runs)
