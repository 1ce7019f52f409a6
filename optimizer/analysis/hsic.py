"""The unbiased estimator behind CKA as sums that can be added up over batches and processes."""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mpo.errors import UsageError

Matrix = npt.NDArray[np.float64]
Gram = tuple[Tensor, Tensor]  # [n, n], and the squared norm of the raw rows

CHUNK = (
    64  # rows of one Gram matrix: the cost of all of them grows with it, their noise hardly falls
)
SHUFFLES = 2  # permutations a batch for the null
MINIMUM = 4  # HSIC1 divides by n - 3
FLAT = 1e-10  # variance below this share of the squared norm is rounding, not signal


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
        self._seed, self._added = seed, 0
        self._generator = torch.Generator()

    def add(self, grams: Tensor, norms: Tensor | None = None, *, place: int | None = None) -> None:
        """Add one batch.

        Args:
            grams: [L, n, n] Gram matrices of the same n >= 4 examples, one a block; the diagonal is
                ignored.
            norms: [L] summed squared norms of the raw rows; by default the traces.
            place: number of this part of the data; it seeds the permutations, so that processes
                which share the data draw what one would. By default the parts are counted.
        """
        count = grams.shape[-1]
        if count < MINIMUM:
            raise UsageError(f"CKA needs at least {MINIMUM} examples a batch and got {count}.")
        traces = grams.diagonal(dim1=1, dim2=2).sum(1)
        self.norms += (traces if norms is None else norms).double().cpu()
        number = self._added if place is None else place
        # torch's generator takes 32 bits of a seed
        self._generator.manual_seed(zlib.crc32(f"{self._seed} {number}".encode()))
        self._added += 1
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


def make_grams(rows: Tensor) -> list[Gram]:
    """Gram matrices of mean-centred rows [n, P] by CHUNK, each with the raw squared norm."""
    made = []
    for part in rows.float().tensor_split(-(-len(rows) // CHUNK)):
        mean = part.mean(0)
        centred = part - mean
        gram = centred @ centred.T
        made.append((gram, gram.trace() + len(part) * mean.dot(mean)))
    return made
