"""Runs that train nothing: with inputs to calibrate on, and with random ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import mpo
from tests.pipeline.carrying import MODEL
from tests.subjects import tiny


class Block(nn.Module):
    """A residual convolution with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.line, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * self.norm(self.line(x)).relu()


def network() -> nn.Module:
    """A network whose BatchNorm statistics are those of some data, as after training."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        blocks = nn.Sequential(*(Block() for _ in range(4)))
        model = nn.Sequential(nn.Conv2d(1, 4, 3), blocks, nn.Flatten(), nn.Linear(144, 3))
        model.train()
        with torch.no_grad():
            for _ in range(20):
                model(3.0 + 2.0 * torch.rand(16, 1, 8, 8))
    return model.eval()


def test_inputs_without_labels_are_enough_and_every_format_of_the_report_says_what_was_judged(
    tmp_path: Path,
) -> None:
    x, _ = tiny.samples(5, 1000)
    subject = mpo.Subject(MODEL, mpo.Data(train=list(x.split(50))), name="tiny")
    report = mpo.optimize(
        subject, "params=70%", output=tmp_path / "run",
        finetune=False, max_drop="60%", threads=1, effort="quick",
    )  # fmt: skip
    assert report.status == "met"
    assert report.removed
    assert report.recovery is not None
    assert report.recovery.epochs == 0
    assert report.original.quality.metric == "agreement"
    assert report.acceptance is not None
    assert report.acceptance.method == "exact"
    loaded = mpo.load(tmp_path / "run", subject)
    assert sum(p.numel() for p in loaded.parameters()) == report.optimized.params


@pytest.mark.parametrize("finetune", [False, True])
def test_on_random_inputs_nothing_is_trained_and_batchnorm_keeps_what_it_learned(
    tmp_path: Path, finetune: bool
) -> None:
    path = tmp_path / "bare.py"
    path.write_text(
        "from tests.pipeline.test_training_free import network\ndef model(): return network()\n"
    )
    report = mpo.optimize(
        path, "params=80%", output=tmp_path / "run", input=("4x1x8x8",),
        finetune=finetune, max_drop="90%", threads=1, effort="quick",
    )  # fmt: skip
    assert report.removed
    assert report.recovery is not None
    assert report.recovery.epochs == 0
    assert any("Random inputs" in text for text in report.warnings)
    before, after = network(), mpo.load(tmp_path / "run")
    kept = [name for name in ("1.0", "1.1", "1.2", "1.3") if name not in report.removed]
    norms = [m for m in after.modules() if isinstance(m, _BatchNorm)]
    assert len(norms) == len(kept)
    for name, norm in zip(kept, norms, strict=True):
        learned = before.get_submodule(f"{name}.norm")
        assert isinstance(learned, _BatchNorm)
        assert norm.running_mean is not None
        assert learned.running_mean is not None
        assert torch.equal(norm.running_mean, learned.running_mean)
