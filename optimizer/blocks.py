"""Which parts of a model can go: repeated child modules whose output can stand in for their input.

A model's kind or names are never asked for. Sets of sibling modules are watched in one forward
pass; of nested sets the outermost that repeats a unit is taken; and every unit that keeps its
hidden state's shape is taken out once, on a copy, and run at two batch sizes beside the same model
with the block bypassed. Only what passes is removable; everything else says why not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from mpo.errors import UsageError
from mpo.optimizer.batches import Batch, take
from mpo.optimizer.bypass import NOTE, Template, bypass
from mpo.optimizer.costs import macs_by_module
from mpo.optimizer.probe import Call, Siblings, Watch, has_matrix, siblings
from mpo.optimizer.proof import Prover
from mpo.optimizer.surgery import clone, is_list
from mpo.records import Block

__all__ = ["bypass", "find_blocks"]


@dataclass(frozen=True)
class _Unit:
    """A candidate: a member of a sibling set, and the reason that already speaks against it."""

    name: str
    module: nn.Module
    host: nn.Module
    label: str
    call: Call
    reason: str


def find_blocks(model: nn.Module, batch: Batch) -> tuple[Block, ...]:
    """Every candidate in execution order, removable or with the reason why not.

    The model itself is left as it is (parameters, buffers, modes, random state), except that each
    candidate is told how it may be removed (a JSON note in its `__dict__`, see bypass.NOTE).

    Args:
        model: the network; it may be in training mode, and is looked at in evaluation mode.
        batch: example inputs of any size; two and three of its examples are run.

    Raises:
        UsageError: the model cannot be copied or fails on the batch.
    """
    twin = clone(model).eval()
    for module in twin.modules():
        vars(module).pop(NOTE, None)
    with _quiet(twin):
        units = sorted(_find_units(twin, take(batch, 2)), key=lambda unit: unit.call.order)
        verdicts = _prove(twin, units, batch)
        macs = macs_by_module(twin, batch)
    own = dict(model.named_modules())
    _note(own, units, verdicts)
    groups = _groups(units)
    params = _own_params(model)
    blocks = []
    for index, unit in enumerate(units):
        reason, _ = verdicts[unit.name]
        blocks.append(
            Block(
                name=unit.name,
                kind=type(unit.module).__name__,
                index=index,
                group=groups[unit.name],
                params=sum(params[id(p)] for p in own[unit.name].parameters()),
                macs=macs.get(unit.name, 0),
                removable=not reason,
                reason=reason,
            )
        )
    return tuple(blocks)


@contextmanager
def _quiet(model: nn.Module) -> Iterator[None]:
    """No gradients, and the random state as it was; layers run the path that training runs."""
    devices = {p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"}
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=sorted(devices)):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _find_units(model: nn.Module, batch: Batch) -> list[_Unit]:
    """The members of the outermost sibling sets that repeat a unit."""
    modules = dict(model.named_modules())
    sets = [_weighty(found, modules) for found in siblings(model)]
    watch = Watch(model, {name for found in sets for name in found.names})
    try:
        watch.run(batch)
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise UsageError(
            f"The model fails on two examples of the data: {_first_line(error)}",
            hint="Check that data() yields inputs as model() takes them, batch axis first.",
        ) from error
    units: list[_Unit] = []
    covered: list[str] = []
    for found in sets:
        if any(f"{name}.".startswith(f"{unit}.") for unit in covered for name in found.names[:1]):
            continue
        chosen = _choose(found, sets, modules, watch.calls)
        covered += [name for name in found.names if name in chosen]
        for name in chosen:
            call = watch.calls[name]
            reason = _obstacle(name, found, watch.calls, modules)
            host = modules[found.host]
            units.append(_Unit(name, modules[name], host, found.label, call, reason))
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
    kinds = Counter(type(modules[name]) for name in called if name not in stages)
    same = Counter(
        type(modules[name]) for name in called if name not in stages and calls[name].same
    )
    compound = sum(calls[name].same and not leaf[name] for name in called if name not in stages)
    chosen = []
    for name in called:
        kind = type(modules[name])
        if name in stages:
            continue
        # bare layers count only where equal ones follow one another; blocks when they repeat
        repeats = same[kind] >= 2 if leaf[name] else kinds[kind] >= 2 or compound >= 2
        if repeats and (not leaf[name] or calls[name].same):
            chosen.append(name)
    return chosen


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


def _obstacle(
    name: str, found: Siblings, calls: dict[str, Call], modules: dict[str, nn.Module]
) -> str:
    """What the watched pass alone says against removal; empty when nothing does."""
    call = calls[name]
    if call.calls > 1:
        return f"It is called {call.calls} times in one forward pass (shared layer)."
    if not call.same:
        return _shape_reason(name, found, calls)
    if call.branch:
        return (
            "Its output is added to its own input by the module around it: it is a branch, not a "
            "block that can stand aside."
        )
    if call.feeds:
        return (
            f"It also computes a tensor that {call.feeds[0]} takes "
            f"({len(call.feeds)} later uses, as a position bias that layers share)."
        )
    own = {id(parameter) for parameter in modules[name].parameters()}
    for other, module in modules.items():
        inside = f"{other}.".startswith(f"{name}.") or f"{name}.".startswith(f"{other}.")
        if not inside and other:
            theirs = {id(parameter) for parameter in module.parameters()}
            if own <= theirs:
                return f"It shares all of its weights with {other}."
    return ""


def _shape_reason(name: str, found: Siblings, calls: dict[str, Call]) -> str:
    call = calls[name]
    if call.taken is None or call.given is None:
        return "It returns no floating tensor."
    after = [calls[other].taken for other in found.names if other in calls]
    position = [other for other in found.names if other in calls].index(name)
    following = after[position + 1] if position + 1 < len(after) else None
    if call.concatenated and following is not None and _grows(call.taken, call.given, following):
        return (
            f"Its output is concatenated to its input (dense connections): {_dims(call.given)} "
            f"join {_dims(call.taken)}."
        )
    if call.taken == call.given:
        return "It changes the type or the device of its input."
    reason = f"It changes the shape of its input, {_dims(call.taken)} to {_dims(call.given)}"
    if call.skips:
        return f"{reason}, and a skip connection takes its output to {call.skips[0]}."
    if call.concatenated:
        return f"{reason}, and a skip connection concatenates its output later on."
    return f"{reason}."


def _grows(taken: tuple[int, ...], given: tuple[int, ...], following: tuple[int, ...]) -> bool:
    return len(taken) == len(given) == len(following) and any(
        taken[axis] + given[axis] == following[axis] for axis in range(1, len(taken))
    )


def _dims(shape: tuple[int, ...]) -> str:
    return "x".join(str(length) for length in shape[1:]) or "scalar"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _prove(
    model: nn.Module, units: list[_Unit], batch: Batch
) -> dict[str, tuple[str, Template | None]]:
    """For each unit the reason against it (or "") and the Passthrough that it leaves (or None).

    A list whose entries cannot all be deleted keeps its length: one deletion would shift the
    others, so that all of its units leave a Passthrough.
    """
    prover = Prover(model, batch)
    verdicts: dict[str, tuple[str, Template | None]] = {}
    hosts: dict[int, list[_Unit]] = {}
    for unit in units:
        verdicts[unit.name] = (unit.reason, None)
        if not unit.reason:
            hosts.setdefault(id(unit.host), []).append(unit)
    for members in hosts.values():
        deletable = is_list(members[0].host) and all(
            not prover.try_out(unit.name, unit.call.template, delete=True) for unit in members
        )
        for unit in members if not deletable else []:
            problem = prover.try_out(unit.name, unit.call.template, delete=False)
            verdicts[unit.name] = (problem, None if problem else unit.call.template)
    return verdicts


def _note(
    own: dict[str, nn.Module],
    units: list[_Unit],
    verdicts: dict[str, tuple[str, Template | None]],
) -> None:
    for unit in units:
        _, template = verdicts[unit.name]
        if unit.call.template is not None and unit.call.same:
            note = {"template": unit.call.template, "passthrough": template is not None}
            vars(own[unit.name])[NOTE] = note


def _own_params(model: nn.Module) -> dict[int, int]:
    """Elements of every parameter by its id, and 0 for those that several modules hold."""
    holders = Counter(id(p) for m in model.modules() for p in m._parameters.values() if p is not None)
    return {id(p): p.numel() if holders[id(p)] == 1 else 0 for p in model.parameters()}


def _groups(units: list[_Unit]) -> dict[str, str]:
    """Consecutive units of one set and one output shape share a group."""
    groups: dict[str, str] = {}
    last: dict[str, tuple[tuple[int, ...] | None, str]] = {}
    taken: Counter[str] = Counter()
    for unit in units:
        shape, group = last.get(unit.label, (None, ""))
        if shape != unit.call.given or not group:
            group = f"{unit.label or 'model'}:{_dims(unit.call.given or ())}"
            taken[group] += 1
            group = f"{group}#{taken[group]}" if taken[group] > 1 else group
        last[unit.label] = (unit.call.given, group)
        groups[unit.name] = group
    return groups
