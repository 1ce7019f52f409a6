"""Models as people bring them: what analysis and calibration do with each."""

import copy
import math
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import mpo
from mpo.api.runs import analyze
from mpo.errors import MpoError
from mpo.exporters.onnx import export_onnx
from mpo.optimizer.analysis.cka import measure_similarity
from mpo.optimizer.analysis.harm import HarmMeter
from mpo.optimizer.blocks.finding import find_blocks
from mpo.optimizer.blocks.surgery import remove_blocks
from mpo.optimizer.data.batches import Batch
from mpo.optimizer.data.quality import check_model
from mpo.optimizer.data.subject import Subject
from mpo.optimizer.files.artifact import load_pruned, save_model

WIDTH = 8


class Block(nn.Module):
    """x + relu(norm(linear(x))), with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.line, self.norm, self.drop = (
            nn.Linear(WIDTH, WIDTH),
            nn.BatchNorm1d(WIDTH),
            nn.Dropout(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(torch.relu(self.norm(self.line(x))))


def network(count: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(Block() for _ in range(count)), nn.Linear(WIDTH, 3))


def batches(count: int = 4, size: int = 16) -> list[Batch]:
    random = torch.Generator().manual_seed(1)
    return [Batch((torch.randn(size, WIDTH, generator=random),), {}) for _ in range(count)]


def data() -> mpo.Data:
    rows = [(batch.args[0], torch.arange(16) % 3) for batch in batches()]
    return mpo.Data(train=rows, validation=rows, test=rows)


NAMES = ("0", "1", "2")


class Greedy(nn.Module):
    """Runs out of memory beyond so many examples, as a device would."""

    def __init__(self, most: int, error: type[Exception] = torch.OutOfMemoryError) -> None:
        super().__init__()
        self.most, self.error = most, error

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            raise self.error("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return x


@pytest.mark.case(25)
@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
@pytest.mark.parametrize("most", [8, 5, 1])
def test_out_of_memory_in_calibration_halves_the_batch_and_the_result_stays_equal(
    most: int, error: type[Exception]
) -> None:
    whole = network()
    small = nn.Sequential(*copy.deepcopy(whole), Greedy(most, error))
    calm, tight = (measure_similarity(m, NAMES, batches()) for m in (whole, small))
    np.testing.assert_allclose(tight.matrix, calm.matrix, atol=1e-6)
    assert tight.null_95 == pytest.approx(calm.null_95, abs=1e-6)
    assert tight.branch_ratio == pytest.approx(calm.branch_ratio, rel=1e-5)
    assert tight.samples == calm.samples == 64
    assert calm.remarks == ()
    size = {8: 8, 5: 4, 1: 1}[most]
    assert f"in parts of {size} examples, with the same result" in tight.remarks[0]
    one, other = HarmMeter(whole, batches()), HarmMeter(small, batches())
    assert one.kl(["1"]) == pytest.approx(other.kl(["1"]), rel=1e-5)
    assert "Harm ran out of memory" in other.remarks[0]


@pytest.mark.case(25)
def test_out_of_memory_in_calibration_is_told_in_the_report_s_analysis() -> None:
    small = nn.Sequential(*network(), Greedy(9))
    subject = Subject(model=small, data=data)
    told = analyze(subject).warnings
    assert [text.split(" ran")[0] for text in told] == ["Similarity", "Harm"]


@pytest.mark.case(25)
def test_when_not_one_example_fits_it_stops_with_all_that_was_tried() -> None:
    small = nn.Sequential(*network(), Greedy(0))
    with pytest.raises(MpoError, match="tried: 16 examples at once on cpu, 8") as caught:
        measure_similarity(small, NAMES, batches())
    assert caught.value.exit_code == 1
    assert "Free memory" in caught.value.hint


@pytest.mark.case(25)
def test_another_error_is_not_taken_for_a_lack_of_memory() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        measure_similarity(nn.Sequential(*network(), Broken()), NAMES, batches())


@pytest.mark.case(25)
def test_a_host_that_is_really_out_of_memory_is_noticed() -> None:
    code = """
    import resource, sys, torch
    from torch import nn
    from mpo.optimizer.data.batches import Batch
    from mpo.optimizer.analysis.cka import measure_similarity
    torch.set_num_threads(1)

    class Wide(nn.Module):
        def forward(self, x):  # 16 MB an example
            return x + x.unsqueeze(2).expand(-1, -1, 500_000).mul(1.0).sum(2)

    model = nn.Sequential(Wide(), Wide())
    batch = Batch((torch.randn(16, 8),), {})
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 150 * 2**20, -1))
    print(measure_similarity(model, ("0", "1"), [batch]).remarks)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert "ran out of memory at 16 examples" in done.stdout, done.stderr


@pytest.mark.case(37)
def test_a_block_with_nan_activations_is_kept_and_told() -> None:
    class Mended(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.nan_to_num()

    class Broken(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.inner(x)
            return torch.where(x[:, :1] > 1.5, torch.nan, y)

    blocks = list(network())
    blocks[1] = Broken(blocks[1])
    blocks.insert(2, Mended())
    model = nn.Sequential(nn.Sequential(*blocks[:2], *blocks[2:4]), blocks[4])
    found = analyze(Subject(model=model, data=data))
    verdicts = {block.name: block for block in found.blocks}
    assert not verdicts["0.1"].removable
    assert "NaN" in verdicts["0.1"].reason
    assert "0.1" not in {harm.name for harm in found.harms}
    assert found.similarity[1][1] is None
    assert any("NaN or infinite output of 0.1 " in text for text in found.warnings)


@pytest.mark.case(38)
def test_constant_activations_are_degenerate_and_in_no_cluster() -> None:
    class Still(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            return 0 * self.line(x) + 0.5

    model = nn.Sequential(
        nn.Sequential(Still(), Still(), *list(network())[:3]), nn.Linear(WIDTH, 3)
    )
    found = analyze(Subject(model=model, data=data))
    assert found.similarity[0] == (None,) * 5
    assert math.isfinite(found.null_95)
    assert not {"0.0", "0.1"} & {name for one in found.clusters for name in one.members}
    assert any("degenerate output of 0.0, 0.1" in text for text in found.warnings)


@pytest.mark.case(39)
def test_a_model_left_in_train_mode_is_calibrated_in_eval_mode_and_left_as_it_was() -> None:
    model = network().train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    subject = Subject(model=model, data=data)
    assert not any(module.training for module in subject.build().modules())
    analyze(subject)
    find_blocks(model, batches()[0])
    measure_similarity(model, NAMES, batches())
    HarmMeter(model, batches()).kl(["0"])
    assert [module.training for module in model.modules()] == modes
    after = model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.case(40)
def test_dropout_in_eval_mode_gives_the_same_calibration_twice() -> None:
    model = network().train()
    one, two = (measure_similarity(model, NAMES, batches()) for _ in range(2))
    assert np.array_equal(one.matrix, two.matrix)


class Dice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, training=True)


class Clock(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + time.perf_counter_ns() % 1000 / 100


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + self.calls


class InPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu_()


@pytest.mark.case(41)
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Dice, "different outputs for the same input"),
        (Clock, "different outputs for the same input"),
        (Counter, "different outputs for the same input"),
        (InPlace, "writes into its own input"),
    ],
)
def test_a_model_whose_answer_or_input_changes_is_refused(
    make: Callable[[], nn.Module], said: str
) -> None:
    with pytest.raises(MpoError, match=said) as caught:
        check_model(nn.Sequential(make(), nn.Linear(WIDTH, 3)), batches()[0])
    assert caught.value.exit_code == 1
    assert caught.value.hint


class Tied(nn.Module):
    """Embedding and head share their weight; so do the mixers of the first two blocks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(50, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(3)))
        first, second, _ = self.blocks
        second.line.weight = first.line.weight  # type: ignore[union-attr]
        self.head = nn.Linear(WIDTH, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        y: Tensor = self.head(self.blocks(self.embed(ids)))
        return y


@pytest.mark.case(43)
def test_tied_weights_are_counted_exported_and_saved_once(tmp_path: Path) -> None:
    model = Tied().eval()
    batch = Batch((torch.arange(12),), {})
    blocks = {block.name: block for block in find_blocks(model, batch)}
    own = sum(p.numel() for p in model.blocks[2].parameters())
    assert blocks["blocks.2"].params == own
    assert blocks["blocks.0"].params == own - WIDTH * WIDTH  # the other block holds it still
    smaller: Any = remove_blocks(model, ["blocks.0"])
    assert smaller.head.weight is smaller.embed.weight
    weights = sum(p.numel() for p in smaller.parameters())
    assert weights == sum(p.numel() for p in model.parameters()) - own + WIDTH * WIDTH
    path = tmp_path / "model.safetensors"
    save_model(smaller, path)
    assert "head.weight" not in load_file(path)
    again: Any = load_pruned(lambda: Tied().eval(), ["blocks.0"], path)
    assert again.head.weight is again.embed.weight
    torch.testing.assert_close(again(*batch.args), smaller(*batch.args))
    export_onnx(smaller, batch.args, batch.kwargs, tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx").graph
    tables = [one for one in graph.initializer if 50 in one.dims]
    assert len(tables) == 1
    assert (tmp_path / "model.onnx").stat().st_size < 4 * weights + 8000


@pytest.mark.case(44)
def test_a_shared_module_is_not_removed_as_if_it_were_two() -> None:
    shared = Block()
    model = nn.Sequential(nn.Sequential(shared, Block(), shared), nn.Linear(WIDTH, 3)).eval()
    found = find_blocks(model, batches()[0])
    reasons = {block.name: block.reason for block in found}
    assert "called 2 times" in reasons["0.0"]
    assert reasons["0.1"] == ""
