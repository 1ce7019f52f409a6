"""Where blocks were taken out: the places at which a pruned model's hidden state can be laid beside
the original's.

Nothing is asked of names or kinds: removal keeps the order of modules, so what is left of the
original is paired with the pruned model one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn

from mpo.optimizer.blocks.activations import find_mask, fits_mask, watching
from mpo.optimizer.blocks.bypass import Passthrough
from mpo.optimizer.blocks.surgery import is_list
from mpo.optimizer.data.batches import Batch


@dataclass(frozen=True)
class Cut:
    """One place where blocks stood.

    Attributes:
        run: the last block of the run that went.
        teacher: the module of the original whose output is the state to match: that block; when
            nothing comes before the run, the block after it, which then takes over.
        student: the module of the pruned model whose output stands in that place.
        trained: whether `student` has weights that could make up for the run.
    """

    run: str
    teacher: str
    student: str
    trained: bool


def find_cuts(original: nn.Module, pruned: nn.Module, removed: Collection[str]) -> tuple[Cut, ...]:
    """A cut for each run of neighbours that went, in the order of the modules; none when the two
    models do not pair up."""
    names = renamed(original, pruned, removed)
    if names is None:
        return ()
    found: list[Cut] = []
    parents = dict.fromkeys(name.rpartition(".")[0] for name in removed)
    for parent in parents:
        if parent in names:
            found += _cuts_of(original, pruned, set(removed), parent, names)
    order = {name: place for place, (name, _) in enumerate(original.named_modules())}
    return tuple(sorted(found, key=lambda cut: order[cut.run]))


def renamed(
    original: nn.Module, pruned: nn.Module, removed: Collection[str]
) -> dict[str, str] | None:
    """What is left of the original -> its name in the pruned model; None when they do not pair."""
    gone = tuple(f"{name}." for name in removed)
    old = [(n, m) for n, m in original.named_modules() if not f"{n}.".startswith(gone)]
    new = [(n, m) for n, m in pruned.named_modules() if not isinstance(m, Passthrough)]
    if [type(module) for _, module in old] != [type(module) for _, module in new]:
        return None
    return {before: after for (before, _), (after, _) in zip(old, new, strict=True)}


def _cuts_of(
    original: nn.Module, pruned: nn.Module, removed: set[str], parent: str, names: dict[str, str]
) -> Iterator[Cut]:
    start = f"{parent}." if parent else ""
    host, left = original.get_submodule(parent), pruned.get_submodule(names[parent])
    place = f"{names[parent]}." if names[parent] else ""
    keys = [key for key, _ in host.named_children()]
    deleted = is_list(host) and len(list(left.children())) < len(keys)
    before: str | None = None
    for position, key in enumerate(keys):
        name = f"{start}{key}"
        following = f"{start}{keys[position + 1]}" if position + 1 < len(keys) else None
        if name not in removed:
            before = names[name]
        elif following in removed:
            continue
        elif not deleted:
            yield Cut(name, name, f"{place}{key}", False)
        elif before is not None:
            yield Cut(name, name, before, True)
        elif following is not None:
            yield Cut(name, following, names[following], True)


@dataclass
class States:
    """Hidden states at cuts, by the cut's position; a place that was not passed is missing."""

    ours: dict[int, Tensor] = field(default_factory=dict)
    theirs: dict[int, Tensor] = field(default_factory=dict)

    def pairs(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(cut, the pruned model's state, the original's), where both are there and alike in
        shape."""
        for position, ours in self.ours.items():
            theirs = self.theirs.get(position)
            if theirs is not None and theirs.shape == ours.shape:
                yield position, ours, theirs


@contextmanager
def states_at(cuts: tuple[Cut, ...], student: nn.Module, teacher: nn.Module) -> Iterator[States]:
    """While active, forward passes of both models leave their hidden states at the cuts.

    The states are copies (the student's with its graph), since later modules may write in place.
    """
    held = States()

    def into(place: dict[int, Tensor]) -> Callable[[int, Tensor], None]:
        def keep(position: int, tensor: Tensor) -> None:
            place[position] = tensor.clone()

        return keep

    with ExitStack() as stack:
        for model, names, place in (
            (student, [cut.student for cut in cuts], held.ours),
            (teacher, [cut.teacher for cut in cuts], held.theirs),
        ):
            stack.enter_context(watching(model, names, _pass, into(place)))
        yield held


def _pass(position: int, tensor: Tensor) -> None:
    """What comes in is of no interest."""


def gap(ours: Tensor, theirs: Tensor, batch: Batch) -> Tensor:
    """||ours - theirs||^2 / ||theirs||^2 over the tokens that count: 0 for equal states."""
    ours, theirs = counted(ours, batch), counted(theirs, batch)
    return (ours - theirs).square().sum() / theirs.square().sum().clamp_min(1e-12)


def counted(state: Tensor, batch: Batch) -> Tensor:
    """The state in float32; of [B, T, D] beside a mask [B, T] only the valid tokens, [N, D]."""
    mask = find_mask(batch)
    if mask is not None and fits_mask(state, mask):
        return state[mask.to(state.device)].float()
    return state.float()
