"""Counterexample mining as a stage of the contract: seeds from the validation split, searches,
witnesses saved and shown."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mpo.errors import UsageError
from mpo.files import writable, write_atomic
from mpo.optimizer.data.batches import Batch, forward, leaves, limit
from mpo.optimizer.decisions.corruptions import corrupt, swap_tokens
from mpo.optimizer.decisions.decisions import Reading, margins
from mpo.optimizer.decisions.mining import (
    Domain,
    Found,
    Logits,
    Pair,
    confirmed,
    domain_of,
    leaf_of,
    seeds_of,
)
from mpo.optimizer.decisions.searches import ascend, mix
from mpo.pipeline.contract.deciders import Decider
from mpo.pipeline.contract.scene import Asked, Progress, Scene
from mpo.pipeline.contract.showing import picture_of, texts_of
from mpo.records import Mining, Witness

RANGE_EXAMPLES = 2048  # of train and of validation each, that tell the valid range
SHOWN = 12  # witnesses in the record; the file holds all
SEARCHES = ("data", "gradient", "mixture", "corruption", "tokens")


def mine(
    asked: Asked, scene: Scene, tau: float | None, progress: Progress
) -> tuple[Mining | None, tuple[Witness, ...]]:
    """Search for inputs that both models decide differently; nothing when it was not asked for in
    so many words (`mine` is None) and no input can be changed.

    Raises:
        UsageError: outputs without one decision an example, or no input that can be changed.
    """
    if scene.reading.outputs not in ("classes", "sides"):
        raise UsageError(
            f"Counterexamples are searched where an example has one decision, not in "
            f"{scene.reading.outputs}.",
            hint="Leave --mine out, or decide by --split-at.",
        )
    if not 0 < asked.radius <= 1:
        raise UsageError(f"A radius of {asked.radius:g} is none.", hint="Give one like 10%.")
    splits = scene.splits
    domain = domain_of(
        part for s in (splits.train, splits.validation) for part in limit(s, RANGE_EXAMPLES)
    )
    if domain is None and asked.mine is None:
        return None, ()
    if domain is None:
        raise UsageError(
            "No floating or token input was found to change.", hint="Leave --mine out."
        )
    pair = pair_of(scene)
    progress("contract: mine", 0, len(SEARCHES))
    seeds = seeds_of(pair, limit(splits.validation, RANGE_EXAMPLES), margins)
    found = _searched(pair, seeds.groups, domain, asked, progress)
    found = [*confirmed(pair, seeds.natural), *confirmed(pair, found)]
    file = save_witnesses(asked.witnesses, found, domain) if found else ""
    shown = shortlist(found, domain)
    witnesses = tuple(_witness(pair, one, domain, scene) for one in shown)
    progress("contract: mine", len(SEARCHES), len(SEARCHES))
    return _summary(pair, found, seeds.count, domain, asked, file), witnesses


def pair_of(scene: Scene) -> Pair:
    """Both models as differentiable functions, where they are torch modules."""
    return Pair(
        _logits(scene.original, scene.reading),
        _logits(scene.candidate, scene.reading),
        scene.original.module is not None,
        scene.candidate.module is not None,
    )


def _logits(decider: Decider, reading: Reading) -> Logits:
    module = decider.module

    def call(batch: Batch) -> Tensor:
        if module is None:
            return reading.logits(decider.predict(batch), batch)
        return reading.logits(forward(module.eval(), batch), batch)

    return call


def _searched(
    pair: Pair,
    groups: Sequence[tuple[Batch, list[int]]],
    domain: Domain,
    asked: Asked,
    progress: Progress,
) -> list[Found]:
    found: list[Found] = []
    for batch, numbers in groups:
        if domain.tokens:
            progress("contract: mine", 1, len(SEARCHES))
            with torch.no_grad():
                found += swap_tokens(pair, batch, numbers, domain, asked.seed)
            continue
        progress("contract: mine", 1, len(SEARCHES))
        found += ascend(pair, batch, numbers, domain, asked.radius, asked.seed)
        with torch.no_grad():
            progress("contract: mine", 2, len(SEARCHES))
            found += mix(pair, batch, numbers, domain)
            progress("contract: mine", 3, len(SEARCHES))
            found += corrupt(pair, batch, numbers, domain, asked.seed)
    return found


def size_of(one: Found, domain: Domain) -> float:
    """How far a witness is from its seed: the largest change as a share of the range, or how many
    tokens were changed."""
    old, new = leaf_of(one.seed, domain.place), leaf_of(one.witness, domain.place)
    if domain.tokens:
        return float((old != new).sum())
    return float(((new - old).abs() / domain.range.clamp_min(1e-12)).max())


def shortlist(found: Sequence[Found], domain: Domain) -> list[Found]:
    """The nearest witnesses of every search in turn, up to SHOWN."""
    queues = [
        sorted((one for one in found if one.search == name), key=lambda one: size_of(one, domain))
        for name in SEARCHES
    ]
    chosen: list[Found] = []
    while len(chosen) < SHOWN and any(queues):
        chosen += [queue.pop(0) for queue in queues if queue]
    return chosen[:SHOWN]


def _summary(
    pair: Pair, found: Sequence[Found], seeds: int, domain: Domain, asked: Asked, file: str
) -> Mining:
    kinds = ("data", "tokens") if domain.tokens else ("data", "gradient", "mixture", "corruption")
    own = {name: [one for one in found if one.search == name] for name in kinds}
    return Mining(
        seeds=seeds,
        radius_of_range=asked.radius,
        forward_passes=pair.passes,
        found={name: len({one.seed_row for one in some}) for name, some in own.items()},
        smallest={
            name: min(size_of(one, domain) for one in some) for name, some in own.items() if some
        },
        file=file,
    )


def _witness(pair: Pair, one: Found, domain: Domain, scene: Scene) -> Witness:
    with torch.no_grad():
        ours, theirs = pair.logits(one.witness)
        seeded, _ = pair.decisions(one.seed)
    old, new = leaf_of(one.seed, domain.place), leaf_of(one.witness, domain.place)
    words = texts_of(scene.subject, one.seed, one.witness, domain)
    token = bool(domain.tokens)
    return Witness(
        search=one.search,
        detail=one.detail,
        seed_row=one.seed_row,
        original=int(ours.argmax(-1)),
        candidate=int(theirs.argmax(-1)),
        seed_decision=int(seeded),
        margin=float(margins(ours)),
        linf=None if token else float((new - old).abs().max()),
        linf_of_range=None if token else size_of(one, domain),
        l2=None if token else float((new - old).double().square().sum().sqrt()),
        tokens=int(size_of(one, domain)) if token else None,
        before=None if token else picture_of(old[0], domain),
        after=None if token else picture_of(new[0], domain),
        text_before=words[0],
        text_after=words[1],
    )


def save_witnesses(path: Path | None, found: Sequence[Found], domain: Domain) -> str:
    """Every witness as an .npz: inputs in the model's own order, the seed beside it.

    `K.input.I` is leaf I of witness K, `K.seed` the seed's changed leaf; `about` one line each.
    """
    if path is None:
        return ""
    arrays: dict[str, np.ndarray] = {}
    for number, one in enumerate(found):
        for place, leaf in enumerate(leaves((one.witness.args, one.witness.kwargs))):
            arrays[f"{number}.input.{place}"] = leaf.detach().cpu().numpy()
        arrays[f"{number}.seed"] = leaf_of(one.seed, domain.place).detach().cpu().numpy()
    arrays["about"] = np.array(list(_lines(found, domain)))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, buffer.getvalue())
    return str(path)


def _lines(found: Sequence[Found], domain: Domain) -> Iterable[str]:
    for one in found:
        yield f"{one.search} {one.detail} row {one.seed_row} size {size_of(one, domain):.6g}"
