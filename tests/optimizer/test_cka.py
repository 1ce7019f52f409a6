"""Streamed unbiased CKA against the formula written out, a peer package, and its invariances."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mpo.errors import UsageError
from mpo.optimizer.analysis.cka import Accumulator, Similarity, make_grams, measure_similarity
from mpo.optimizer.data.batches import Batch

NAMES = ("body.0", "body.1", "body.2")


class Residual(nn.Module):
    """x + scale * tanh(linear(x)) over the last axis."""

    def __init__(self, width: int, scale: float = 1.0) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(width, width), scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * torch.tanh(self.linear(x))


class Network(nn.Module):
    """Residual blocks between two linear layers; the input may have any leading axes."""

    def __init__(self, width: int = 24, blocks: int = 3) -> None:
        super().__init__()
        self.stem = nn.Linear(8, width)
        self.body = nn.Sequential(*(Residual(width) for _ in range(blocks)))
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.head(self.body(self.stem(x)))


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network()


def batches(*sizes: int, shape: Sequence[int] = (8,), seed: int = 1) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return [Batch((torch.randn(size, *shape, generator=generator),), {}) for size in sizes]


def features(network: Network, batch: Batch) -> list[np.ndarray]:
    hidden, found = network.stem(batch.args[0]), []
    for block in network.body:
        hidden = block(hidden)
        found.append(hidden.detach().flatten(1).double().numpy())
    return found


def textbook_hsic(x: np.ndarray, y: np.ndarray) -> float:
    """HSIC1 of Song et al. 2012, eq. 5, with linear kernels, by loops."""
    n = len(x)
    k = [[0.0 if i == j else math.fsum(x[i] * x[j]) for j in range(n)] for i in range(n)]
    m = [[0.0 if i == j else math.fsum(y[i] * y[j]) for j in range(n)] for i in range(n)]
    both = math.fsum(k[i][j] * m[j][i] for i in range(n) for j in range(n))
    sums = math.fsum(map(math.fsum, k)) * math.fsum(map(math.fsum, m))
    columns = math.fsum(
        math.fsum(k[i][j] for i in range(n)) * math.fsum(m[j][i] for i in range(n))
        for j in range(n)
    )
    return (both + sums / ((n - 1) * (n - 2)) - 2 / (n - 2) * columns) / (n * (n - 3))


def textbook_cka(parts: list[list[np.ndarray]]) -> np.ndarray:
    """Minibatch CKA of Nguyen et al. 2021 over [batch][block] features, weighted by examples."""
    blocks = range(len(parts[0]))
    sums = np.array(
        [
            [sum(len(p[i]) * textbook_hsic(p[i], p[j]) for p in parts) for j in blocks]
            for i in blocks
        ]
    )
    return sums / np.sqrt(np.outer(sums.diagonal(), sums.diagonal()))


def test_the_stream_agrees_with_the_formula_written_out_in_loops(network: Network) -> None:
    data = batches(12, 12, 7)
    expected = textbook_cka([features(network, batch) for batch in data])
    found = measure_similarity(network, NAMES, data)
    assert found.samples == 31
    assert found.matrix.dtype == np.float64
    np.testing.assert_allclose(found.matrix, expected, atol=1e-6)


def test_large_means_do_not_cost_precision(network: Network) -> None:
    nn.init.constant_(network.stem.bias, 30.0)
    data = batches(16)
    expected = textbook_cka([features(network, batch) for batch in data])
    np.testing.assert_allclose(measure_similarity(network, NAMES, data).matrix, expected, atol=2e-6)


def test_a_peer_package_gives_the_same_figures(network: Network) -> None:
    peer = pytest.importorskip("torch_cka", reason="torch-cka is not installed")
    data = batches(16, 16, 16)
    loader = Loader(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that both models have the same name
        judge = peer.CKA(network, network, model1_layers=list(NAMES), model2_layers=list(NAMES))
        judge.compare(loader)
    expected = judge.export()["CKA"].numpy()
    np.testing.assert_allclose(measure_similarity(network, NAMES, data).matrix, expected, atol=2e-5)


class Loader:
    """As much of a DataLoader as torch-cka touches."""

    dataset = "none"

    def __init__(self, data: list[Batch]) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[tuple[Tensor]]:
        return ((batch.args[0],) for batch in self.data)


def cka_of(*rows: Tensor) -> np.ndarray:
    accumulator = Accumulator(len(rows))
    accumulator.add(torch.stack([make_grams(one)[0][0] for one in rows]))
    return accumulator.matrix()


def test_rotation_scaling_and_shift_change_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 20, generator=generator)
    y = x + torch.randn(40, 20, generator=generator)
    rotation = torch.linalg.qr(torch.randn(20, 20, generator=generator))[0]
    expected = cka_of(x, y)[0, 1]
    assert 0.3 < expected < 0.9
    assert cka_of(x @ rotation, y * 7.5 + 3.0)[0, 1] == pytest.approx(expected, abs=1e-5)


def test_a_general_linear_map_does_change_it() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 20, generator=generator)
    assert cka_of(x, x * torch.logspace(-2, 2, 20))[0, 1] < 0.9


def test_unrelated_wide_features_are_not_alike_in_small_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 20, 768, generator=generator)
    # the biased estimator says 0.975 here (MPRUNER.md 6.3)
    assert abs(cka_of(x, y)[0, 1]) < 0.3


def test_examples_beyond_one_gram_matrix_are_cut_into_equal_parts(network: Network) -> None:
    (whole,) = batches(128)
    halves = [Batch((part,), {}) for part in whole.args[0].split(64)]
    one = measure_similarity(network, NAMES, [whole])
    two = measure_similarity(network, NAMES, halves)
    np.testing.assert_allclose(one.matrix, two.matrix, atol=1e-9)


def test_how_examples_are_batched_hardly_matters(network: Network) -> None:
    data = batches(*[64] * 16)
    joined = torch.cat([batch.args[0] for batch in data])
    small = [Batch((part,), {}) for part in joined.split(16)]
    one = measure_similarity(network, NAMES, data)
    other = measure_similarity(network, NAMES, small)
    np.testing.assert_allclose(one.matrix, other.matrix, atol=0.02)


def test_accumulators_add_up(network: Network) -> None:
    data = batches(16, 12, 20)
    grams = [
        torch.stack([make_grams(torch.from_numpy(x))[0][0] for x in features(network, batch)])
        for batch in data
    ]
    whole, left, right = Accumulator(3), Accumulator(3), Accumulator(3, seed=1)
    for gram in grams:
        whole.add(gram)
    left.add(grams[0])
    right.add(grams[1])
    right.add(grams[2])
    left.merge(right)
    assert left.samples == whole.samples == 48
    np.testing.assert_allclose(left.matrix(), whole.matrix(), atol=1e-12)


def test_batches_of_one_wait_for_one_another(network: Network) -> None:
    (whole,) = batches(32)
    ones = [Batch((part,), {}) for part in whole.args[0].split(1)]
    one, many = (measure_similarity(network, NAMES, data) for data in ([whole], ones))
    assert many.samples == 32
    np.testing.assert_allclose(many.matrix, one.matrix, atol=1e-6)


@pytest.mark.parametrize(("sizes", "count"), [((3,), "3"), ((1, 1), "2"), ((), "0")])
def test_fewer_than_four_examples_are_refused_with_their_count(
    network: Network, sizes: tuple[int, ...], count: str
) -> None:
    with pytest.raises(UsageError, match=f"at least 4 calibration examples and got {count}"):
        measure_similarity(network, NAMES, batches(*sizes))


def test_it_stops_at_the_limit_and_cuts_the_last_batch(network: Network) -> None:
    def endless() -> Iterator[Batch]:
        while True:
            yield from batches(16)

    assert measure_similarity(network, NAMES, endless(), limit_examples=40).samples == 40


@pytest.mark.case(38)
def test_constant_activations_are_undefined_and_harm_no_other_pair(network: Network) -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full_like(x, 0.1)

    alone = measure_similarity(network, NAMES[:1], batches(20))
    network.body[2] = Constant()
    found = measure_similarity(network, NAMES, batches(20))
    assert np.isnan(found.matrix[2]).all()
    assert np.isnan(found.matrix[:, 2]).all()
    assert np.isfinite(found.matrix[:2, :2]).all()
    assert math.isfinite(found.null_95)
    assert alone.matrix[0, 0] == pytest.approx(1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.case(37)
def test_activations_that_are_not_finite_are_undefined(network: Network, bad: float) -> None:
    data = batches(20, 20)
    vars(network.get_submodule("body.1"))["scale"] = bad
    found = measure_similarity(network, NAMES, data)
    assert np.isnan(found.matrix[1]).all()
    assert found.matrix[0, 0] == pytest.approx(1.0)
    assert math.isnan(found.branch_ratio["body.1"])
    assert math.isfinite(found.branch_ratio["body.0"])


def test_the_null_is_small_and_the_same_for_the_same_seed(network: Network) -> None:
    data = batches(*[64] * 8)
    one, same = (measure_similarity(network, NAMES, data, seed=3) for _ in range(2))
    assert 0 < one.null_95 < 0.2
    assert one.null_95 == same.null_95
    assert measure_similarity(network, NAMES, data, seed=4).null_95 != one.null_95


def test_the_branch_ratio_is_the_mean_share_of_the_change(network: Network) -> None:
    data = batches(10, 6)
    joined = Batch((torch.cat([batch.args[0] for batch in data]),), {})
    before, after, _ = features(network, joined)
    expected = (np.linalg.norm(after - before, axis=1) / np.linalg.norm(before, axis=1)).mean()
    found = measure_similarity(network, NAMES, data)
    assert found.branch_ratio["body.1"] == pytest.approx(expected, rel=1e-5)


def test_a_block_that_writes_into_its_input_is_still_compared_with_what_it_got() -> None:
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mul_(3.0)

    model = nn.Sequential(nn.Linear(8, 8), InPlace(), nn.ReLU(inplace=True))
    found = measure_similarity(model, ("0", "1"), batches(20))
    assert found.branch_ratio["1"] == pytest.approx(2.0)
    assert found.matrix[0, 1] == pytest.approx(1.0)


def test_wide_activations_are_thinned_by_the_seed(network: Network) -> None:
    data = batches(64, 64, shape=(10, 8))  # 240 features an example
    one, same, other, expected = (
        measure_similarity(network, NAMES, data, width=width, seed=seed).matrix
        for width, seed in ((100, 0), (100, 0), (100, 1), (240, 0))
    )
    assert np.array_equal(one, same)
    assert 1e-6 < abs(one - other).max() < 0.1
    # few unrelated coordinates: alike, but less so than all of them
    assert (one <= expected + 1e-9).all()
    assert (one > 0.6).all()


def test_padding_never_counts(network: Network) -> None:
    torch.manual_seed(5)
    tokens = torch.randn(16, 6, 8)
    mask = torch.ones(16, 6, dtype=torch.long)
    mask[:, 4:] = 0
    noisy = tokens.clone()
    noisy[:, 4:] = 100 * torch.randn(16, 2, 8)
    longer = torch.cat([tokens, torch.zeros(16, 3, 8)], dim=1)
    longer_mask = torch.cat([mask, torch.zeros(16, 3, dtype=torch.long)], dim=1)
    found = [
        measure_similarity(network, NAMES, [Batch((x,), {"attention_mask": m})])
        for x, m in ((tokens, mask), (noisy, mask), (longer, longer_mask))
    ]
    for other in found[1:]:
        np.testing.assert_allclose(found[0].matrix, other.matrix, atol=1e-9)
        assert found[0].branch_ratio == pytest.approx(other.branch_ratio)


def test_sequence_first_models_are_turned(network: Network) -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.transpose(0, 1)).mean(0)

    data = batches(16, shape=(5, 8))
    turned = measure_similarity(Turned(), [f"inner.{name}" for name in NAMES], data)
    plain = measure_similarity(network, NAMES, data)
    np.testing.assert_allclose(turned.matrix, plain.matrix, atol=1e-6)


@pytest.mark.case(39)
def test_the_model_is_left_as_it_was(network: Network) -> None:
    network.body[1].eval()
    modes = [module.training for module in network.modules()]
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    measure_similarity(network, NAMES, batches(8))
    assert [module.training for module in network.modules()] == modes
    assert not any(module._forward_hooks for module in network.modules())
    assert not any(module._forward_pre_hooks for module in network.modules())
    assert all(torch.equal(value, weights[n]) for n, value in network.state_dict().items())


def test_an_unknown_block_is_refused(network: Network) -> None:
    with pytest.raises(UsageError, match=r"'body\.9'"):
        measure_similarity(network, ("body.9",), batches(8))


def test_the_record_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Similarity((), np.zeros((0, 0)), 0.0, 0).samples = 1  # type: ignore[misc]
