"""Parameters and multiply-accumulates against counts by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mpo.optimizer.blocks.costs import count_macs, count_params, macs_by_module
from mpo.optimizer.data.batches import Batch


class Attention(nn.Module):
    """Bare scaled dot-product attention of x [B, T, D] with itself."""

    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x)


def test_a_convolution_counts_by_hand_at_batch_one() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 5))
    batch = Batch((torch.randn(4, 3, 8, 8),), {})
    conv, linear = 3 * 8 * 9 * 64, 512 * 5
    assert count_macs(model, batch) == conv + linear
    assert macs_by_module(model, batch) == {"": conv + linear, "0": conv, "3": linear}
    assert count_params(model) == 3 * 8 * 9 + 8 + 512 * 5 + 5


def test_attention_counts_both_products() -> None:
    batch = Batch((torch.randn(2, 4, 6, 8),), {})
    assert count_macs(Attention(), batch) == 2 * 4 * 6 * 6 * 8


def test_torchs_own_encoder_layer_counts_on_its_plain_path() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    tokens = 6
    expected = tokens * 8 * (24 + 8 + 16 + 16) + 2 * tokens * tokens * 8
    assert count_macs(layer, Batch((torch.randn(2, tokens, 8),), {})) == expected


def test_shared_parameters_count_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert count_params(model) == 16 + 4 + 4


def test_counting_leaves_mode_statistics_and_randomness_alone() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout()).train()
    mean = model.state_dict()["1.running_mean"].clone()
    state = torch.random.get_rng_state()
    count_macs(model, Batch((torch.ones(2, 1, 5, 5),), {}))
    assert model.training
    assert model[2].training
    assert torch.equal(model.state_dict()["1.running_mean"], mean)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_class_token_that_a_module_is_given_is_no_obstacle() -> None:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(8, 8)

        def forward(self, x: Tensor, token: Tensor) -> Tensor:
            return token + self.line(x).mean(1, keepdim=True)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.attend = nn.Parameter(torch.zeros(1, 1, 8)), Attend()

        def forward(self, x: Tensor) -> Tensor:
            return self.attend(x, self.token.expand(len(x), -1, -1))

    model = Net()
    assert macs_by_module(model, Batch((torch.randn(2, 4, 8),), {})) == {
        "": 256, "attend": 256, "attend.line": 256
    }  # fmt: skip
    assert all(one.requires_grad for one in model.parameters())
