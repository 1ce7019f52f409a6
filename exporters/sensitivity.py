"""Mixed precision: which layers int8 harms, and the fewest that must stay float32."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpo.errors import InfeasibleError, UsageError
from mpo.exporters.converted import Array, Converted, Feeds, distance, write_graph
from mpo.exporters.quantize import PORTABLE, Calibration, Layout, calibrated, finished, outputs_of
from mpo.exporters.ranges import METHODS, Method

Judge = Callable[[Path], float]
GROUPS = 64  # single-layer trials at most; longer models are tried in runs of layers
EVALUATIONS = 12


@dataclass(frozen=True)
class LayerHarm:
    """What int8 does in one layer (or a few that follow each other) while all else is float32.

    Attributes:
        nodes: of the layer.
        harm: mean KL divergence of the decisions (last axis) from the float32 model's, in nats;
            for a model without several scores the outputs' relative squared error.
    """

    nodes: tuple[str, ...]
    harm: float


@dataclass(frozen=True)
class Mixed:
    """A model in int8 save for the layers that it needs in float32.

    Attributes:
        converted: the file.
        layers: all layers, the most harmful first; none when plain int8 reaches the floor.
        kept: nodes that stay float32.
        quality: of the file, as the judge saw it.
        evaluations: calls of the judge.
    """

    converted: Converted
    layers: tuple[LayerHarm, ...]
    kept: tuple[str, ...]
    quality: float
    evaluations: int


def sensitivity(
    source: Path,
    target: Path,
    feeds: Feeds,
    judge: Judge,
    floor: float,
    *,
    evaluations: int = EVALUATIONS,
    methods: Sequence[Method] = METHODS,
    layout: Layout = PORTABLE,
) -> Mixed:
    """Find the fewest layers to keep in float32 so that the judged quality reaches the floor.

    Layers are ordered by the harm that each does alone; the smallest number of the most harmful
    ones is found by bisection, and then single layers go back to int8, the least harmful first,
    as long as the floor holds and evaluations are left.

    Args:
        feeds: real inputs, for calibration and for harm.
        judge: quality of an ONNX file, higher is better; on validation data, not on test.
        floor: quality that must be reached.
        layout: as for `quantize_static`.
        evaluations: calls of the judge at most; about log2(layers) + 2 are needed.

    Raises:
        UsageError: as `quantize_static`, or too few evaluations.
        InfeasibleError: float32 itself is below the floor, or only float32 reaches it.
    """
    calibration = calibrated(source, feeds, methods, layout)
    wanted = outputs_of(calibration.model, feeds)
    method = _best_method(calibration, wanted, feeds, methods)
    count = -(-len(calibration.layers) // _group_size(calibration))
    needed = int(np.ceil(np.log2(count + 1))) + 2
    if evaluations < needed:
        raise UsageError(
            f"{evaluations} evaluations are too few for {count} layers; {needed} are needed."
        )
    layers: list[LayerHarm] = []
    kept: list[LayerHarm] = []
    with tempfile.TemporaryDirectory(prefix="mpo-") as folder:
        trial = _Trial(calibration, method, judge, Path(folder))
        quality = trial.quality([])
        if not quality >= floor:
            layers = harms(calibration, method, feeds, wanted)
            kept, quality = _fewest(trial, layers, floor, evaluations)
    reasons = {
        node: f"harm of int8 in this layer alone: {layer.harm:.2g}"
        for layer in kept
        for node in layer.nodes
    }
    nodes = [name for name in calibration.layers if name not in reasons]
    model = calibration.quantized(method, nodes)
    error = distance(wanted, outputs_of(model, feeds))
    made = finished(
        model, calibration.model, target, "int8", reasons, error, f"calibration {method}"
    )
    return Mixed(made, tuple(layers), tuple(reasons), quality, trial.calls)


def harms(
    calibration: Calibration,
    method: Method,
    feeds: Feeds,
    wanted: Sequence[Array],
) -> list[LayerHarm]:
    """Every layer's harm when it alone is in int8, the most harmful first.

    Args:
        wanted: the float32 outputs on the feeds.
    """
    found = []
    size = _group_size(calibration)
    for start in range(0, len(calibration.layers), size):
        group = calibration.layers[start : start + size]
        model = calibration.quantized(method, group)
        found.append(LayerHarm(group, harm_of(wanted, outputs_of(model, feeds))))
    return sorted(found, key=lambda layer: -layer.harm)


def _group_size(calibration: Calibration) -> int:
    return -(-len(calibration.layers) // GROUPS)


def harm_of(wanted: Sequence[Array], got: Sequence[Array]) -> float:
    """Mean KL divergence over the last axis of the first output with several scores, in nats;
    the relative squared error of all outputs when there is none."""
    terms = [
        _divergence(a, b)
        for a, b in zip(wanted, got, strict=True)
        if a.ndim >= 2 and a.shape[-1] >= 2
    ]
    harm = float(np.mean(np.concatenate(terms))) if terms else distance(wanted, got) ** 2
    return harm if np.isfinite(harm) else float("inf")


def _divergence(wanted: Array, got: Array) -> Array:
    first, second = _log_softmax(wanted), _log_softmax(got)
    return np.asarray((np.exp(first) * (first - second)).sum(-1).reshape(-1))


def _log_softmax(scores: Array) -> Array:
    exact = scores.astype(np.float64)
    moved = exact - exact.max(-1, keepdims=True)
    return np.asarray(moved - np.log(np.exp(moved).sum(-1, keepdims=True)))


def _best_method(
    calibration: Calibration,
    wanted: Sequence[Array],
    feeds: Feeds,
    methods: Sequence[Method],
) -> Method:
    def error(method: Method) -> float:
        model = calibration.quantized(method, calibration.layers)
        return distance(wanted, outputs_of(model, feeds))

    return min(methods, key=error)


class _Trial:
    """Builds the model with some layers kept, and asks the judge."""

    def __init__(
        self,
        calibration: Calibration,
        method: Method,
        judge: Judge,
        folder: Path,
    ) -> None:
        self.calibration, self.method = calibration, method
        self.judge, self.folder = judge, folder
        self.calls = 0

    def quality(self, kept: Sequence[LayerHarm]) -> float:
        """Of the model with these layers in float32."""
        out = {node for layer in kept for node in layer.nodes}
        nodes = [name for name in self.calibration.layers if name not in out]
        model = self.calibration.quantized(self.method, nodes)
        path = self.folder / f"trial_{self.calls}.onnx"
        write_graph(model, path)
        self.calls += 1
        try:
            return float(self.judge(path))
        finally:
            path.unlink()


def _fewest(
    trial: _Trial, layers: list[LayerHarm], floor: float, evaluations: int
) -> tuple[list[LayerHarm], float]:
    """The layers to keep and the quality that they give; keeping none is known to be too few."""
    best = trial.quality(layers)
    if not best >= floor:
        raise InfeasibleError(
            f"Even in float32 the quality is {best:.4g}, below the floor of {floor:.4g}.",
            hint="Allow a larger drop, or recover the model longer first.",
        )
    low, high, reached = 0, len(layers), best  # keeping `low` is too few, `high` are enough
    while high - low > 1:
        middle = (low + high) // 2
        quality = trial.quality(layers[:middle])
        if quality >= floor:
            high, reached = middle, quality
        else:
            low = middle
    kept = list(layers[:high])
    for layer in reversed(layers[: high - 1]):
        if trial.calls >= evaluations:
            break
        fewer = [other for other in kept if other is not layer]
        quality = trial.quality(fewer)
        if quality >= floor:
            kept, reached = fewer, quality
    if len(kept) == len(layers):
        raise InfeasibleError(
            f"int8 in any of the {len(layers)} layers takes the quality below {floor:.4g}; float32 "
            f"has {best:.4g}.",
            hint="Use fp16, or allow a larger drop.",
        )
    return kept, reached
