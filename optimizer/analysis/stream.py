"""From hooks on blocks to Gram matrices: the examples of one batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mpo.optimizer.analysis.halving import Halving
from mpo.optimizer.analysis.hsic import MINIMUM, Accumulator, Gram, make_grams
from mpo.optimizer.blocks.activations import batch_first, find_mask, flatten, pool_tokens
from mpo.optimizer.data.batches import Batch
from mpo.optimizer.files.snapshots import Snapshot
from mpo.optimizer.ground.distributed import Crew

MERGED = 32  # examples that smaller batches are gathered to
FEW = 16  # examples of a batch whose branch ratio is measured
CHUNKS = 2**16  # Gram matrices of one batch at most


@dataclass
class _Part:
    """What one forward pass left of the blocks: Gram matrices of a whole batch, else rows."""

    examples: int
    start: int
    whole: bool
    mask: Tensor | None
    entered: dict[int, tuple[torch.Size, Tensor]] = field(default_factory=dict)
    rows: dict[int, Tensor] = field(default_factory=dict)
    grams: dict[int, list[Gram]] = field(default_factory=dict)
    ratios: dict[int, Tensor] = field(default_factory=dict)

    @property
    def few(self) -> int:
        """Examples of this part that are among the first FEW of their batch."""
        return max(0, min(FEW - self.start, self.examples))


class Stream:
    """Gram matrices of the running batch, and rows of batches too small for one.

    Attributes:
        accumulator: what became of the batches that ended.
        ratios: [2, blocks] sum and count of the finite branch ratios.
        broken: [blocks] how many Gram matrices were not finite.
    """

    def __init__(self, blocks: int, width: int, seed: int) -> None:
        self.blocks, self.width, self.seed = blocks, width, seed
        self.accumulator = Accumulator(blocks, seed=seed)
        self.ratios = torch.zeros(2, blocks, dtype=torch.float64)
        self.broken = torch.zeros(blocks, dtype=torch.float64)
        self._waiting: list[dict[int, Tensor]] = []
        self._held = self._place = 0
        self._part = _Part(0, 0, True, None)

    def run(self, batch: Batch, place: int, call: Callable[[Batch], Any], ladder: Halving) -> None:
        """Run a batch and take it in: whole, or in the parts that memory holds.

        Args:
            place: number of the batch in the data.
            call: the forward pass; it brings `enter` and `leave` to be called.
        """

        def work(part: Batch, start: int) -> _Part:
            whole = part.size == batch.size >= MINIMUM
            self._part = _Part(part.size, start, whole, find_mask(part))
            call(part)
            done, self._part = self._part, _Part(0, 0, True, None)
            return done

        self._end(batch.size, place, ladder.run(batch, work))

    def enter(self, block: int, before: Tensor) -> None:
        """Keep a few examples of a block's input, as a copy: the block may overwrite it."""
        part = self._part
        hidden = batch_first(before, part.examples)
        if hidden is not None:
            mask = None if part.mask is None else part.mask[: part.few]
            few = flatten(hidden[: part.few], mask, self.width, self.seed).clone()
            part.entered[block] = (hidden.shape, few)

    def leave(self, block: int, after: Tensor) -> None:
        """Turn a block's output into Gram matrices, and its change into a ratio."""
        part = self._part
        hidden = batch_first(after, part.examples)
        if hidden is None:
            return
        flat = flatten(hidden, part.mask, self.width, self.seed).contiguous()
        shape, before = part.entered.pop(block, (None, flat))
        if shape == hidden.shape:
            change = torch.linalg.vector_norm(flat[: part.few] - before, dim=1)
            ratio = change / torch.linalg.vector_norm(before, dim=1)
            finite = torch.isfinite(ratio)
            part.ratios[block] = torch.stack([ratio[finite].sum(), finite.sum()]).double().cpu()
        rows = pool_tokens(hidden, part.mask, flat)
        if part.whole:
            part.grams[block] = make_grams(rows)
        else:
            part.rows[block] = rows.clone()

    def _end(self, examples: int, place: int, parts: Sequence[_Part]) -> None:
        """Take in a batch that ran; batches below four examples wait for one another."""
        for part in parts:
            for block, ratio in part.ratios.items():
                self.ratios[:, block] += ratio
        if parts[0].whole:
            self._add(parts[0].grams, place)
            return
        rows = _joined([part.rows for part in parts])
        if examples >= MINIMUM:
            self._add({block: make_grams(some) for block, some in rows.items()}, place)
            return
        widths = {block: some.shape[1] for block, some in rows.items()}
        if self._waiting and widths != {b: some.shape[1] for b, some in self._waiting[0].items()}:
            self.flush()
        self._place = self._place if self._waiting else place
        self._waiting.append(rows)
        self._held += examples
        if self._held >= MERGED:
            self.flush()

    def flush(self) -> None:
        """Make one batch of those that wait; fewer than four examples in all are dropped."""
        if self._held >= MINIMUM:
            joined = _joined(self._waiting)
            self._add({block: make_grams(rows) for block, rows in joined.items()}, self._place)
        self._waiting, self._held = [], 0

    @property
    def settled(self) -> bool:
        """Whether all that came in is in the sums: no rows wait for more."""
        return not self._waiting

    def snapshot(self, batches: int, told: Sequence[str] = ()) -> Snapshot:
        """All that is known after so many batches, when it is settled.

        Args:
            told: sentences to keep with it.
        """
        held = self.accumulator
        tensors = {"sums": held.sums, "norms": held.norms, "ratios": self.ratios}
        facts = {"samples": held.samples, "told": list(told)}
        return Snapshot(batches, {**tensors, "broken": self.broken}, facts)

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from there."""
        held, told = self.accumulator, snapshot.tensors
        held.sums, held.norms, held.samples = told["sums"], told["norms"], snapshot.facts["samples"]
        self.ratios, self.broken = told["ratios"], told["broken"]

    def gather(self, crew: Crew) -> None:
        """Add up what all processes of a crew took in."""
        held = self.accumulator
        held.sums, held.norms = crew.sum(held.sums), crew.sum(held.norms)
        held.samples = int(crew.sum(torch.tensor([held.samples], dtype=torch.float64)))
        self.ratios, self.broken = crew.sum(self.ratios), crew.sum(self.broken)

    def _add(self, grams: dict[int, list[Gram]], place: int) -> None:
        for block, found in grams.items():
            self.broken[block] += sum(not bool(torch.isfinite(norm)) for _, norm in found)
        for chunk, (some, _) in enumerate(next(iter(grams.values()), [])):
            nothing = (torch.full_like(some, torch.nan), some.new_tensor(torch.nan))
            parts = [
                grams[block][chunk] if block in grams else nothing for block in range(self.blocks)
            ]
            self.accumulator.add(
                torch.stack([gram for gram, _ in parts]),
                torch.stack([norm for _, norm in parts]),
                place=place * CHUNKS + chunk,
            )


def _joined(parts: Sequence[dict[int, Tensor]]) -> dict[int, Tensor]:
    """The rows of parts of the data as one, for the blocks that all parts have."""
    return {
        block: torch.cat([part[block] for part in parts])
        for block in parts[0]
        if all(block in part for part in parts)
    }
