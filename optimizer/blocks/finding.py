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

import torch
from torch import nn

from mpo.optimizer.blocks.bypass import NOTE, Template, bypass
from mpo.optimizer.blocks.candidates import Unit, dims, find_units
from mpo.optimizer.blocks.costs import macs_by_module
from mpo.optimizer.blocks.proof import Prover
from mpo.optimizer.blocks.surgery import is_list
from mpo.optimizer.data.batches import Batch, take
from mpo.optimizer.ground.copies import clone
from mpo.records import Block

__all__ = ["bypass", "find_blocks"]


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
        units = sorted(find_units(twin, take(batch, 2)), key=lambda unit: unit.call.order)
        verdicts = _prove(twin, units, batch)
        macs = macs_by_module(twin, batch)
    own = dict(model.named_modules())
    _note(own, units, verdicts)
    groups = _groups(units)
    holders = _holders(model)
    blocks = []
    for index, unit in enumerate(units):
        reason, _ = verdicts[unit.name]
        blocks.append(
            Block(
                name=unit.name,
                kind=type(unit.module).__name__,
                index=index,
                group=groups[unit.name],
                params=_own_params(own[unit.name], holders),
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


def _prove(
    model: nn.Module, units: list[Unit], batch: Batch
) -> dict[str, tuple[str, Template | None]]:
    """For each unit the reason against it (or "") and the Passthrough that it leaves (or None).

    A list whose entries cannot all be deleted keeps its length: one deletion would shift the
    others, so that all of its units leave a Passthrough.
    """
    prover = Prover(model, batch)
    verdicts: dict[str, tuple[str, Template | None]] = {}
    hosts: dict[int, list[Unit]] = {}
    for unit in units:
        verdicts[unit.name] = (unit.reason, None)
        if not unit.reason:
            hosts.setdefault(id(unit.host), []).append(unit)
    for members in hosts.values():
        verdicts |= _prove_host(prover, members)
    return verdicts


def _prove_host(prover: Prover, members: list[Unit]) -> dict[str, tuple[str, Template | None]]:
    """Each unit of one host alone, then all of them together.

    A host that cannot lose all of its units (it looks at its first layer) keeps the first.
    """
    templates = {unit.name: unit.call.template for unit in members}
    delete = is_list(members[0].host)
    if delete:
        delete = not any(prover.try_out({n: t}, delete=True) for n, t in templates.items())
    problems = {
        name: "" if delete else prover.try_out({name: template}, delete=False)
        for name, template in templates.items()
    }
    free = {name: templates[name] for name, problem in problems.items() if not problem}
    if len(free) > 1 and prover.try_out(free, delete=delete):
        first = next(iter(free))
        problems[first] = "The module around it cannot run without any of its blocks: one stays."
        del free[first]
        together = prover.try_out(free, delete=delete)
        problems |= dict.fromkeys(free, together) if together else {}
    left = {name: None if delete or problems[name] else templates[name] for name in templates}
    return {name: (problems[name], left[name]) for name in templates}


def _note(
    own: dict[str, nn.Module],
    units: list[Unit],
    verdicts: dict[str, tuple[str, Template | None]],
) -> None:
    for unit in units:
        _, template = verdicts[unit.name]
        if unit.call.template is not None and unit.call.same:
            note = {"template": unit.call.template, "passthrough": template is not None}
            vars(own[unit.name])[NOTE] = note


def _holders(model: nn.Module) -> Counter[int]:
    """How many modules hold each parameter, by its id."""
    held = (p for module in model.modules() for p in module._parameters.values())
    return Counter(id(parameter) for parameter in held if parameter is not None)


def _own_params(block: nn.Module, holders: Counter[int]) -> int:
    """Elements of the parameters that no module outside the block holds."""
    inside = _holders(block)
    return sum(p.numel() for p in block.parameters() if inside[id(p)] == holders[id(p)])


def _groups(units: list[Unit]) -> dict[str, str]:
    """Consecutive units of one set and one output shape share a group."""
    groups: dict[str, str] = {}
    last: dict[str, tuple[tuple[int, ...] | None, str]] = {}
    taken: Counter[str] = Counter()
    for unit in units:
        shape, group = last.get(unit.label, (None, ""))
        if shape != unit.call.given or not group:
            group = f"{unit.label or 'model'}:{dims(unit.call.given or ())}"
            taken[group] += 1
            group = f"{group}#{taken[group]}" if taken[group] > 1 else group
        last[unit.label] = (unit.call.given, group)
        groups[unit.name] = group
    return groups
