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
from mpo.exporters.flatten import batch_size, named_leaves, rebuild
from mpo.exporters.modes import evaluating
from mpo.exporters.runtime import OnnxModel
from mpo.records import OutputParity, Parity

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
    "bf16": Allowed(0.2, 0.9),
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
    magnitude of the model's own output, `cosine` that of both outputs as one vector each,
    `agreement` the share of equal decisions over the last axis. Decisions that the model itself
    makes by a margin within the tolerance are ties and count as equal. In parity: max_rel <= 1e-3
    and agreement >= 99.9 %, all outputs finite; every further output within 1e-3 of its own scale
    with infinities in the same places, or equal when it holds integers. A file of another precision
    may differ by more.

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
    wanted, found, rows = [], [], []
    try:
        for args, kwargs in batches:
            outputs = _reference(model, args, kwargs)
            answer = onnx.run(args, kwargs)
            wanted.append(_array(primary(outputs)))
            found.append(_array(primary(_rebuilt(outputs, answer))))
            leaves = [leaf for _, leaf in named_leaves(outputs)]
            rows.append(([leaf.detach().cpu().numpy() for leaf in leaves], answer))
    except MpoError as error:
        return _failed(sizes, error.message)
    parity = judge(wanted, found, sizes, allowed)
    return with_outputs(parity, onnx.outputs, rows, allowed)


def with_outputs(
    parity: Parity,
    names: Sequence[str],
    rows: Sequence[tuple[Sequence[Any], Sequence[Any]]],
    allowed: Allowed = EXACT,
) -> Parity:
    """The same judgement with every output in it; one that is off takes the parity away.

    Args:
        rows: for each batch all outputs as they were wanted and as they were found.
        allowed: its agreement is the share of equal entries in an output of integers.
    """
    kept, reason = [], parity.reason
    for place, name in enumerate(names):
        pairs = [(want[place], got[place]) for want, got in rows]
        if any(want.shape != got.shape for want, got in pairs):
            reason = reason or f"Output {name} has another shape than in the original."
            continue
        want = np.concatenate([one.reshape(-1) for one, _ in pairs])
        got = np.concatenate([one.reshape(-1) for _, one in pairs])
        if want.dtype.kind != "f":
            same = float((want == got).mean()) if want.size else 1.0
            if same < allowed.agreement:
                reason = reason or f"Output {name} has {same:.2%} equal entries."
            continue
        figures, apart = _figures(name, want.astype(np.float64), got.astype(np.float64))
        kept.append(figures)
        if not figures.max_rel <= allowed.rel:
            reason = reason or (
                f"Output {name} differs by {figures.max_rel:.2g} of its scale; "
                f"{allowed.rel:g} is allowed."
            )
        if apart:
            reason = reason or f"Output {name} has NaN or infinity where the original has none."
    return parity.model_copy(
        update={"outputs": tuple(kept), "reason": reason, "ok": parity.ok and not reason}
    )


def _figures(name: str, want: Any, got: Any) -> tuple[OutputParity, bool]:
    """Of the entries that are finite in both; and whether the others differ."""
    finite = np.isfinite(want) & np.isfinite(got)
    apart = not np.array_equal(want[~finite], got[~finite], equal_nan=True)
    want, got = want[finite], got[finite]
    scale = float(np.abs(want).max(initial=0.0))
    worst = float(np.abs(want - got).max(initial=0.0))
    share = worst / scale if scale > 0 else worst
    cosine = _cosine([want], [got])
    return OutputParity(name=name, max_abs=worst, max_rel=share, cosine=cosine), apart


def _cosine(wanted: Sequence[Any], found: Sequence[Any]) -> float:
    """Of all values as one vector; 1 when both are zero everywhere."""
    dot = sum(float((want * got).sum()) for want, got in zip(wanted, found, strict=True))
    one = sum(float(np.square(want).sum()) for want in wanted)
    other = sum(float(np.square(got).sum()) for got in found)
    if not one or not other:
        return float(one == other)
    return dot / float(np.sqrt(one) * np.sqrt(other))


def _rebuilt(outputs: Any, answer: Sequence[Any]) -> Any:
    """The file's answer in the nesting of the model's outputs."""
    given = iter(answer)
    return rebuild(outputs, lambda _: torch.from_numpy(np.asarray(next(given))))


def _reference(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    with evaluating(model):
        return model(*args, **kwargs)


def _array(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    return tensor.detach().cpu().double().numpy()


def _failed(sizes: Sequence[int], reason: str) -> Parity:
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
    wanted: Sequence[Any],
    found: Sequence[Any],
    sizes: Sequence[int],
    allowed: Allowed = EXACT,
) -> Parity:
    """Outputs against the ones that were wanted, batch by batch, each of `sizes` examples."""
    for want, got in zip(wanted, found, strict=True):
        if want.shape != got.shape:
            return _failed(sizes, f"Outputs have shape {got.shape} in the place of {want.shape}.")
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
        cosine=_cosine(wanted, found),
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
