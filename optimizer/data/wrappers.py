"""The network inside whatever it comes wrapped in, as a copy that can be cut, trained and exported.

Opened: DataParallel, DistributedDataParallel and averaged models, compiled and checkpointed
modules, anywhere in the model; parametrizations and re-computed weights (weight norm, spectral
norm, masks of torch.nn.utils.prune), which are folded into plain weights; adapters that offer to
be merged. Refused with what to do: sharded, quantized, scripted, uninitialised and adapted models
whose weights cannot be reached from outside.

All is told by structure, never by a model's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from mpo.errors import UsageError
from mpo.optimizer.ground.copies import clone

_ENTRIES = ("_orig_mod", "_checkpoint_wrapped_module")  # what compiling and checkpointing wrap
_SHARDED = "_fsdp_wrapped_module"
_PREFIX = "module."
_PARTS = frozenset((*_ENTRIES, _SHARDED))
_OF_A_CLASS = ("__dict__", "__weakref__")
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


def inside(model: nn.Module) -> nn.Module | None:
    """The network that this very module wraps; None when it wraps none."""
    if isinstance(model, _PARALLEL):
        return model.module
    return next((model._modules[name] for name in _ENTRIES if name in model._modules), None)


def unwrapped(model: nn.Module) -> nn.Module:
    """The network under all outer wrappers; the model itself when it has none."""
    while (inner := inside(model)) is not None:
        model = inner
    return model


def plain_copy(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """A deep copy in evaluation mode that is one plain network, and what was opened to get it.

    Raises:
        UsageError: the weights cannot be reached (sharded, quantized, ...), or it cannot be copied.
    """
    _require_reachable(model)
    opened = [_told(module) for module in model.modules() if inside(module) is not None]
    bare = _copy(model).eval()
    bare, merged = _merged(bare)
    folded = _fold(bare)
    parts = [*dict.fromkeys(opened), *merged, *(["parametrized weights"] if folded else [])]
    if not parts:
        return bare, ()
    return bare, (
        f"The model came with {', '.join(parts)}: mpo works on the plain network inside.",
    )


def fitting(state: Mapping[str, Tensor], own: Iterable[str]) -> dict[str, Tensor]:
    """A state dict under the model's own names, where wrappers' prefixes are all that differs.

    Args:
        state: as a file holds it; keys may carry `module.`, `_orig_mod.` and the like.
        own: the keys of the model that takes it.
    """
    known = {_bare(key): key for key in own}
    found = {_bare(key): value for key, value in state.items() if key != "n_averaged"}
    inner = {key.removeprefix(_PREFIX): value for key, value in found.items()}
    if all(key.startswith(_PREFIX) for key in found) and inner.keys() & known.keys() >= (
        found.keys() & known.keys()
    ):
        found = inner
    return {known.get(key, key): value for key, value in found.items()}


def _bare(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in _PARTS)


def _told(module: nn.Module) -> str:
    return "a compiled part" if "_orig_mod" in module._modules else type(module).__name__


def _require_reachable(model: nn.Module) -> None:
    for name, module in model.named_modules():
        where = f" ({name})" if name else ""
        if _SHARDED in module._modules:
            raise _sharded(f"The model is sharded by FSDP{where}")
        if isinstance(module, torch.jit.ScriptModule):
            raise UsageError(
                f"The model is TorchScript{where}: no block can be taken out of it.",
                hint="Return the Python module that it was scripted from, with its weights loaded.",
            )
        if any(isinstance(value, torch.ScriptObject) for value in vars(module).values()):
            raise _quantized(f"{type(module).__name__}{where} holds packed weights")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        _require_plain(name, tensor)


def _require_plain(name: str, tensor: Tensor) -> None:
    if is_lazy(tensor) or tensor.is_meta:
        raise UsageError(
            f"The model's {name} has no values yet.",
            hint="Load the weights in model(); run lazy modules once on an example input.",
        )
    if hasattr(tensor, "full_tensor"):
        raise _sharded(f"The model's {name} is a distributed tensor")
    small = tensor.itemsize == 1 and tensor.is_floating_point()
    coded = isinstance(tensor, nn.Parameter) and tensor.dtype in (torch.int8, torch.uint8)
    if tensor.is_quantized or small or coded:
        raise _quantized(f"The model's {name} is {tensor.dtype}".replace("torch.", ""))
    if is_traceable_wrapper_subclass(tensor):
        raise _quantized(f"The model's {name} is a {type(tensor).__name__}")


def _sharded(what: str) -> UsageError:
    return UsageError(
        f"{what}: this process holds a part of the weights.",
        hint="Gather the full state dict, save it, and let model() build the plain network with "
        "it (--weights FILE).",
    )


def _quantized(what: str) -> UsageError:
    return UsageError(
        f"{what}: a quantized model can neither be compared nor trained.",
        hint="Return the model before quantization; mpo quantizes the result (--precision int8).",
    )


def _copy(model: nn.Module) -> nn.Module:
    """A deep copy with wrappers replaced by what is inside them; the model is left as it is."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        # weights that hooks compute anew are no leaves, and only leaves can be copied
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    for module in reversed([*model.modules()]):
        inner = inside(module)
        if inner is not None:
            memo[id(module)] = clone(inner, memo)
    return clone(model, memo)


def _merged(model: nn.Module) -> tuple[nn.Module, list[str]]:
    """The model with its adapters merged into the weights, where they offer it.

    Raises:
        UsageError: adapters (parameters called lora_*) that offer nothing.
    """
    told: list[str] = []
    for name, module in [*model.named_modules()]:
        merge = getattr(module, "merge_and_unload", None)
        if not callable(merge):
            continue
        plain: Any = merge()
        told.append("adapters")
        if not name:
            model = plain
            break
        model.set_submodule(name, plain)
    left = [name for name, _ in model.named_parameters() if ".lora_" in f".{name.lower()}"]
    if left:
        raise UsageError(
            f"The model has {len(left)} adapter weights ({left[0]}, ...) beside its own and no "
            "merge_and_unload().",
            hint="Merge the adapters into the weights in model() before returning it.",
        )
    return model, told


def _fold(model: nn.Module) -> bool:
    """Make plain weights of all that are computed from others; True when there were any."""
    found = False
    for module in model.modules():
        if parametrize.is_parametrized(module):
            found = True
            _own_class(module)
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        for key, hook in list(module._forward_pre_hooks.items()):
            # weight norm, spectral norm and pruning masks of the older kind
            if hasattr(hook, "remove") and isinstance(vars(module).get(_target(hook)), Tensor):
                found = True
                if isinstance(hook, SpectralNorm):  # it has hooks on the state dict too
                    remove_spectral_norm(module, hook.name)
                    continue
                with torch.no_grad():
                    hook.remove(module)
                module._forward_pre_hooks.pop(key, None)
    return found


def _own_class(module: nn.Module) -> None:
    """Give a parametrized copy a class of its own: the weight is a property of the class, which
    copies share, and would be taken from the original too."""
    made = type(module)
    held = {key: value for key, value in vars(made).items() if key not in _OF_A_CLASS}
    module.__class__ = type(made.__name__, made.__bases__, held)


def _target(hook: Any) -> str:
    """The name of the weight that a hook computes before each call; empty for other hooks."""
    return str(getattr(hook, "name", getattr(hook, "_tensor_name", "")))
