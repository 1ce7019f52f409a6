"""Labels that a model shifts itself: next-token labels as Hugging Face loaders give them.

A causal language model takes `labels` equal to its inputs and compares position t with token t + 1
inside. Judged as they are, such labels would reward copying the input. Which of the two the model
means is asked of the model: its own loss is compared with both readings.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from mpo.optimizer.data.batches import Batch, forward, primary
from mpo.optimizer.data.splits import shift_targets
from mpo.optimizer.data.tasks import cross_entropy
from mpo.optimizer.ground.usercode import guarded

CLOSE = 1e-3


def shifts_labels(model: nn.Module, batch: Batch) -> bool:
    """Whether the model's own loss on these labels is the next-token one.

    Only asked when forward() takes `labels`, they are [N, T] integers and the logits [N, T, V].
    """
    labels = batch.targets
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dim() != 2:
        return False
    if "labels" not in inspect.signature(model.forward).parameters or labels.shape[1] < 2:
        return False
    given = Batch(batch.args, {**batch.kwargs, "labels": labels})
    with torch.no_grad():
        outputs = guarded("The model", lambda: forward(model.eval(), given))
        own, logits = getattr(outputs, "loss", None), primary(outputs)
        if not isinstance(own, Tensor) or logits.shape[:-1] != labels.shape:
            return False
        aligned = cross_entropy(logits, labels)
        shifted = cross_entropy(logits, shift_targets(batch).targets)
    return abs(float(own - shifted)) <= CLOSE * abs(float(shifted)) < abs(float(own - aligned))
