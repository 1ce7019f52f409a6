"""Does an ONNX file compute what the torch model computes? Judged on real samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mpo.errors import MpoError, UsageError
from mpo.exporters.flatten import batch_size, named_leaves
from mpo.exporters.runtime import OnnxModel
from mpo.records import Parity

# float32 graphs that only reorder sums differ by about 1e-6 of the outputs' scale (STACK.md 3); a
# wrong operator, a frozen axis or a train-mode export differs by far more than a thousandth.
MAX_REL = 1e-3
MIN_AGREEMENT = 0.999
Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Allowed:
    """What a file may differ by and be in parity: largest relative difference, and equal decisions
    at least."""

    rel: float = MAX_REL
    agreement: float = MIN_AGREEMENT


EXACT = Allowed()
# What rounding costs is for the quality floor to judge. 11 bits at every step stay near; 8 bits may
# not, and then some layers go back to float32: of them only shapes and finite numbers are asked.
ROUNDED = {
    "fp16": Allowed(0.05, 0.98),
    "int8": Allowed(math.inf, 0.0),
    "int8-dynamic": Allowed(math.inf, 0.0),
}


def check_parity(
    model: nn.Module,
    path: Path,
    batches: Sequence[Call],
    primary: Callable[[Any], Tensor],
    allowed: Allowed = EXACT,
) -> Parity:
    """Compare the file with the model on every batch; both run on the CPU in eval mode.

    `max_abs` is the largest difference of the deciding tensor, `max_rel` that over the largest
    magnitude of the model's own output, `agreement` the share of equal decisions over the last
    axis. Decisions that the model itself makes by a margin within the tolerance are ties and count
    as equal. In parity: max_rel <= 1e-3 and agreement >= 99.9 %, all outputs finite; a file of
    another precision may differ by more.

    Args:
        batches: calls of real samples, of at least two batch sizes when the file's batch is
            dynamic.
        primary: picks the deciding tensor out of the model's outputs.
        allowed: `ROUNDED` for another precision than fp32.

    Raises:
        UsageError: no batches, or a file that cannot be loaded.
    """
    if not batches:
        raise UsageError("Parity needs at least one batch of samples.")
    onnx = OnnxModel(path)
    sizes = [batch_size([leaf for _, leaf in named_leaves(call)]) for call in batches]
    wanted, found = [], []
    try:
        for args, kwargs in batches:
            outputs = _reference(model, args, kwargs)
            wanted.append(_array(primary(outputs)))
            found.append(_array(primary(onnx.as_model(outputs)(*args, **kwargs))))
    except MpoError as error:
        return _failed(sizes, error.message)
    return judge(wanted, found, sizes, allowed)


def _reference(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            return model.eval()(*args, **kwargs)
    finally:
        for module, mode in modes.items():
            module.training = mode


def _array(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    return tensor.detach().cpu().double().numpy()


def _failed(sizes: list[int], reason: str) -> Parity:
    return Parity(
        max_abs=0.0,
        max_rel=0.0,
        agreement=0.0,
        samples=sum(sizes),
        batches=tuple(sizes),
        ok=False,
        reason=reason,
    )


def judge(
    wanted: list[Any], found: list[Any], sizes: list[int], allowed: Allowed = EXACT
) -> Parity:
    """Outputs against the ones that were wanted, batch by batch, each of `sizes` examples."""
    for want, got in zip(wanted, found, strict=True):
        if want.shape != got.shape:
            return _failed(sizes, f"Outputs have shape {got.shape} where torch gives {want.shape}.")
        if not (np.isfinite(want).all() and np.isfinite(got).all()):
            return _failed(sizes, "Outputs hold NaN or infinity.")
    scale = max(float(np.abs(want).max(initial=0.0)) for want in wanted)
    max_abs = max(
        float(np.abs(want - got).max(initial=0.0)) for want, got in zip(wanted, found, strict=True)
    )
    max_rel = max_abs / scale if scale > 0 else max_abs
    same = np.concatenate(
        [_decisions(want, got, MAX_REL * scale) for want, got in zip(wanted, found, strict=True)]
    )
    agreement = float(same.mean()) if len(same) else 1.0
    reason = ""
    if not max_rel <= allowed.rel:
        reason = f"Outputs differ by {max_rel:.2g} of their scale; {allowed.rel:g} is allowed."
    elif agreement < allowed.agreement:
        reason = (
            f"Only {agreement:.2%} of the decisions agree; {allowed.agreement:.1%} is asked for."
        )
    return Parity(
        max_abs=max_abs,
        max_rel=max_rel,
        agreement=agreement,
        samples=sum(sizes),
        batches=tuple(sizes),
        ok=not reason,
        reason=reason,
    )


def _decisions(want: Any, got: Any, tie: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Per decision (last axis): is the file's choice within `tie` of the model's own best score?"""
    if want.ndim < 2 or want.shape[-1] < 2:  # one score an example: its sign decides
        near = np.abs(want) <= tie
        return np.asarray(((want > 0) == (got > 0)) | near).reshape(-1)
    chosen = np.take_along_axis(want, got.argmax(-1, keepdims=True), -1)[..., 0]
    return np.asarray(chosen >= want.max(-1) - tie).reshape(-1)
