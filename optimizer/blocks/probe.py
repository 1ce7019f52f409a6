"""One forward pass that is watched: what every repeated child module takes, returns and feeds.

Nothing here knows a model's name. Children are siblings when they are entries of one Sequential,
ModuleList or ModuleDict, or attributes that differ in a number (layer1, layer2).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from mpo.optimizer.blocks.bypass import Template, hidden_input, learn
from mpo.optimizer.data.batches import Batch, forward, leaves

_NUMBERED = re.compile(r"^(.*?)_?(\d+)$")
_ADD = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}
_NORM = {F.layer_norm, F.rms_norm, F.group_norm, F.batch_norm, F.instance_norm}
_CAT = {torch.cat, torch.concat, torch.concatenate}


@dataclass(frozen=True)
class Siblings:
    """Children that one host holds side by side.

    Attributes:
        host: name of the module that holds them.
        label: what they are called together: the container's name, or the attributes' stem.
        names: their full names, in the host's order.
    """

    host: str
    label: str
    names: tuple[str, ...]


@dataclass
class Call:
    """What a module did in the watched pass (its first call when there were more).

    Attributes:
        order: position in execution order.
        calls: how many times it was called.
        taken: shape of its hidden input; None when it took no floating tensor.
        given: shape of its first floating output; None when it returned none.
        same: output and input agree in shape, dtype and device.
        template: how a stand-in answers.
        feeds: names of watched modules that took one of its *further* outputs.
        skips: watched modules outside it that took its hidden output as a second argument.
        concatenated: its output was concatenated with another tensor.
        dense: that other tensor is one that it took.
        branch: its output was added to its own input by the host.
    """

    order: int
    calls: int = 1
    taken: tuple[int, ...] | None = None
    given: tuple[int, ...] | None = None
    same: bool = False
    template: Template | None = None
    feeds: list[str] = field(default_factory=list)
    skips: list[str] = field(default_factory=list)
    concatenated: bool = False
    dense: bool = False
    branch: bool = False


def siblings(model: nn.Module) -> Iterator[Siblings]:
    """Every set of two or more children that stand side by side, outer ones first."""
    for host, module in model.named_modules():
        prefix = f"{host}." if host else ""
        sets: dict[str, list[str]] = {}
        for key, _ in module.named_children():
            if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
                sets.setdefault(host, []).append(prefix + key)
            elif match := _NUMBERED.match(key):
                sets.setdefault(prefix + match[1], []).append(prefix + key)
        for label, names in sets.items():
            yield Siblings(host, label, tuple(names))


def has_matrix(module: nn.Module) -> bool:
    """Whether the module multiplies: norms and activations have no weight of two axes."""
    return any(parameter.dim() >= 2 for parameter in module.parameters())


class Watch:
    """Hooks and notes of one watched pass over the modules of these names."""

    def __init__(self, model: nn.Module, names: set[str]) -> None:
        self.calls: dict[str, Call] = {}
        self._model = model
        self._names = names
        self._main: dict[int, list[str]] = {}
        self._side: dict[int, list[str]] = {}
        self._arguments: dict[str, set[int]] = {}
        self._taken: dict[str, Tensor] = {}
        self._normed: dict[int, Tensor] = {}
        self._alive: list[Any] = []  # a freed tensor's id would be used again

    def run(self, batch: Batch) -> Any:
        """Run the model once; returns its outputs."""
        with ExitStack() as stack:
            for name, module in self._model.named_modules():
                if name in self._names:
                    entering = module.register_forward_pre_hook(self._enter(name), with_kwargs=True)
                    stack.callback(entering.remove)
                    leaving = module.register_forward_hook(self._leave(name), with_kwargs=True)
                    stack.callback(leaving.remove)
            stack.enter_context(_Operations(self._operation))
            return forward(self._model, batch)

    def _enter(self, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if name in self.calls:
                self.calls[name].calls += 1
                return
            self.calls[name] = Call(len(self.calls))
            found = hidden_input(args, kwargs)
            for leaf in leaves((args, kwargs)):
                for source in self._side.get(id(leaf), ()):
                    self.calls[source].feeds.append(name)
                if found is None or leaf is not found[1]:
                    for source in self._main.get(id(leaf), ()):
                        self.calls[source].skips.append(name)
            self._arguments[name] = {id(leaf) for leaf in leaves((args, kwargs))}
            self._alive.append((args, kwargs))

        return hook

    def _leave(self, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            call = self.calls[name]
            if call.calls > 1:
                return
            self._alive.append(output)
            found = hidden_input(args, kwargs)
            first = next((leaf for leaf in leaves(output) if leaf.is_floating_point()), None)
            if found is not None:
                call.taken = tuple(found[1].shape)
                self._taken[name] = found[1]
            if first is not None:
                call.given = tuple(first.shape)
                self._main.setdefault(id(first), []).append(name)
            if found is not None and first is not None:
                hidden = found[1]
                alike = (hidden.shape, hidden.dtype, hidden.device)
                call.same = alike == (first.shape, first.dtype, first.device)
                call.template = learn(output, args, kwargs)
            for leaf in leaves(output):
                if leaf is not first and id(leaf) not in self._arguments[name]:
                    self._side.setdefault(id(leaf), []).append(name)

        return hook

    def _operation(self, function: Any, args: tuple[Any, ...], result: Any) -> None:
        if function in _NORM and isinstance(result, Tensor) and isinstance(args[0], Tensor):
            self._normed[id(result)] = args[0]
            self._alive.append(result)
        elif function in _CAT:
            joined = {id(leaf) for leaf in leaves(args)}
            for name in {name for leaf in joined for name in self._main.get(leaf, ())}:
                self.calls[name].concatenated = True
                self.calls[name].dense |= bool(joined & self._arguments[name])
        elif function in _ADD and len(args) == 2:
            for one, other in (args, args[::-1]):
                for name in self._main.get(id(one), ()):
                    taken = self._taken.get(name)
                    if other is taken or other is self._normed.get(id(taken)):
                        self.calls[name].branch = other is not None


class _Operations(TorchFunctionMode):
    """Tells `note` of every torch function that the model calls, with what came of it."""

    def __init__(self, note: Callable[[Any, tuple[Any, ...], Any], None]) -> None:
        super().__init__()
        self._note = note

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Make the call and note it."""
        result = func(*args, **(kwargs or {}))
        self._note(func, args, result)
        return result
