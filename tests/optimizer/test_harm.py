"""What bypassing blocks does to the output, against the definitions written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mpo.errors import UsageError
from mpo.optimizer.analysis.harm import WORST, HarmMeter, compare, measure_harm
from mpo.optimizer.data.batches import Batch

NAMES = ("body.0", "body.1", "body.2", "body.3")


class Residual(nn.Module):
    """x + scale * relu(batch norm(linear(x)))."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.linear, self.norm, self.scale = nn.Linear(width, width), nn.BatchNorm1d(width), scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * F.relu(self.norm(self.linear(x)))


class Network(nn.Module):
    """Four residual blocks of growing weight between two linear layers."""

    def __init__(self, scales: tuple[float, ...] = (0.0, 0.1, 0.5, 2.0), outputs: int = 5) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, 16), nn.Linear(16, outputs)
        self.body = nn.Sequential(*(Residual(16, scale) for scale in scales))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)))


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network()


def batches(*sizes: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [Batch((torch.randn(size, 8, generator=generator),), {}) for size in sizes]


def without(network: Network, *places: int) -> Network:
    smaller = Network((), network.head.out_features)
    smaller.stem, smaller.head = network.stem, network.head
    smaller.body = nn.Sequential(*(b for i, b in enumerate(network.body) if i not in places))
    return smaller.eval()


def outputs(model: nn.Module, data: list[Batch]) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(batch.args[0]) for batch in data]).double()


def test_the_harm_is_the_kl_divergence_to_the_model_built_without_the_blocks(
    network: Network,
) -> None:
    data = batches(10, 7)
    truth = outputs(network.eval(), data).log_softmax(-1)
    pruned = outputs(without(network, 1, 3), data).log_softmax(-1)
    expected = (truth.exp() * (truth - pruned)).sum(-1).mean()
    assert HarmMeter(network, data).kl(["body.1", "body.3"]) == pytest.approx(
        float(expected), rel=1e-4
    )


def test_each_block_is_removed_alone_and_keeps_its_branch_ratio(network: Network) -> None:
    data = batches(64)
    ratios = {"body.0": 0.0, "body.1": 0.2, "body.2": math.nan}
    harms = measure_harm(network, NAMES, data, ratios)
    assert [harm.name for harm in harms] == list(NAMES)
    assert [harm.branch_ratio for harm in harms] == [0.0, 0.2, 0.0, 0.0]
    assert harms[0].kl == pytest.approx(0.0, abs=1e-9)
    assert harms[0].agreement == 1.0
    assert harms[1].kl < harms[2].kl < harms[3].kl
    pruned, truth = outputs(without(network, 3), data), outputs(network.eval(), data)
    agreement = (pruned.argmax(-1) == truth.argmax(-1)).double().mean()
    assert harms[3].agreement == pytest.approx(float(agreement))


def test_joint_harm_is_not_the_sum(network: Network) -> None:
    meter = HarmMeter(network, batches(64))
    together = meter.kl(NAMES[2:])
    assert together != pytest.approx(sum(meter.kl([name]) for name in NAMES[2:]), rel=0.01)


def test_a_set_is_measured_once_whatever_its_order(network: Network) -> None:
    meter = HarmMeter(network, batches(16))
    first = meter.kl(["body.1", "body.2"])
    assert meter.kl(("body.2", "body.1")) == first
    assert meter.agreement({"body.1", "body.2"}) <= 1.0
    assert meter.kl([]) == 0.0
    assert meter.evaluations == 1


def test_values_are_compared_by_the_share_of_variance_lost() -> None:
    torch.manual_seed(0)
    network, data = Network(outputs=3), batches(20, 20)
    truth = outputs(network.eval(), data)
    error = (outputs(without(network, 2), data) - truth).square().sum()
    expected = error / (truth - truth.mean()).square().sum()
    meter = HarmMeter(network, data, "values")
    assert meter.kl(["body.2"]) == pytest.approx(float(expected), rel=1e-4)
    assert meter.agreement(["body.2"]) == pytest.approx(1 - float(expected), rel=1e-3)


def test_constant_values_that_change_are_the_worst_harm() -> None:
    assert compare([torch.ones(4)], [torch.zeros(4)], "values").kl == WORST
    assert compare([torch.ones(4)], [torch.ones(4)], "values").kl == 0.0


def test_a_removal_that_makes_outputs_infinite_is_the_worst_harm() -> None:
    broken = compare([torch.zeros(2, 3)], [torch.tensor([[0.0, 1, math.inf], [0, 0, 0]])])
    assert (broken.kl, broken.agreement) == (WORST, 0.0)


def test_padded_tokens_do_not_count() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.head = nn.Linear(6, 6), nn.Linear(6, 4)

        def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            return self.head(self.block(x))

    torch.manual_seed(0)
    model, x = Tagger(), torch.randn(3, 5, 6)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    padded = HarmMeter(model, [Batch((x,), {"attention_mask": mask})])
    valid = HarmMeter(model, [Batch((x[mask.bool()],), {})])
    assert padded.kl(["block"]) == pytest.approx(valid.kl(["block"]), rel=1e-5)


@pytest.mark.case(39)
def test_the_model_is_left_as_it_was(network: Network) -> None:
    network.train()
    network.body[1].eval()
    modes = [module.training for module in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    HarmMeter(network, batches(16)).kl(NAMES)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, state[n]) for n, value in network.state_dict().items())
    assert not any("forward" in vars(module) for module in network.modules())
    network(batches(4)[0].args[0]).sum().backward()


def test_outputs_that_are_not_finite_are_refused_with_their_count(network: Network) -> None:
    data = batches(4, 4)
    data[1].args[0][2, 3] = math.nan
    with pytest.raises(UsageError, match="not finite on 1 of 2"):
        HarmMeter(network, data)


def test_logits_of_one_class_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\(4, 1\)"):
        HarmMeter(Network(outputs=1), batches(4))


def test_no_data_is_refused(network: Network) -> None:
    with pytest.raises(UsageError, match="no batch"):
        HarmMeter(network, [])
