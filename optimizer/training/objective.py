"""What recovery minimises: the task's own loss, distillation from the original, or both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mpo.errors import UsageError
from mpo.optimizer.analysis.boundary import emphasis
from mpo.optimizer.data.batches import Batch, forward, primary
from mpo.optimizer.data.subject import Kind, Loss, Subject
from mpo.optimizer.data.tasks import class_last, cross_entropy, is_classification
from mpo.optimizer.ground.usercode import guarded

TEMPERATURE = 2.0


@dataclass(frozen=True)
class Objective:
    """loss(student, batch) = share * scale * task loss + (1 - share) * distillation.

    Without targets only distillation is left; without a teacher only the task.

    Attributes:
        teacher: the original in eval mode, or None.
        loss: the task's (outputs, targets) -> scalar.
        task_share: weight of the task loss in [0, 1] when there are both.
        kind: whether the outputs are class logits; None lets outputs and targets tell.
        boundary: distil most where the teacher hardly decides (optimizer/analysis/boundary.py).
        task_scale: factor of the task loss when there are both (see `shares.evened`).
    """

    teacher: nn.Module | None
    loss: Loss
    task_share: float = 0.5
    kind: Kind | None = None
    boundary: bool = False
    task_scale: float = 1.0

    @property
    def usual(self) -> bool:
        """Whether the task's loss is cross-entropy, and none of the subject's own."""
        return self.loss in (cross_entropy, F.cross_entropy)

    def __call__(self, student: nn.Module, batch: Batch) -> Tensor:
        """The loss of one batch, with the student's graph."""
        outputs = forward(student, batch)
        has_task = batch.targets is not None
        if self.teacher is None:
            return self.task(outputs, batch.targets)
        with torch.no_grad():
            wanted = forward(self.teacher, batch)
        distilled = distillation(outputs, wanted, batch.targets, self.kind, boundary=self.boundary)
        if not has_task:
            return distilled
        task = self.task_scale * self.task(outputs, batch.targets)
        return self.task_share * task + (1 - self.task_share) * distilled

    def task(self, outputs: Any, targets: Any) -> Tensor:
        """The task's own loss.

        Raises:
            UsageError: it raised, or returned something that cannot be trained on.
        """
        value = guarded("loss()", lambda: self.loss(outputs, targets))
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.is_floating_point():
            raise UsageError(
                f"loss() returned {type(value).__name__}, not one number to minimise.",
                hint="Return a scalar tensor, as torch.nn.functional.cross_entropy does.",
            )
        return value.reshape(())


def distillation(
    outputs: Any, wanted: Any, targets: Any, kind: Kind | None = None, *, boundary: bool = False
) -> Tensor:
    """How far the student's outputs are from the teacher's.

    Class logits: T^2 * KL(teacher || student) at temperature T = 2 (Hinton, Vinyals & Dean 2015,
        section 2); with `boundary` the mean over decisions is weighted.
    Anything else: squared error over the teacher's variance, so that its scale does not matter.
    """
    classes = is_classification(wanted, targets) if kind is None else kind == "logits"
    if classes:
        logits = class_last(wanted, targets)
        teacher = F.log_softmax(logits / TEMPERATURE, dim=-1)
        student = F.log_softmax(class_last(outputs, targets) / TEMPERATURE, dim=-1)
        width = teacher.shape[-1]
        if boundary:
            apart = F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
            return TEMPERATURE**2 * (emphasis(logits) * apart).mean()
        return TEMPERATURE**2 * F.kl_div(
            student.reshape(-1, width),
            teacher.reshape(-1, width),
            reduction="batchmean",
            log_target=True,
        )
    ours, theirs = primary(outputs).float(), primary(wanted).float()
    return F.mse_loss(ours, theirs) / theirs.var(correction=0).clamp_min(1e-6)


def task_only(subject: Subject) -> Objective:
    """The task's loss alone, as the published algorithm retrains."""
    return Objective(None, subject.loss or cross_entropy)


def distil(subject: Subject, teacher: nn.Module, *, boundary: bool = False) -> Objective:
    """The task's loss and the teacher's word, half and half; only the latter without targets.

    Args:
        boundary: weigh the teacher's word by how near its decision boundary it was spoken.
    """
    frozen = teacher.eval()
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    return Objective(frozen, subject.loss or cross_entropy, kind=subject.outputs, boundary=boundary)
