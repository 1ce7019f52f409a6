"""Taking blocks out of a model for good: list entries deleted, counts and indices put right.

A block that its host addresses through a list (Sequential, ModuleList) is deleted from it, and
what the model knows about the list's length follows: layer counts and per-layer lists in its
configuration, layer indices on the blocks behind. A block that is addressed by name or position
leaves a Passthrough, which has no parameters. Every change can be undone, so that a removal is
tried on one copy of the model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from mpo.optimizer.blocks.bypass import NOTE, Passthrough, Template, find_named
from mpo.optimizer.ground.copies import clone

_COUNT = re.compile(r"layers?$|layer_num|blocks?$|depths?$|^h$")
_NO_COUNT = re.compile(r"max|min|freq|interval|norm|skip|first|last|start|sparse|step")
_INDEX = re.compile(r"^(layer|block)_?(idx|id|index|number)$|^(idx|index)$")
_SETTINGS = re.compile(r"config|cfg|hparams|settings|^args$")


def remove_blocks(model: nn.Module, names: Collection[str]) -> nn.Module:
    """A deep copy of the model without these blocks: physically smaller, nothing left behind.

    Blocks go as find_blocks proved that they can; a model that it has not seen has list entries
    deleted and everything else replaced by a Passthrough.

    Raises:
        UsageError: the model has no block of that name, or cannot be copied.
    """
    find_named(model, names)
    smaller = clone(model)
    Surgery(smaller).remove(names)
    for module in smaller.modules():
        vars(module).pop(NOTE, None)
    return smaller


def is_list(module: nn.Module) -> bool:
    """Whether a host runs through the module's children one after the other."""
    return isinstance(module, (nn.Sequential, nn.ModuleList))


class Surgery:
    """Removals from one model, in place, which `undo` takes back.

    Args:
        model: the model to cut.
        passthrough: blocks that leave a Passthrough with this template, and None for blocks that
            are deleted from their list; blocks not named here go as their note says.
    """

    def __init__(
        self, model: nn.Module, passthrough: Mapping[str, Template | None] | None = None
    ) -> None:
        self._model = model
        self._passthrough = dict(passthrough or {})
        self._undo: list[Callable[[], None]] = []

    def remove(self, names: Collection[str]) -> None:
        """Take the named blocks out.

        Raises:
            UsageError: the model has no block of that name.
        """
        doomed: dict[str, set[str]] = {}
        for name, block in find_named(self._model, names).items():
            parent, _, key = name.rpartition(".")
            template = self._template(name, block, self._model.get_submodule(parent))
            if template is None:
                doomed.setdefault(parent, set()).add(key)
            else:
                children = self._model.get_submodule(parent)._modules
                self._set(children, key, Passthrough(template))
        for parent, keys in doomed.items():
            self._delete(parent, keys)

    def undo(self) -> None:
        """Put everything back as it was."""
        while self._undo:
            self._undo.pop()()

    def _template(self, name: str, block: nn.Module, parent: nn.Module) -> Template | None:
        if name in self._passthrough:
            return self._passthrough[name]
        note = vars(block).get(NOTE, {})
        if is_list(parent) and not note.get("passthrough", False):
            return None
        return dict(note.get("template") or {"hidden": "args"})

    def _set(self, target: Any, key: str, value: Any) -> None:
        before = target[key]

        def put_back() -> None:
            target[key] = before

        self._undo.append(put_back)
        target[key] = value

    def _delete(self, name: str, keys: set[str]) -> None:
        container = self._model.get_submodule(name)
        old = dict(container._modules)
        kept = {key: child for key, child in old.items() if key not in keys}
        numbered = all(key.isdigit() for key in old)
        positions = [position for position, key in enumerate(old) if key in keys]
        for position, (key, child) in enumerate(old.items()):
            shift = sum(gone < position for gone in positions)
            if key in kept and shift and child is not None:
                self._renumber(child, position, shift)
        new = {str(i): c for i, c in enumerate(kept.values())} if numbered else kept
        # replaced as a whole: deleting one by one renumbers named entries
        self._set(vars(container), "_modules", new)
        self._recount(name, len(old), positions)

    def _renumber(self, block: nn.Module, position: int, shift: int) -> None:
        for module in block.modules():
            for key, value in list(vars(module).items()):
                # 1-based numbers follow too
                if _INDEX.search(key) and type(value) is int and value in {position, position + 1}:
                    self._set(vars(module), key, value - shift)

    def _recount(self, name: str, length: int, positions: list[int]) -> None:
        parent = name.rpartition(".")[0]
        owner = self._model.get_submodule(parent)
        root = {id(settings) for settings in _settings(self._model)}
        root_only = self._model is not owner
        self._fix(vars(owner), length, positions, name, narrow=False)
        done: set[int] = set()
        for module in _upwards(self._model, parent):
            for settings in _settings(module):
                if id(settings) not in done:
                    done.add(id(settings))
                    narrow = root_only and id(settings) in root
                    self._fix(settings, length, positions, name, narrow=narrow)
        # sub-modules of the owner that hold their own copy of a per-stack configuration
        for module in owner.modules():
            for settings in _settings(module):
                if id(settings) not in done and id(settings) not in root:
                    done.add(id(settings))
                    self._fix(settings, length, positions, name, narrow=False)

    def _fix(
        self, values: dict[str, Any], length: int, positions: list[int], path: str, *, narrow: bool
    ) -> None:
        """Shorten counts and per-layer lists; `narrow`: the settings speak of other stacks too."""
        # a model of decoders only counts them as plain layers
        narrow = narrow and any("decoder" in key and _COUNT.search(key) for key in values)
        for key, value in list(values.items()):
            if _NO_COUNT.search(key) or (narrow and not _speaks_of(key, path)):
                continue
            if type(value) is int and value == length and _COUNT.search(key):
                self._set(values, key, length - len(positions))
            elif type(value) in {list, tuple} and ("layer" in key or _COUNT.search(key)):
                self._set(values, key, _shorten(value, length, positions, path))


def _shorten(value: Any, length: int, positions: list[int], path: str) -> Any:
    """A per-layer list without the removed layers, or a per-stage list with the stage's count."""
    if all(type(item) is int for item in value):
        stages = [int(part) for part in path.split(".") if part.isdigit()]
        if stages and stages[-1] < len(value) and value[stages[-1]] == length:
            counts = list(value)
            counts[stages[-1]] -= len(positions)
            return type(value)(counts)
    if len(value) != length:
        return value
    return type(value)(item for i, item in enumerate(value) if i not in positions)


def _speaks_of(key: str, path: str) -> bool:
    """Whether a setting of this name may be about the list at this path.

    Encoder-decoders keep both counts in one place: num_decoder_layers beside num_layers.
    """
    in_decoder = "decoder" in path
    if "decoder" in key:
        return in_decoder
    if "encoder" in key:
        return "encoder" in path and not in_decoder
    return not in_decoder


def _settings(module: nn.Module) -> Iterator[dict[str, Any]]:
    """The configurations that a module holds, with those nested inside them."""
    for key, value in vars(module).items():
        if _SETTINGS.search(key):
            yield from _nested(value, 0)


def _nested(value: Any, level: int) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        inner = value
    elif hasattr(value, "__dict__") and not isinstance(value, (nn.Module, type)):
        inner = vars(value)
    else:
        return
    yield inner
    if level < 2:
        for key, item in list(inner.items()):
            if _SETTINGS.search(key):
                yield from _nested(item, level + 1)


def _upwards(model: nn.Module, name: str) -> Iterator[nn.Module]:
    """The module of this name and all that contain it, inner ones first."""
    while name:
        yield model.get_submodule(name)
        name = name.rpartition(".")[0]
    yield model


@contextmanager
def removed(model: nn.Module, how: Mapping[str, Template | None]) -> Iterator[None]:
    """While active, the model lacks these blocks: deleted (None) or a Passthrough (a template)."""
    surgery = Surgery(model, how)
    try:
        surgery.remove(list(how))
        yield
    finally:
        surgery.undo()
