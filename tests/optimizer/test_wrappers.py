"""Models that come wrapped: opened to the plain network inside, or refused with what to do."""

import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, distributed, nn
from torch.nn.utils import parametrizations, prune, spectral_norm
from torch.optim.swa_utils import AveragedModel

from mpo.errors import UsageError
from mpo.optimizer.data.subject import Subject
from mpo.optimizer.data.wrappers import fitting, plain_copy
from mpo.optimizer.files.artifact import load_weights, save_model

Wrap = Callable[[nn.Module], nn.Module]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.norm(self.inner(x)))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Block(), Block(), nn.Linear(6, 3)).eval()


INPUTS = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def group() -> Iterator[None]:
    """A process group of one."""
    store = distributed.HashStore()  # type: ignore[attr-defined]
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


def compiled_inside(model: nn.Module) -> nn.Module:
    model[0] = compiled(model[0])  # type: ignore[operator, index]
    return model


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


WRAPS: dict[str, Wrap] = {
    "DataParallel": nn.DataParallel,
    "DistributedDataParallel": nn.parallel.DistributedDataParallel,
    "AveragedModel": AveragedModel,
    "torch.compile": compiled,
    "torch.compile of a part": compiled_inside,
    "compile() in place": compiled_in_place,
    "torch.compile around DDP": lambda m: compiled(nn.parallel.DistributedDataParallel(m)),
    "DDP around torch.compile": lambda m: nn.parallel.DistributedDataParallel(compiled(m)),
}


@pytest.mark.case(53)
@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_a_wrapped_model_is_opened_to_the_plain_network_with_the_same_numbers(wrap: Wrap) -> None:
    plain = network()
    subject = Subject(model=lambda: wrap(copy.deepcopy(plain)), data=lambda: None)  # type: ignore[arg-type, return-value]
    built = subject.build()
    assert type(built) is nn.Sequential
    assert built.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(built(INPUTS), plain(INPUTS))
    remarks = subject.remarks()
    assert ("mpo works on the plain network inside" in "".join(remarks)) is (
        wrap is not compiled_in_place
    )


@pytest.mark.usefixtures("group")
def test_the_wrapped_model_itself_is_left_as_it_was() -> None:
    wrapped = nn.parallel.DistributedDataParallel(compiled_inside(network()))
    keys = list(wrapped.state_dict())
    copied, _ = plain_copy(wrapped)
    with torch.no_grad():
        copied[0].inner.weight.zero_()  # type: ignore[index]
    assert list(wrapped.state_dict()) == keys
    assert float(wrapped.module[0].inner.weight.detach().abs().sum()) > 0


def weight_norm(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(module)


FOLDS: dict[str, Wrap] = {
    "parametrizations.weight_norm": parametrizations.weight_norm,
    "parametrizations.spectral_norm": parametrizations.spectral_norm,
    "parametrizations.orthogonal": parametrizations.orthogonal,
    "weight_norm": weight_norm,
    "spectral_norm": spectral_norm,
    "prune": lambda m: prune.l1_unstructured(m, "weight", 0.3),
}


@pytest.mark.parametrize("fold", FOLDS.values(), ids=FOLDS)
def test_weights_that_are_computed_anew_become_plain_ones(fold: Wrap, tmp_path: Path) -> None:
    model = network()
    fold(model[1].inner)  # type: ignore[arg-type]
    model(INPUTS)
    wanted = model.eval()(INPUTS).detach()
    subject = Subject(model=model, data=lambda: None)  # type: ignore[arg-type, return-value]
    built = subject.build()
    assert built.state_dict().keys() == network().state_dict().keys()
    torch.testing.assert_close(built(INPUTS), wanted)
    assert "parametrized weights" in subject.remarks()[0]
    save_model(built, tmp_path / "model.safetensors")
    load_weights(network(), tmp_path / "model.safetensors")
    torch.testing.assert_close(model(INPUTS), wanted)  # the one that was handed over is untouched


class Adapter(nn.Module):
    """A low-rank addition to a linear layer."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.lora_A = nn.Linear(base.in_features, 2, bias=False)
        self.lora_B = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.lora_B(self.lora_A(x))


class Adapted(nn.Module):
    """A network with an adapter, which can be merged."""

    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        self.model = model
        block: Any = model[0]
        block.inner = Adapter(block.inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def merge_and_unload(self) -> nn.Module:
        block: Any = self.model[0]
        with torch.no_grad():
            block.inner.base.weight += block.inner.lora_B.weight @ block.inner.lora_A.weight
        block.inner = block.inner.base
        return self.model


def test_adapters_are_merged_where_the_model_offers_it() -> None:
    model = Adapted(network()).eval()
    wanted = model(INPUTS)
    subject = Subject(model=model, data=lambda: None)  # type: ignore[arg-type, return-value]
    built = subject.build()
    assert type(built) is nn.Sequential
    torch.testing.assert_close(built(INPUTS), wanted)
    assert "adapters" in subject.remarks()[0]
    torch.testing.assert_close(model(INPUTS), wanted)
    around = nn.Sequential(model, nn.ReLU())
    assert "0.0.inner.base.weight" not in plain_copy(around)[0].state_dict()


def test_adapters_that_cannot_be_merged_are_refused_with_what_to_do() -> None:
    model = Adapted(network()).model
    with pytest.raises(UsageError, match="2 adapter weights") as caught:
        Subject(model=model, data=lambda: None).build()  # type: ignore[arg-type, return-value]
    assert "Merge the adapters" in str(caught.value.hint)


def quantized() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: nn.Module = torch.ao.quantization.quantize_dynamic(network(), {nn.Linear})
        return model


def low_precision() -> nn.Module:
    model = network()
    model.get_submodule("2").weight.data = torch.zeros(3, 6).to(torch.float8_e4m3fn)
    return model


def coded() -> nn.Module:
    model = network()
    code = nn.Parameter(torch.zeros(3, 6, dtype=torch.int8), requires_grad=False)
    model.get_submodule("2").weight = code
    return model


class Sharded(nn.Module):
    """Laid out as FSDP lays a model out."""

    def __init__(self) -> None:
        super().__init__()
        self._fsdp_wrapped_module = network()


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return nn.Linear(2, 2)


def distributed_tensors() -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = network()
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    return model


REFUSED: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "dynamic quantization": (quantized, "quantized", "before quantization"),
    "float8": (low_precision, "float8", "before quantization"),
    "int8 weights": (coded, "2.weight is int8", "before quantization"),
    "TorchScript": (lambda: torch.jit.trace(network(), INPUTS), "TorchScript", "scripted from"),
    "FSDP": (Sharded, "sharded by FSDP", "full state dict"),
    "fully_shard": (distributed_tensors, "distributed tensor", "full state dict"),
    "lazy": (lambda: nn.LazyLinear(2), "no values yet", "run lazy modules once"),
    "meta": (on_meta, "no values yet", "Load the weights"),
}


@pytest.mark.case(53)
@pytest.mark.usefixtures("group")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("make", "what", "hint"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_opened_is_refused_with_what_to_do(
    make: Callable[[], nn.Module], what: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=what) as caught:
        Subject(model=make, data=lambda: None).build()  # type: ignore[arg-type, return-value]
    assert caught.value.exit_code == 2
    assert hint in str(caught.value.hint)


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_a_state_dict_saved_from_a_wrapper_loads(wrap: Wrap, tmp_path: Path) -> None:
    wanted = network()(INPUTS)
    torch.manual_seed(5)
    other = nn.Sequential(Block(), Block(), nn.Linear(6, 3)).eval()
    state = {key: value.clone() for key, value in wrap(network()).state_dict().items()}
    save_file(state, tmp_path / "wrapped.safetensors")
    load_weights(other, tmp_path / "wrapped.safetensors")
    assert torch.equal(other(INPUTS), wanted)


def test_a_submodule_that_is_really_called_module_keeps_its_name() -> None:
    own = ["module.weight", "head.weight"]
    state = dict.fromkeys(own, torch.ones(1))
    assert fitting(state, own) == state
    prefixed = {f"module.{key}": value for key, value in state.items()}
    assert fitting(prefixed, own).keys() == set(own)


def test_weights_with_prefixes_load_through_the_command_line_option(tmp_path: Path) -> None:
    from mpo.optimizer.files.loading import load_subject

    file = tmp_path / "subject.py"
    file.write_text(
        "import torch, mpo\n"
        "def model(): return torch.nn.DataParallel(torch.nn.Linear(4, 3))\n"
        "def data(): return mpo.Data(train=[(torch.ones(8, 4), torch.zeros(8).long())])\n"
    )
    for prefix in ("", "module.", "_orig_mod.", "module._orig_mod."):
        state = {f"{prefix}weight": torch.ones(3, 4), f"{prefix}bias": torch.zeros(3)}
        save_file(state, tmp_path / "weights.safetensors")
        built = load_subject(str(file), weights=tmp_path / "weights.safetensors").build()
        assert float(built.weight.detach().sum()) == 12  # type: ignore[operator]
