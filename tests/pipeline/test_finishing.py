"""A network that plain int8 breaks is shipped with the layer that it breaks in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import mpo
from mpo.pipeline.contract.guard import guard_of
from mpo.pipeline.optimize.finishing import finish, over
from mpo.pipeline.run.context import Context
from mpo.pipeline.run.measuring import ORIGINAL, measure_model
from mpo.pipeline.run.places import places_of
from mpo.profiles.local import LocalTarget
from mpo.recipe import make_recipe, to_toml
from mpo.store import open_run


class Outlier(nn.Module):
    """One feature is made ten thousand times larger and then ignored: a scale per tensor that
    covers it leaves nothing of the others."""

    blow: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(16, 64), nn.Linear(64, 64), nn.Linear(64, 6)
        blow = torch.ones(64)
        blow[0] = 10_000.0
        self.register_buffer("blow", blow)
        with torch.no_grad():
            self.second.weight[:, 0] = 0.0

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x)) * self.blow
        return self.last(torch.relu(self.second(x)))


def network() -> nn.Module:
    torch.manual_seed(0)
    return Outlier().eval()


def split(seed: int) -> list[tuple[Tensor, Tensor]]:
    model, make = network(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        rows = [torch.randn(64, 16, generator=make) for _ in range(3)]
        return [(x, model(x).argmax(-1)) for x in rows]


def test_the_layer_that_int8_breaks_stays_in_float32_and_the_floor_holds(tmp_path: Path) -> None:
    data = mpo.Data(train=split(1), validation=split(2), test=split(3))
    subject = mpo.Subject(model=network, data=data, name="outlier")
    recipe = make_recipe(
        subject="outlier", budget=("size=100%",), max_drop="5%", precision="int8", threads=1,
        effort="quick",
    )  # fmt: skip
    with open_run(tmp_path / "run", to_toml(recipe)) as run:
        places = places_of(recipe, [LocalTarget()])
        context = Context(recipe, subject, run, lambda *step: None, places)
        original = measure_model(context, context.original, run.path / ORIGINAL, "original")
        folder = tmp_path / "made"
        folder.mkdir()
        made = finish(context, network(), folder, original, "int8")
    assert made.conversion is not None
    assert made.conversion.mixed
    assert [kept.op for kept in made.conversion.kept] in (["Gemm"], ["MatMul"])
    assert made.validation.value >= 0.95
    assert made.conversion.quality == pytest.approx(made.validation.value - 1.0)
    assert over(context, original, made) == set()


def test_the_guard_of_a_contract_screens_a_candidate_as_it_would_be_shipped(tmp_path: Path) -> None:
    """The torch module of a plan in int8 decides as the original does; its file does not."""
    data = mpo.Data(train=split(1), validation=split(2), test=split(3))
    subject = mpo.Subject(model=network, data=data, name="outlier")
    recipe = make_recipe(subject="outlier", contract="eps=5%,claims=overall", threads=1)
    with open_run(tmp_path / "run", to_toml(recipe)) as run:
        context = Context(recipe, subject, run, lambda *step: None, ())
        guard = guard_of(context)
        assert guard(network(), "fp32", 1) != "broken"
        assert guard(network(), "int8", 1) == "broken"
