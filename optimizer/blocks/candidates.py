"""Candidates for removal: which of the modules that stand side by side are the repeated units.

Nested sets are common (stages of blocks of convolutions). The outermost set that repeats a unit
wins; a set of stages, which change the shape or merely line up blocks, gives way to the blocks.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import nn

from mpo.errors import UsageError
from mpo.optimizer.blocks.probe import Call, Siblings, Watch, has_matrix, siblings
from mpo.optimizer.blocks.proof import FAILURES, first_line
from mpo.optimizer.data.batches import Batch


@dataclass(frozen=True)
class Unit:
    """A candidate: a member of a sibling set, and the reason that already speaks against it."""

    name: str
    module: nn.Module
    host: nn.Module
    label: str
    call: Call
    reason: str


def find_units(model: nn.Module, batch: Batch) -> list[Unit]:
    """The members of the outermost sibling sets that repeat a unit."""
    modules = dict(model.named_modules())
    sets = [_weighty(found, modules) for found in siblings(model)]
    watch = Watch(model, {name for found in sets for name in found.names})
    try:
        watch.run(batch)
    except FAILURES as error:
        raise UsageError(
            f"The model fails on two examples of the data: {first_line(error)}.",
            hint="Check that data() yields inputs as model() takes them, batch axis first.",
        ) from error
    units: list[Unit] = []
    covered: list[str] = []
    for found in sets:
        if any(f"{name}.".startswith(f"{unit}.") for unit in covered for name in found.names[:1]):
            continue
        chosen = _choose(found, sets, modules, watch.calls)
        covered += [name for name in found.names if name in chosen]
        for name in chosen:
            call = watch.calls[name]
            reason = _obstacle(name, call, modules)
            host = modules[found.host]
            units.append(Unit(name, modules[name], host, found.label, call, reason))
    return units


def _weighty(found: Siblings, modules: dict[str, nn.Module]) -> Siblings:
    names = tuple(name for name in found.names if has_matrix(modules[name]))
    return Siblings(found.host, found.label, names)


def _choose(
    found: Siblings,
    sets: list[Siblings],
    modules: dict[str, nn.Module],
    calls: dict[str, Call],
) -> list[str]:
    """The members of a sibling set that are units."""
    called = [name for name in found.names if name in calls and calls[name].taken is not None]
    leaf = {name: not any(modules[name].children()) for name in called}
    stages = {n for n in called if not leaf[n] and _is_stage(n, called, sets, modules, calls)}
    called = [name for name in called if name not in stages]
    kinds = Counter(_kind(modules[name]) for name in called)
    same = Counter(_kind(modules[name]) for name in called if calls[name].same)
    compound = sum(calls[name].same and not leaf[name] for name in called)
    chosen = []
    for name in called:
        kind, call = _kind(modules[name]), calls[name]
        # bare layers count only where equal ones stand side by side; blocks when they repeat
        if leaf[name]:
            repeats = call.same and same[kind] >= 2
        else:
            repeats = kinds[kind] >= 2 or call.calls > 1 or (call.same and compound >= 2)
        if repeats:
            chosen.append(name)
    return chosen


def _kind(module: nn.Module) -> tuple[type[nn.Module], ...]:
    """The module's class; a plain Sequential is of one kind with those made of the same layers."""
    inner = module.children() if type(module) is nn.Sequential else ()
    return (type(module), *(type(child) for child in inner))


def _is_stage(
    name: str,
    members: list[str],
    sets: list[Siblings],
    modules: dict[str, nn.Module],
    calls: dict[str, Call],
) -> bool:
    """Whether a member holds the repeated units rather than being one.

    A plain Sequential of blocks does. Any other module does when blocks repeat inside it and its
    siblings of the same kind all change shape, except perhaps the first.
    """
    inner = [
        kind
        for found in sets
        if f"{found.host}.".startswith(f"{name}.")
        for kind, count in Counter(
            type(modules[n]) for n in found.names if n in calls and any(modules[n].children())
        ).items()
        if count >= 2 and any(calls[n].same for n in found.names if n in calls)
    ]
    if not inner:
        return False
    if type(modules[name]) in {nn.Sequential, nn.ModuleList}:
        return True
    alike = [other for other in members if type(modules[other]) is type(modules[name])]
    return not any(calls[other].same for other in alike[1:])


def _obstacle(name: str, call: Call, modules: dict[str, nn.Module]) -> str:
    """What the watched pass alone says against removal; empty when nothing does."""
    if call.calls > 1:
        return f"It is called {call.calls} times in one forward pass (shared layer)."
    if call.dense:
        return "Its output is concatenated to its own input (dense connections)."
    if not call.same:
        return _shape_reason(call)
    if call.branch:
        return (
            "Its output is added to its own input by the module around it: it is a branch, not a "
            "block that can stand aside."
        )
    if call.feeds:
        return (
            f"It also computes a tensor that {call.feeds[0]} takes (as a position bias that "
            "layers share)."
        )
    own = {id(parameter) for parameter in modules[name].parameters()}
    for other, module in modules.items():
        inside = f"{other}.".startswith(f"{name}.") or f"{name}.".startswith(f"{other}.")
        if not inside and other:
            theirs = {id(parameter) for parameter in module.parameters()}
            if own <= theirs:
                return f"It shares all of its weights with {other}."
    return ""


def _shape_reason(call: Call) -> str:
    if call.taken is None or call.given is None:
        return "It returns no floating tensor."
    if call.taken == call.given:
        return "It changes the type or the device of its input."
    reason = f"It changes the shape of its input, {dims(call.taken)} to {dims(call.given)}"
    if call.skips:
        return f"{reason}, and a skip connection takes its output to {call.skips[0]}."
    if call.concatenated:
        return f"{reason}, and a skip connection concatenates its output later on."
    return f"{reason}."


def dims(shape: tuple[int, ...]) -> str:
    """A shape without its batch axis, as text: 16x32x32."""
    return "x".join(str(length) for length in shape[1:]) or "scalar"
