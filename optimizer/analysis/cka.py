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

from torch import nn

from mpo.errors import UsageError
from mpo.optimizer.analysis.halving import Halving
from mpo.optimizer.analysis.hsic import MINIMUM, Accumulator, Matrix, make_grams
from mpo.optimizer.analysis.stream import Stream
from mpo.optimizer.blocks.activations import evaluating, leading, watching
from mpo.optimizer.data.batches import Batch, forward
from mpo.optimizer.files import snapshots
from mpo.optimizer.files.snapshots import Keeper
from mpo.optimizer.ground.distributed import ALONE, Crew
from mpo.timing import Stopwatch

__all__ = ["Accumulator", "Matrix", "Similarity", "make_grams", "measure_similarity"]

WIDTH = (
    4096  # features an example; of 12,544 on the fashion ResNet this moves CKA by less than 0.01
)


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
        broken: blocks whose output was NaN or infinite on some example.
        remarks: what a reader must know: how memory was spared.
    """

    names: tuple[str, ...]
    matrix: Matrix
    null_95: float
    samples: int
    branch_ratio: dict[str, float] = field(default_factory=dict)
    broken: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def measure_similarity(
    model: nn.Module,
    names: Sequence[str],
    batches: Iterable[Batch],
    *,
    limit_examples: int = 2048,
    seed: int = 0,
    width: int = WIDTH,
    crew: Crew = ALONE,
    keeper: Keeper | None = None,
) -> Similarity:
    """CKA between the outputs of the named blocks in one pass over the leading `limit_examples`
    examples.

    A batch that memory does not hold is run in parts, with the same result.

    Args:
        model: run in evaluation mode without gradients; its modes are put back.
        names: the blocks, in execution order.
        batches: calibration data; an example is one row (see `mpo.optimizer.blocks.activations`).
        limit_examples: where to stop.
        seed: chooses the columns of wide activations and the permutations of the null.
        width: the most features of an example that count.
        crew: the processes that share the batches; all of them get the result.
        keeper: keeps what was measured, so that a killed pass goes on; for one process alone.

    Raises:
        UsageError: fewer than four examples, or a name that the model does not have.
        MpoError: one example is more than memory holds.
    """
    stream = Stream(len(names), width, seed)
    seen, remarks = _pass(
        stream, model, names, leading(batches, limit_examples), crew=crew, keeper=keeper
    )
    stream.gather(crew)
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
        broken=tuple(n for n, bad in zip(names, stream.broken.tolist(), strict=True) if bad),
        remarks=remarks,
    )


def _pass(
    stream: Stream,
    model: nn.Module,
    names: Sequence[str],
    batches: Iterable[Batch],
    *,
    crew: Crew,
    keeper: Keeper | None,
) -> tuple[int, tuple[str, ...]]:
    """Take the batches in, but for those that a kept snapshot has; how many examples all of them
    have, and what there is to say."""
    seen, begin = 0, 0
    with (
        evaluating(model),
        watching(model, names, stream.enter, stream.leave),
        Halving(model, "Similarity") as ladder,
    ):
        if keeper and (kept := keeper.newest()):
            stream.restore(kept)
            begin, ladder.told = kept.step, [*kept.facts["told"]]
        watch = Stopwatch()
        for place, batch in enumerate(batches):
            seen += batch.size
            # small batches are gathered: by one process, so that they are gathered as ever
            mine = crew.rank == (place % crew.size if batch.size >= MINIMUM else 0)
            if place >= begin and mine:
                stream.run(batch, place, lambda part: forward(model, part), ladder)
            due = place >= begin and watch.seconds >= snapshots.KEEP_SECONDS
            if keeper and due and stream.settled:
                keeper.keep(stream.snapshot(place + 1, ladder.told))
                watch = Stopwatch()
        stream.flush()
        told = [*ladder.told, *(keeper.warnings if keeper else ())]
        return seen, tuple(dict.fromkeys(one for part in crew.collect(told) for one in part))
