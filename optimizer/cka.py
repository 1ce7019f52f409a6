"""How alike the blocks' outputs are: unbiased linear CKA, streamed over batches.

For a Gram matrix K [n, n] of one batch, U(K) is its U-centred form (zero diagonal, off-diagonal
rows summing to zero; Szekely & Rizzo 2014), and <U(K), U(L)> = n (n - 3) HSIC1(K, L), the unbiased
estimator of Song et al. 2012. Following Nguyen, Raghu & Kornblith 2021 the HSICs are averaged over
batches, weighted by examples, and divided once:

    CKA(i, j) = S_ij / sqrt(S_ii S_jj),   S_ij = sum over batches of n HSIC1(K_i, K_j)

S is additive: over batches, over machines. Features are dropped as soon as their Gram matrix is
made, so memory is that of the model's own forward pass plus blocks * n^2 numbers. Gram matrices are
made in float32 from mean-centred rows (U-centring makes this exact in real arithmetic); centring
and accumulation are float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mpo.errors import UsageError
from mpo.optimizer.activations import (
    batch_first,
    evaluating,
    find_mask,
    flatten,
    leading,
    pool_tokens,
    watching,
)
from mpo.optimizer.batches import Batch, forward

Matrix = npt.NDArray[np.float64]
Gram = tuple[Tensor, Tensor]  # [n, n], and the squared norm of the raw rows

WIDTH = (
    4096  # features an example; of 12,544 on the fashion ResNet this moves CKA by less than 0.01
)
CHUNK = (
    64  # rows of one Gram matrix: the cost of all of them grows with it, their noise hardly falls
)
SHUFFLES = 2  # permutations a batch for the null
MINIMUM = 4  # HSIC1 divides by n - 3
MERGED = 32  # examples that smaller batches are gathered to
FEW = 16  # examples of a batch whose branch ratio is measured
FLAT = 1e-10  # variance below this share of the squared norm is rounding, not signal


@dataclass(frozen=True)
class Similarity:
    """CKA between the outputs of blocks.

    Attributes:
        names: the blocks, in execution order.
        matrix: float64 [L, L], symmetric; NaN where a block's activations are constant or not
            finite. Unbiased: values may lie a little below 0 or above 1.
        null_95: the 95 % quantile of CKA over pairs of different blocks whose examples were
            shuffled against each other: what unrelated blocks reach by chance. NaN with fewer than
            two defined blocks.
        samples: examples that counted.
        branch_ratio: per block the mean of ||F(x)|| / ||x||, F(x) = output - input, over the first
            16 examples of every batch; NaN where the input is no tensor of the output's shape or
            not finite.
    """

    names: tuple[str, ...]
    matrix: Matrix
    null_95: float
    samples: int
    branch_ratio: dict[str, float] = field(default_factory=dict)


class Accumulator:
    """The running sums of CKA over L blocks; two of them merge by addition, so a distributed run is
    one sum.

    Attributes:
        sums: float64 [1 + SHUFFLES, L, L]: S as measured, then S with one side's examples permuted.
        norms: float64 [L]: summed squared norms of the raw rows, for telling constants from signal.
        samples: examples added.
    """

    def __init__(self, blocks: int, *, seed: int = 0) -> None:
        self.sums = torch.zeros(1 + SHUFFLES, blocks, blocks, dtype=torch.float64)
        self.norms = torch.zeros(blocks, dtype=torch.float64)
        self.samples = 0
        self._generator = torch.Generator().manual_seed(seed)

    def add(self, grams: Tensor, norms: Tensor | None = None) -> None:
        """Add one batch.

        Args:
            grams: [L, n, n] Gram matrices of the same n >= 4 examples, one a block; the diagonal is
                ignored.
            norms: [L] summed squared norms of the raw rows; by default the traces.
        """
        count = grams.shape[-1]
        if count < MINIMUM:
            raise UsageError(f"CKA needs at least {MINIMUM} examples a batch and got {count}.")
        traces = grams.diagonal(dim1=1, dim2=2).sum(1)
        self.norms += (traces if norms is None else norms).double().cpu()
        centred = u_centre(grams)
        left = centred.flatten(1)
        self.sums[0] += (left @ left.T).cpu() / (count - 3)
        for shuffle in range(1, 1 + SHUFFLES):
            order = torch.randperm(count, generator=self._generator)
            places = (order.unsqueeze(1) * count + order).flatten().to(grams.device)
            right = left.index_select(1, places)
            self.sums[shuffle] += (left @ right.T).cpu() / (count - 3)
        self.samples += count

    def merge(self, other: Accumulator) -> None:
        """Add what another accumulator (another process, another half of the data) has gathered."""
        self.sums += other.sums
        self.norms += other.norms
        self.samples += other.samples

    def matrix(self) -> Matrix:
        """CKA [L, L] float64; NaN in the rows and columns of blocks without defined variance."""
        return self._ratio(0)

    def null_95(self) -> float:
        """The 95 % quantile of CKA between permuted different blocks; NaN when undefined."""
        different = ~np.eye(len(self.norms), dtype=bool)
        values = np.concatenate([self._ratio(row)[different] for row in range(1, 1 + SHUFFLES)])
        values = values[np.isfinite(values)]
        return float(np.quantile(values, 0.95)) if len(values) else float("nan")

    def _ratio(self, row: int) -> Matrix:
        sums: Matrix = self.sums[row].numpy()
        spread = self.sums[0].diagonal().numpy()
        floor = FLAT * self.norms.numpy() / max(self.samples, 1)
        # S_ii / samples is HSIC1(K, K), the mean square of a centred Gram entry
        defined = np.isfinite(spread) & (spread / max(self.samples, 1) > floor**2)
        scale = np.sqrt(np.where(defined, spread, np.nan))
        return np.asarray(sums / np.outer(scale, scale), dtype=np.float64)


def u_centre(grams: Tensor) -> Tensor:
    """U-centred float64 copies of [L, n, n] Gram matrices.

    With the diagonal zeroed: K_ij - r_i - r_j, r_i = rowsum_i / (n - 2) - total / (2 (n - 1) (n -
    2)), and a zero diagonal again (Nguyen et al. 2021, appendix; Szekely & Rizzo 2014).
    """
    count = grams.shape[-1]
    work = grams.to(torch.float64, copy=True)
    work.diagonal(dim1=1, dim2=2).zero_()
    rows = work.sum(2) / (count - 2)
    rows -= rows.sum(1, keepdim=True) / (2 * (count - 1))
    work -= rows.unsqueeze(2)
    work -= rows.unsqueeze(1)
    work.diagonal(dim1=1, dim2=2).zero_()
    return work


class _Stream:
    """Gram matrices of the running batch, and rows of batches too small for one."""

    def __init__(self, blocks: int, width: int, seed: int) -> None:
        self.blocks, self.width, self.seed = blocks, width, seed
        self.accumulator = Accumulator(blocks, seed=seed)
        self.ratios = torch.zeros(
            2, blocks, dtype=torch.float64
        )  # sum and count of the finite ones
        self.waiting: list[dict[int, Tensor]] = []
        self.held = 0
        self.entered: dict[int, tuple[torch.Size, Tensor]] = {}
        self.rows: dict[int, Tensor] = {}
        self.grams: dict[int, list[Gram]] = {}
        self.examples = 0
        self.mask: Tensor | None = None

    def begin(self, batch: Batch) -> None:
        """Get ready for the forward pass of this batch."""
        self.examples, self.mask = batch.size, find_mask(batch)
        self.entered, self.rows, self.grams = {}, {}, {}

    def enter(self, block: int, before: Tensor) -> None:
        """Keep a few examples of a block's input, as a copy: the block may overwrite it."""
        hidden = batch_first(before, self.examples)
        if hidden is not None:
            mask = None if self.mask is None else self.mask[:FEW]
            few = flatten(hidden[:FEW], mask, self.width, self.seed).clone()
            self.entered[block] = (hidden.shape, few)

    def leave(self, block: int, after: Tensor) -> None:
        """Turn a block's output into Gram matrices, and its change into a ratio."""
        hidden = batch_first(after, self.examples)
        if hidden is None:
            return
        flat = flatten(hidden, self.mask, self.width, self.seed).contiguous()
        shape, before = self.entered.pop(block, (None, flat))
        if shape == hidden.shape:
            change = torch.linalg.vector_norm(flat[:FEW] - before, dim=1)
            ratio = change / torch.linalg.vector_norm(before, dim=1)
            finite = torch.isfinite(ratio)
            self.ratios[0, block] += float(ratio[finite].sum())
            self.ratios[1, block] += float(finite.sum())
        rows = pool_tokens(hidden, self.mask, flat)
        if self.examples < MINIMUM:
            self.rows[block] = rows.clone()
        else:
            self.grams[block] = make_grams(rows)

    def end(self) -> None:
        """Take in the batch that just ran; batches below four examples wait for one another."""
        if self.examples >= MINIMUM:
            self._add(self.grams)
            return
        widths = {block: rows.shape[1] for block, rows in self.rows.items()}
        if self.waiting and widths != {b: rows.shape[1] for b, rows in self.waiting[0].items()}:
            self.flush()
        self.waiting.append(self.rows)
        self.held += self.examples
        if self.held >= MERGED:
            self.flush()

    def flush(self) -> None:
        """Make one batch of those that wait; fewer than four examples in all are dropped."""
        if self.held >= MINIMUM:
            joined = {
                block: torch.cat([rows[block] for rows in self.waiting])
                for block in self.waiting[0]
            }
            self._add({block: make_grams(rows) for block, rows in joined.items()})
        self.waiting, self.held = [], 0

    def _add(self, grams: dict[int, list[Gram]]) -> None:
        for chunk, (some, _) in enumerate(next(iter(grams.values()), [])):
            nothing = (torch.full_like(some, torch.nan), some.new_tensor(torch.nan))
            parts = [
                grams[block][chunk] if block in grams else nothing for block in range(self.blocks)
            ]
            self.accumulator.add(
                torch.stack([gram for gram, _ in parts]), torch.stack([norm for _, norm in parts])
            )


def make_grams(rows: Tensor) -> list[Gram]:
    """Gram matrices of mean-centred rows [n, P] by CHUNK, each with the raw squared norm."""
    made = []
    for part in rows.float().tensor_split(-(-len(rows) // CHUNK)):
        mean = part.mean(0)
        centred = part - mean
        gram = centred @ centred.T
        made.append((gram, gram.trace() + len(part) * mean.dot(mean)))
    return made


def measure_similarity(
    model: nn.Module,
    names: Sequence[str],
    batches: Iterable[Batch],
    *,
    limit_examples: int = 2048,
    seed: int = 0,
    width: int = WIDTH,
) -> Similarity:
    """CKA between the outputs of the named blocks in one pass over the leading `limit_examples`
    examples.

    Args:
        model: run in evaluation mode without gradients; its modes are put back.
        names: the blocks, in execution order.
        batches: calibration data; an example is one row (see `mpo.optimizer.activations`).
        limit_examples: where to stop.
        seed: chooses the columns of wide activations and the permutations of the null.
        width: the most features of an example that count.

    Raises:
        UsageError: fewer than four examples, or a name that the model does not have.
    """
    stream, seen = _Stream(len(names), width, seed), 0
    with evaluating(model), watching(model, names, stream.enter, stream.leave):
        for batch in leading(batches, limit_examples):
            stream.begin(batch)
            forward(model, batch)
            stream.end()
            seen += stream.examples
        stream.flush()
    if stream.accumulator.samples < MINIMUM:
        raise UsageError(
            f"Similarity needs at least {MINIMUM} calibration examples and got {seen}.",
            hint="Give more training data; 1,000 examples or more make steady figures.",
        )
    ratios = (stream.ratios[0] / stream.ratios[1]).tolist()
    return Similarity(
        names=tuple(names),
        matrix=stream.accumulator.matrix(),
        null_95=stream.accumulator.null_95(),
        samples=stream.accumulator.samples,
        branch_ratio=dict(zip(names, ratios, strict=True)),
    )
