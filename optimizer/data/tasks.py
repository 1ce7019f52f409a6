"""What a task is made of when the user names nothing: cross-entropy, top-1 accuracy, agreement.

Class logits may be [N, C] with targets [N]; [N, T, C] with targets [N, T] (tokens); or [N, C, H,
W] with targets [N, H, W] (pixels). Targets equal to -100 do not count, as in torch's cross-entropy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mpo.errors import UsageError
from mpo.optimizer.data.batches import primary

IGNORED = -100


def class_logits(outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
    """Logits as [n, C] and labels as [n], ignored labels left out.

    Raises:
        UsageError: shapes that fit no classification, or labels out of range.
    """
    logits = primary(outputs)
    labels = targets if isinstance(targets, Tensor) else torch.as_tensor(targets)
    if labels.is_floating_point() or logits.dim() < 2:
        raise UsageError(
            f"Outputs {_shape(logits)} with targets {_shape(labels)} of {labels.dtype} "
            "are no classification.",
            hint="Define loss(outputs, targets) and metric(outputs, targets) in the subject file.",
        )
    if labels.shape == logits.shape[:-1]:
        flat = logits.reshape(-1, logits.shape[-1])
    elif labels.shape == logits.shape[:1] + logits.shape[2:]:
        flat = logits.movedim(1, -1).reshape(-1, logits.shape[1])
    else:
        raise UsageError(
            f"Targets {_shape(labels)} fit no class axis of the outputs {_shape(logits)}.",
            hint="Define loss(outputs, targets) and metric(outputs, targets) in the subject file.",
        )
    labels = labels.reshape(-1).to(flat.device)
    kept = labels != IGNORED
    flat, labels = flat[kept], labels[kept]
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < flat.shape[1]:
        wrong = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
        raise UsageError(
            f"A label is {wrong}, but the model gives {flat.shape[1]} classes "
            f"(0 to {flat.shape[1] - 1}).",
            hint="Number the labels from 0, or give the model as many outputs as classes.",
        )
    return flat, labels.long()


def cross_entropy(outputs: Any, targets: Any) -> Tensor:
    """Mean cross-entropy in nats."""
    logits, labels = class_logits(outputs, targets)
    return F.cross_entropy(logits, labels)


def top1_accuracy(outputs: Any, targets: Any) -> float:
    """Share of decisions that equal the label, in [0, 1]."""
    logits, labels = class_logits(outputs, targets)
    return float((logits.argmax(-1) == labels).float().mean())


def is_classification(outputs: Any, targets: Any) -> bool:
    """True when the outputs are class logits: integer targets that fit a class axis of at least
    two; without targets only [N, C >= 2], since longer shapes may be pixels or embeddings."""
    logits = primary(outputs)
    if targets is None:
        return logits.dim() == 2 and logits.shape[1] >= 2
    if not isinstance(targets, Tensor) or targets.is_floating_point() or logits.dim() < 2:
        return False
    if targets.shape == logits.shape[:-1]:
        return logits.shape[-1] >= 2
    return targets.shape == logits.shape[:1] + logits.shape[2:] and logits.shape[1] >= 2


def class_last(outputs: Any, targets: Any) -> Tensor:
    """The decision tensor with its class axis last, so that softmax over the last axis is a
    distribution."""
    logits = primary(outputs)
    if isinstance(targets, Tensor) and logits.dim() > 2 and targets.shape != logits.shape[:-1]:
        return logits.movedim(1, -1)
    return logits


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
