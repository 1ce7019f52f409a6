"""Ranges of the values in a graph, by three calibration methods, from one pass over real inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from onnx import ModelProto
from onnxruntime.quantization.calibrate import HistogramCollector

from mpo.errors import UsageError
from mpo.exporters.converted import Array, Feeds, run
from mpo.exporters.simplify import quiet

Method = Literal["minmax", "entropy", "percentile"]
Ranges = Mapping[str, tuple[float, float]]
METHODS: tuple[Method, ...] = ("minmax", "entropy", "percentile")
PERCENTILE = 99.99  # 99.999, the library's own choice, hardly differs from the extremes


def observe(
    model: ModelProto, feeds: Feeds, names: Sequence[str], methods: Sequence[Method] = METHODS
) -> dict[Method, Ranges]:
    """Lowest and highest value to represent, by method and value name.

    "minmax" takes the extremes; "entropy" cuts them where the histogram loses least (KL
    divergence, as TensorRT's calibrator did); "percentile" cuts 0.01 %. Values that are no float32
    are left out.

    Raises:
        UsageError: an unknown method, no feeds, or feeds that the model does not take.
    """
    unknown = [method for method in methods if method not in METHODS]
    if unknown or not methods:
        raise UsageError(
            f"{', '.join(unknown) or 'None'} is no calibration method.",
            hint=f"There are {', '.join(METHODS)}.",
        )
    collectors = {
        method: HistogramCollector(
            method=method,
            symmetric=method == "percentile",
            num_bins=2048 if method == "percentile" else 128,
            num_quantized_bins=128,
            percentile=PERCENTILE,
            scenario="same",
        )
        for method in methods
        if method != "minmax"
    }
    extremes: dict[str, tuple[float, float]] = {}
    for values in run(model, feeds, names):
        usual = {name: value for name, value in values.items() if value.dtype == np.float32}
        _stretch(extremes, usual)
        with quiet():
            for collector in collectors.values():
                collector.collect({name: [_finite(value)] for name, value in usual.items()})
    return {
        method: extremes if method == "minmax" else _cut(collectors[method], extremes)
        for method in methods
    }


def _finite(value: Array) -> Array:
    kept = value[np.isfinite(value)]
    return kept if kept.size else np.zeros(1, value.dtype)


def _stretch(extremes: dict[str, tuple[float, float]], values: Mapping[str, Array]) -> None:
    for name, value in values.items():
        finite = _finite(value)
        low, high = extremes.get(name, (float("inf"), float("-inf")))
        extremes[name] = min(low, float(finite.min())), max(high, float(finite.max()))


def _cut(collector: Any, extremes: Ranges) -> Ranges:
    with quiet():
        found = collector.compute_collection_result()
    return {
        name: (max(float(cut[0]), extremes[name][0]), min(float(cut[1]), extremes[name][1]))
        for name, cut in found.items()
    }
