"""From counted decisions to claims: overall, near the boundary, per class. Pure: columns of numbers
in, records out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from mpo.bounds import (
    claim_alpha,
    clopper_pearson,
    hoeffding,
    judge,
    more_samples,
    open_share,
    planned_share,
    samples_to_keep,
)
from mpo.errors import UsageError
from mpo.gate import mean_interval
from mpo.optimizer.decisions.decisions import Tallied
from mpo.recipe import nearest
from mpo.records import Certificate, Claim, Distances, Divergence, MarginBin
from mpo.records.contracts import Judged, Stratum
from mpo.units import parse_share

BINS = 10
CURVE_ALPHA = 0.025
MOST_CLASSES = 100  # beyond: a vocabulary, of which no single word is claimed anything
STRATA: tuple[Stratum, ...] = get_args(Stratum)
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Terms:
    """What the contract says.

    Attributes:
        eps: the largest share of differing decisions, by stratum.
        strata: what is claimed.
        confidence: that no claim's verdict is wrong.
        tau: the margin that bounds the region; None for the quantile at `mass`.
        mass: the share of inputs that the region is to hold.
        looks: how often a verdict is sought while samples come in.
        look: which look of an open-ended series this one is; 0 for none.
        tolerance: of values: a number in their unit, or a share of their spread ("5%").
        split_at: the threshold between two sides of one value an example; None without.
    """

    eps: Mapping[Stratum, float] = field(default_factory=lambda: dict.fromkeys(STRATA, 0.05))
    strata: tuple[Stratum, ...] = STRATA
    confidence: float = 0.95
    tau: float | None = None
    mass: float = 0.1
    looks: int = 1
    look: int = 0
    tolerance: str = "5%"
    split_at: float | None = None

    def alpha(self, claims: int) -> float:
        """Of one claim at one look."""
        spent = open_share(self.look) if self.look else 1.0
        return claim_alpha(self.confidence, claims, spent * planned_share(self.looks))


def make_terms(**values: Any) -> Terms:
    """Terms from plain values: `eps` may be a share, a text, or several texts.

    Raises:
        UsageError: an unknown key or claim, an eps, a confidence or a margin out of range.
    """
    eps = values.pop("eps", ())
    texts = (
        [f"{eps:.12g}"] if isinstance(eps, float | int) else [eps] if isinstance(eps, str) else eps
    )
    known = [one.name for one in fields(Terms)]
    for key in values:
        if key not in known:
            raise UsageError(
                f"A contract has no {key!r}.{nearest(key, known)}",
                hint=f"Known: {', '.join(known)}.",
            )
    terms = Terms(eps=parse_eps(texts), **values)
    unknown = [name for name in terms.strata if name not in STRATA]
    if unknown or not terms.strata:
        raise UsageError(
            f"{', '.join(map(str, unknown)) or 'Nothing'} is no claim.",
            hint=f"Known: {', '.join(STRATA)}.",
        )
    terms.alpha(1)
    for name, value in (("tau", terms.tau), ("split_at", terms.split_at)):
        if value is not None and not math.isfinite(value):
            raise UsageError(f"A {name} of {value:g} is none.", hint="Give a finite number.")
    return terms


def parse_eps(texts: Sequence[str]) -> dict[Stratum, float]:
    """`5%` for every stratum, `region=10%` for one; later ones go over earlier ones.

    Raises:
        UsageError: no share in [0, 1), or an unknown stratum.
    """
    found: dict[Stratum, float] = dict.fromkeys(STRATA, 0.05)
    for text in texts:
        name, _, share = text.rpartition("=")
        if name and name not in STRATA:
            raise UsageError(f"{text!r} names no stratum.", hint=f"Known: {', '.join(STRATA)}.")
        value = 0.0 if share.strip() in ("0", "0%", "0.0") else parse_share(share)
        if value >= 1:
            raise UsageError(f"eps {share!r} is all there is.", hint="Write it like 5%.")
        for stratum in STRATA:
            if name in ("", stratum):
                found[stratum] = value
    return found


def claims_of(terms: Terms, found: Tallied, tau: float | None, limit: float) -> tuple[Claim, ...]:
    """Every claim on the samples so far. Which claims there are follows from the terms and the
    label space, never from the samples.

    Args:
        tau: the region's margin; None without one.
        limit: the tolerance of values.
    """
    if found.reading.outputs == "values":
        apart = np.asarray(found.column("distance") > limit)
        return (_claim(terms, "overall", "", apart, np.ones(len(apart), bool), 1),)
    strata = _strata(terms, found, tau)
    differ = found.differ
    return tuple(
        _claim(terms, stratum, label, differ, chosen, len(strata))
        for stratum, label, chosen in strata
    )


def _strata(terms: Terms, found: Tallied, tau: float | None) -> list[tuple[Stratum, str, Flags]]:
    strata: list[tuple[Stratum, str, Flags]] = []
    if "overall" in terms.strata:
        strata.append(("overall", "", np.ones(len(found), bool)))
    if "region" in terms.strata and tau is not None:
        strata.append(("region", "", np.asarray(found.column("margin") <= tau)))
    classes = found.reading.classes or 0
    if "class" in terms.strata and found.reading.outputs != "positions" and classes <= MOST_CLASSES:
        decided = found.column("decided")
        strata += [("class", str(c), np.asarray(decided == c)) for c in range(classes)]
    if not strata:
        raise UsageError("Nothing is claimed of these outputs.", hint="Add --claims overall.")
    return strata


def _claim(
    terms: Terms, stratum: Stratum, label: str, differ: Flags, chosen: Flags, claims: int
) -> Claim:
    samples, events = int(chosen.sum()), int((differ & chosen).sum())
    eps, alpha = terms.eps[stratum], terms.alpha(claims)
    bounds = clopper_pearson(events, samples, alpha)
    verdict = judge(events, samples, eps, alpha)
    open_ = verdict == "undecided"
    return Claim(
        stratum=stratum,
        label=label,
        eps=eps,
        alpha=alpha,
        samples=samples,
        differ=events,
        rate=events / samples if samples else 0.0,
        low=bounds.low,
        high=bounds.high,
        hoeffding=hoeffding(events, samples, alpha).high,
        needed=samples_to_keep(eps, alpha),
        more=more_samples(events, samples, eps, alpha) if open_ else None,
        verdict=verdict,
    )


def overall(claims: Sequence[Claim]) -> Judged:
    """Broken when one claim is, kept when all are."""
    if any(claim.verdict == "broken" for claim in claims):
        return "broken"
    return "kept" if all(claim.verdict == "kept" for claim in claims) else "undecided"


def curve_of(found: Tallied) -> tuple[MarginBin, ...]:
    """Agreement by tenths of the margin, with two-sided 95 % intervals of each."""
    margin, differ = found.column("margin"), found.differ
    edges = np.unique(np.quantile(margin, np.linspace(0, 1, BINS + 1)))
    bins = []
    for place, high in enumerate(edges[1:] if len(edges) > 1 else edges):
        low = edges[place]
        chosen = (margin <= high) & ((margin > low) | (place == 0))
        samples, apart = int(chosen.sum()), int((differ & chosen).sum())
        if samples:
            ends = clopper_pearson(samples - apart, samples, CURVE_ALPHA)
            bins.append(
                MarginBin(
                    low=float(low),
                    high=float(high),
                    samples=samples,
                    agreement=1 - apart / samples,
                    ci95=(ends.low, ends.high),
                )
            )
    return tuple(bins)


def certificate_of(found: Tallied, tau: float | None) -> Certificate:
    """How many decisions the change of the logits cannot have turned."""
    held, decided = found.certified, found.column("decided")
    classes = found.reading.classes or 0
    few = found.reading.outputs != "positions" and classes <= MOST_CLASSES
    near = found.column("margin") <= (tau if tau is not None else -1.0)
    return Certificate(
        samples=len(held),
        certified=int(held.sum()),
        share=float(held.mean()),
        region_share=float(held[near].mean()) if near.any() else None,
        class_share={
            str(c): float(held[decided == c].mean())
            for c in range(classes if few else 0)
            if (decided == c).any()
        },
    )


def divergence_of(found: Tallied) -> Divergence:
    """Mean KL of the two models' distributions."""
    mean = mean_interval(found.column("kl"))
    return Divergence(
        mean=mean.estimate,
        ci95=(mean.low, mean.high),
        decisions=found.positions,
        agreement=found.equal / found.positions,
    )


def distances_of(found: Tallied, limit: float, spread: float) -> Distances:
    """How far the values are apart."""
    median, p90, p99, largest = np.quantile(found.column("distance"), [0.5, 0.9, 0.99, 1.0])
    return Distances(
        tolerance=limit,
        spread=spread,
        median=float(median),
        p90=float(p90),
        p99=float(p99),
        largest=float(largest),
    )
