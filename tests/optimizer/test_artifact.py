"""Weights on disk: round trips, ties, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mpo.errors import RefusedError, UsageError
from mpo.optimizer.blocks.surgery import remove_blocks
from mpo.optimizer.files.artifact import load_pruned, load_weights, save_model


class Tied(nn.Module):
    """Embedding and head share their weight; blocks are numbered attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.block1, self.block2 = nn.Linear(4, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.block2(self.block1(self.embed(x))))
        return y


class Pickled:
    """An object that only unpickling can make."""


def linear() -> nn.Module:
    return nn.Linear(3, 2)


@pytest.mark.case(43)
def test_tied_weights_are_saved_once_and_stay_tied(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "model.safetensors"
    model = Tied()
    save_model(model, path)
    assert "head.weight" not in load_file(path)
    again: Any = load_pruned(Tied, [], path)
    assert again.head.weight is again.embed.weight
    ids = torch.arange(10)
    torch.testing.assert_close(again(ids), model(ids))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_pruned_model_comes_back_with_its_passthrough(tmp_path: Path) -> None:
    smaller = remove_blocks(Tied(), ["block1"])
    save_model(smaller, tmp_path / "model.safetensors")
    again = load_pruned(Tied, ["block1"], tmp_path / "model.safetensors")
    assert again.state_dict().keys() == smaller.state_dict().keys()
    ids = torch.arange(10)
    torch.testing.assert_close(again(ids), smaller(ids))


def test_views_of_one_storage_are_all_saved(tmp_path: Path) -> None:
    model = nn.Module()
    whole = torch.arange(12.0).reshape(3, 4)
    model.register_buffer("a", whole[:2])
    model.register_buffer("b", whole.t())
    save_model(model, tmp_path / "w")
    torch.testing.assert_close(load_file(tmp_path / "w"), {"a": whole[:2], "b": whole.t()})


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(linear(), path)
    before = path.read_bytes()
    broken = nn.Module()
    broken.register_buffer("a", torch.zeros(2, device="meta"))
    with pytest.raises((NotImplementedError, RuntimeError)):
        save_model(broken, path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_torch_state_dicts_load_and_pickles_are_refused(tmp_path: Path) -> None:
    model, path = linear(), tmp_path / "weights.pt"
    torch.save(model.state_dict(), path)
    other = linear()
    load_weights(other, path)
    torch.testing.assert_close(other.state_dict(), model.state_dict())
    torch.save({"state_dict": model.state_dict()}, path)
    load_weights(other, path)
    torch.save(model, path)
    with pytest.raises(RefusedError, match="pickle") as caught:
        load_weights(other, path)
    assert caught.value.exit_code == 8
    assert "--allow-pickle" in caught.value.hint
    load_weights(other, path, allow_pickle=True)


def test_a_bare_pickle_and_rubbish_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(pickle.dumps(Pickled()))
    with pytest.raises(RefusedError):
        load_weights(linear(), path)
    path.write_bytes(b"no weights at all")
    with pytest.raises(RefusedError):
        load_weights(linear(), path)
    with pytest.raises(UsageError, match="cannot be read"):
        load_weights(linear(), path, allow_pickle=True)
    with pytest.raises(RefusedError, match="not a safetensors"):
        load_pruned(linear, [], path)


def test_a_damaged_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(linear(), path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(RefusedError, match="damaged"):
        load_weights(linear(), path)


def test_keys_and_shapes_that_do_not_fit_are_named_and_change_nothing(tmp_path: Path) -> None:
    path, model = tmp_path / "w", linear()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    save_file({"weight": torch.zeros(5, 5), "extra": torch.zeros(1)}, path)
    with pytest.raises(UsageError) as caught:
        load_weights(model, path)
    for part in ("1 missing (bias)", "1 unexpected (extra)", "1 misshapen (weight)"):
        assert part in caught.value.message
    torch.testing.assert_close(dict(model.state_dict()), before)


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a file"):
        load_weights(linear(), tmp_path / "none")
