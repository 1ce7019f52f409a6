"""What each process of test_distributed.py does: analysis and training of a small network, on its
own or with others."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mpo.optimizer.analysis.cka import measure_similarity
from mpo.optimizer.analysis.harm import HarmMeter
from mpo.optimizer.data.batches import Batch
from mpo.optimizer.data.splits import Split
from mpo.optimizer.ground.distributed import Crew
from mpo.optimizer.training.objective import Objective
from mpo.optimizer.training.recover import Schedule, recover
from mpo.pipeline.optimize.agreeing import agreed_judge
from mpo.pipeline.optimize.crew import joined
from mpo.records import Quality

NAMES = ("1", "2", "3")


class Block(nn.Module):
    """x + relu(norm(conv(x))).

    Without a bias that the norm takes out again: its gradient is nothing but rounding, which AdamW
    would make steps of full length from.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.relu(self.norm(self.conv(x)))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    return nn.Sequential(nn.Conv2d(3, 6, 3), *(Block() for _ in NAMES), *head).eval()


def batches(sizes: tuple[int, ...]) -> list[Batch]:
    random = torch.Generator().manual_seed(1)
    made = []
    for size in sizes:
        x = torch.randn(size, 3, 8, 8, generator=random)
        made.append(Batch((x,), {}, x.mean((2, 3)).argmax(1)))
    return made


def analysis(crew: Crew) -> dict[str, object]:
    """Similarity over batches of many sizes, and harm of logits and values."""
    model = network()
    found = measure_similarity(model, NAMES, batches((20, 70, 2, 16, 3, 9)), crew=crew)
    meters = [
        HarmMeter(model, batches((20, 16, 9)), kind, crew=crew) for kind in ("logits", "values")
    ]
    return {
        "matrix": found.matrix.tolist(),
        "null_95": found.null_95,
        "samples": found.samples,
        "branch_ratio": found.branch_ratio,
        "harm": [[meter.kl([name]), meter.agreement([name])] for meter in meters for name in NAMES],
    }


def training(crew: Crew) -> dict[str, object]:
    """Two epochs with batches that do not divide evenly, one of a single example among them."""
    model = network()
    data = batches((16, 15, 3, 8))

    def judge(trained: nn.Module) -> Quality:
        with torch.no_grad():
            losses = [float(F.cross_entropy(trained.eval()(*b.args), b.targets)) for b in data]  # type: ignore[arg-type]
        value = sum(losses)
        return Quality(
            metric="loss", value=value, samples=42, ci95=(value, value), lower_is_better=True
        )

    story = recover(
        model,
        Objective(None, F.cross_entropy),
        Split(data, "train"),
        agreed_judge(judge, crew),
        judge(model),
        Schedule(2e-3, 2),
        lambda *_: None,
        crew=crew,
    )
    weights = {key: value.double().flatten().tolist() for key, value in model.state_dict().items()}
    return {"weights": weights, "after": story.after, "before": story.before}


def main() -> None:
    torch.set_num_threads(1)
    out, fault = Path(sys.argv[1]), sys.argv[2]
    with joined() as crew:
        found = analysis(crew)
        if fault == "kill" and crew.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "raise" and crew.rank == 1:
            raise ValueError("a fault of one process only")
        found |= training(crew)
        (out / f"{crew.rank}of{crew.size}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
