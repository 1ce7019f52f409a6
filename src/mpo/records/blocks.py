"""What analysis finds: blocks, their likeness and what their removal harms."""

from __future__ import annotations

from mpo.records.base import Record


class Block(Record):
    """A module whose output can stand in for its input, or the reason why it cannot.

    `params` counts parameters that no other module shares; `macs` multiply-accumulates at batch 1.
    """

    name: str
    kind: str
    index: int
    group: str
    params: int
    macs: int
    removable: bool
    reason: str = ""


class Harm(Record):
    """What single-block removal does on calibration data.

    `kl` is the mean KL divergence (nats per decision) between the original's output distribution
    and the output with the block bypassed, or the relative squared error for outputs that are no
    logits; `agreement` the share of equal decisions; `branch_ratio` = mean ||F(x)|| / ||x|| of the
    block's own change.
    """

    name: str
    kl: float
    agreement: float
    branch_ratio: float


class Cluster(Record):
    """Blocks that analysis found alike: consecutive, same shape, CKA with the anchor above the
    threshold."""

    members: tuple[str, ...]
    anchor: str
    min_cka: float


class Analysis(Record):
    """Blocks, their similarity and their harm. `similarity` is row-major over `names`; None where
    undefined. `warnings` tell what is undefined, and how memory was spared."""

    names: tuple[str, ...]
    similarity: tuple[tuple[float | None, ...], ...]
    null_95: float
    threshold: float
    samples: int
    clusters: tuple[Cluster, ...]
    harms: tuple[Harm, ...]
    blocks: tuple[Block, ...]
    warnings: tuple[str, ...] = ()
