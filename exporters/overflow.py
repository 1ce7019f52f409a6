"""What 16 bits cannot hold: values that pass the range on real inputs, weights, stand-ins for
infinity."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from mpo.exporters.converted import STAND_IN, Feeds, difference, floats, run
from mpo.exporters.halving import Half

MASK = 3e4  # what stands for infinity in fp16: far beyond any score, with room to add one
CHUNK = 64  # values fetched in one run


def masks_tamed(model: ModelProto, feeds: Feeds, wanted: list[list[Any]], half: Half) -> ModelProto:
    """Constants that stand for infinity (an attention mask's -3.4e38) brought into range, when
    the float32 outputs do not notice."""
    tamed = ModelProto()
    tamed.CopyFrom(model)
    found = False
    for weight in tamed.graph.initializer:
        if weight.data_type != TensorProto.FLOAT:
            continue
        array = numpy_helper.to_array(weight)
        huge = np.isfinite(array) & (np.abs(array) > STAND_IN)
        if half.largest < STAND_IN and huge.any():
            small = np.where(huge, np.sign(array) * np.float32(MASK), array)
            weight.CopyFrom(numpy_helper.from_array(small.astype(np.float32), weight.name))
            found = True
    if not found:
        return model
    same = worst(wanted, [floats(values) for values in run(tamed, feeds)])
    return tamed if same <= 1e-5 else model


def worst(wanted: list[list[Any]], found: list[list[Any]]) -> float:
    """The largest difference of any output on any feed, relative to that output's scale."""
    pairs = [(a, b) for x, y in zip(wanted, found, strict=True) for a, b in zip(x, y, strict=True)]
    return max((difference(a, b) for a, b in pairs), default=0.0)


def overflowing(
    model: ModelProto, feeds: Feeds, kinds: dict[str, str], half: Half
) -> dict[str, str]:
    """Nodes beside a value, or with a weight, that half cannot hold."""
    peaks = _peaks(model, feeds, [name for name, kind in kinds.items() if kind == "float"])
    bad = {
        name: f"{name} reaches {peak:.3g}, half holds {half.largest:g}"
        for name, peak in peaks.items()
        if peak > half.largest
    }
    bad |= {
        weight.name: reason
        for weight in model.graph.initializer
        if weight.data_type == TensorProto.FLOAT
        and (reason := half.misfit(weight.name, numpy_helper.to_array(weight)))
    }
    return {
        node.name: next(bad[name] for name in (*node.output, *node.input) if name in bad)
        for node in model.graph.node
        if bad.keys() & {*node.output, *node.input}
    }


def _peaks(model: ModelProto, feeds: Feeds, names: list[str]) -> dict[str, float]:
    """Largest finite magnitude of each value on the feeds."""
    peaks = dict.fromkeys(names, 0.0)
    for start in range(0, len(names), CHUNK):
        chunk = names[start : start + CHUNK]
        for values in run(model, feeds, chunk):
            for name in chunk:
                finite = values[name][np.isfinite(values[name])]
                peaks[name] = max(peaks[name], float(np.abs(finite).max(initial=0.0)))
    return peaks
