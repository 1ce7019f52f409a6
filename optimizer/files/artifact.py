"""Weights on disk: safetensors only, tied ones saved once, and pruned models rebuilt from factory
and removed names."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from mpo.errors import RefusedError, UsageError
from mpo.files import write_atomic
from mpo.optimizer.blocks.bypass import Passthrough, Template
from mpo.optimizer.blocks.surgery import Surgery
from mpo.optimizer.data.wrappers import fitting

_SHOWN = 3
_PASSTHROUGH = "mpo.passthrough"


def save_model(model: nn.Module, path: Path) -> None:
    """Write the state dict as safetensors, whole or not at all.

    Tensors that share their memory are written once, under their first name; the file's metadata
    says where removed blocks left a Passthrough.
    """
    state = {k: v.detach() for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    first = _first_names(state)
    tensors = {key: state[key].cpu().contiguous() for key in dict.fromkeys(first.values())}
    left = {n: m.template for n, m in model.named_modules() if isinstance(m, Passthrough)}
    metadata = {"format": "pt"} | ({_PASSTHROUGH: json.dumps(left, sort_keys=True)} if left else {})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, save(tensors, metadata))


def load_pruned(
    factory: Callable[[], nn.Module], removed: Sequence[str], weights: Path
) -> nn.Module:
    """The factory's model without the removed blocks, with the saved weights.

    Raises:
        UsageError: unknown blocks, or weights that do not fit what is left.
        RefusedError: weights that are no safetensors file.
    """
    if not _is_safetensors(weights):
        raise RefusedError(
            f"{weights} is not a safetensors file.",
            hint="Pruned models are kept as model.safetensors; make it again with mpo optimize.",
        )
    model = factory()
    left = _left_behind(weights)
    how: dict[str, Template | None] = {name: left.get(name) for name in removed}
    Surgery(model, how).remove(removed)
    load_weights(model, weights)
    return model


def load_weights(model: nn.Module, path: Path, allow_pickle: bool = False) -> None:
    """Read a state dict into the model: safetensors, or a torch file without pickled objects.

    Args:
        model: gets the weights; unchanged when they do not fit.
        path: the file, recognised by its content; prefixes of wrappers in its keys do not matter.
        allow_pickle: run the pickle when nothing else reads the file. It can run any code.

    Raises:
        UsageError: no such file, no state dict in it, or keys or shapes that do not fit.
        RefusedError: only unpickling could read the file.
    """
    if not path.is_file():
        raise UsageError(f"{path} is not a file.", hint="Name a file of weights.")
    state = _read_safetensors(path) if _is_safetensors(path) else _read_torch(path, allow_pickle)
    state = fitting(state, model.state_dict())
    _check(model, state, path)
    # tied names that the file leaves out share their tensor with one that it has
    model.load_state_dict(state, strict=False)


def _first_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """For every key, the first key whose tensor is the very same memory, seen the same way."""
    seen: dict[tuple[object, ...], str] = {}
    first: dict[str, str] = {}
    for key, value in state.items():
        if value.numel() == 0:
            first[key] = key
            continue
        where = (str(value.device), value.data_ptr(), value.dtype, value.shape, value.stride())
        first[key] = seen.setdefault(where, key)
    return first


def _is_safetensors(path: Path) -> bool:
    """Eight bytes of header length, then a JSON object."""
    if not path.is_file():
        raise UsageError(f"{path} is not a file.", hint="Name a file of weights.")
    with path.open("rb") as file:
        head = file.read(9)
    length = int.from_bytes(head[:8], "little")
    return len(head) == 9 and head[8:] == b"{" and 2 <= length <= path.stat().st_size - 8


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise RefusedError(
            f"{path} is a damaged safetensors file: {error}", hint="Copy or make it again."
        ) from error


def _left_behind(path: Path) -> dict[str, Template]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        return dict(json.loads(metadata.get(_PASSTHROUGH, "{}")))
    except (SafetensorError, ValueError) as error:
        raise RefusedError(
            f"{path} is a damaged safetensors file: {error}", hint="Copy or make it again."
        ) from error


def _read_torch(path: Path, allow_pickle: bool) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            # about pickle protocols: the file is refused anyway when it cannot be read
            warnings.simplefilter("ignore", UserWarning)
            value: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, AttributeError) as error:
        if not allow_pickle:
            raise RefusedError(
                f"{path} cannot be read without running the pickle inside it.",
                hint="Save the weights with safetensors, or as torch.save(model.state_dict(), …); "
                "--allow-pickle reads it all the same, and runs whatever code it holds.",
            ) from error
        value = _unpickle(path)
    if isinstance(value, nn.Module):
        value = value.state_dict()
    if isinstance(value, Mapping) and isinstance(value.get("state_dict"), Mapping):
        value = value["state_dict"]
    if not isinstance(value, Mapping) or not value:
        raise UsageError(
            f"{path} holds a {type(value).__name__}, no state dict.",
            hint="Save model.state_dict().",
        )
    return {str(key): item for key, item in value.items() if isinstance(item, Tensor)}


def _unpickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except (
        pickle.UnpicklingError, RuntimeError, EOFError, ValueError, AttributeError, ImportError,
    ) as error:  # fmt: skip
        raise UsageError(
            f"{path} cannot be read as weights: {error}", hint="Name a safetensors file."
        ) from error


def _check(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    own = {key: v for key, v in model.state_dict().items() if isinstance(v, Tensor)}
    groups: dict[str, set[str]] = {}
    for key, name in _first_names(own).items():
        groups.setdefault(name, set()).add(key)
    missing = [
        key for keys in groups.values() for key in sorted(keys)[:1] if not keys & state.keys()
    ]
    unexpected = [key for key in state if key not in own]
    wrong = [key for key in own if key in state and own[key].shape != state[key].shape]
    parts = []
    for what, keys in (("missing", missing), ("unexpected", unexpected), ("misshapen", wrong)):
        if keys:
            more = ", …" if len(keys) > _SHOWN else ""
            parts.append(f"{len(keys)} {what} ({', '.join(keys[:_SHOWN])}{more})")
    if parts:
        raise UsageError(
            f"{path} does not fit the {type(model).__name__}: {'; '.join(parts)} of "
            f"{len(own)} tensors.",
            hint="Take the weights of this very architecture.",
        )
