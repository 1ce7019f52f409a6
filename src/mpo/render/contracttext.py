"""A contract in words: the bound in one plain sentence, and what else there is to say of it."""

from __future__ import annotations

import math

from mpo.records import Claim, Contract
from mpo.render.names import clean
from mpo.units import format_count

PLACES = {"overall": "all inputs", "region": "inputs near the decision boundary"}


def percent(share: float, up: bool | None = None) -> str:
    """0.01234 -> "1.2 %"; bounds are rounded to their safe side: `up` True, or False for down."""
    value = 100 * share
    digits = 2 if value < 1 else 1
    if up is not None:
        step = 10**digits
        value = (math.ceil if up else math.floor)(round(value * step, 6)) / step
    return f"{value:.{digits}f} %" if value else "0 %"


def place_of(claim: Claim) -> str:
    """What a claim is about."""
    return PLACES.get(claim.stratum, f"inputs decided as class {clean(claim.label)}")


def verb(record: Contract) -> str:
    """What the candidate does where it fails the contract."""
    if record.distances is not None:
        return f"is off by more than {record.distances.tolerance:.3g}"
    return "decides differently from the original"


def sentence(record: Contract) -> str:
    """The bound in one plain sentence."""
    sure = f"With {100 * record.confidence:g} % confidence the candidate {verb(record)}"
    if record.verdict == "broken":
        worst = max(
            (claim for claim in record.claims if claim.verdict == "broken"),
            key=lambda claim: claim.low - claim.eps,
            default=None,
        )
        if worst is None:
            return "An input was found that the candidate decides differently; none is allowed."
        return (
            f"{sure} on at least {percent(worst.low, up=False)} of {place_of(worst)}; "
            f"{percent(worst.eps)} is allowed."
        )
    if record.verdict == "kept":
        return f"{sure} {_at_most(record)}."
    return _open(record)


def _at_most(record: Contract) -> str:
    parts = [
        f"on at most {percent(claim.high, up=True)} of {place_of(claim)}"
        for claim in record.claims
        if claim.stratum != "class"
    ]
    classes = [claim.high for claim in record.claims if claim.stratum == "class"]
    if classes:
        parts.append(f"on at most {percent(max(classes), up=True)} in any class")
    return ", ".join(parts)


def _open(record: Contract) -> str:
    left = [claim for claim in record.claims if claim.verdict == "undecided"]
    worst = max(left, key=lambda claim: (claim.more is None, claim.more or 0))
    if worst.eps == 0:
        return (
            f"No difference was seen on {worst.samples:,} samples, but no number of samples can "
            "show that there is none (eps is 0)."
        )
    if worst.samples == 0:
        told = f"no fresh sample is among {place_of(worst)}; {worst.needed:,} are needed"
    else:
        told = (
            f"{worst.differ} of {worst.samples:,} {place_of(worst)} differ, the bound is "
            f"{percent(worst.high, up=True)}, {percent(worst.eps)} is allowed"
        )
        told += f"; {worst.more:,} more would decide" if worst.more else ""
    return f"Too few samples for {len(left)} of {len(record.claims)} claims: {told}."


def more(claim: Claim) -> str:
    """How many samples of the stratum would decide a claim."""
    if claim.verdict != "undecided":
        return ""
    return f"{claim.more:,}" if claim.more else "no number"


def facts(record: Contract) -> list[tuple[str, str]]:
    """What else there is to say, as pairs of a word and a text."""
    told = [*_boundary(record), *_apart(record)]
    if record.quality:
        old, new = record.quality["original"], record.quality["candidate"]
        name = clean(old.metric)
        told.append(("Quality", f"{name} {old.value:.4g} of the original, {new.value:.4g}"))
    return [*told, *_mined(record), ("Samples", record.data.statement)]


def _boundary(record: Contract) -> list[tuple[str, str]]:
    told: list[tuple[str, str]] = []
    if record.region is not None:
        low, high = (percent(end) for end in record.region.mass_ci95)
        what = f"top-two margin under the original up to {record.region.tau:.4g}"
        share = f"{percent(record.region.mass)} [{low}, {high}] of the fresh samples"
        told.append(("Region", f"{what}: {share}"))
    if record.certificate is not None:
        near = record.certificate.region_share
        what = (
            f"{percent(record.certificate.share)} of decisions cannot have turned: the logits "
            "change by less than half the margin"
        )
        inside = "" if near is None else f" ({percent(near)} in the region)"
        told.append(("Certified", what + inside))
    return told


def _apart(record: Contract) -> list[tuple[str, str]]:
    if record.divergence is not None:
        gone_by = f"{record.divergence.mean:.3g} nats a decision"
        if record.outputs == "positions":
            count = format_count(record.divergence.decisions)
            gone_by += f"; {percent(record.divergence.agreement)} of {count} decisions agree"
        return [("KL", gone_by)]
    gone = record.distances
    if gone is None:
        return []
    told = f"median {gone.median:.3g}, p99 {gone.p99:.3g}, largest {gone.largest:.3g}"
    return [("Distance", f"{told}; the original's spread is {gone.spread:.3g}")]


def _mined(record: Contract) -> list[tuple[str, str]]:
    mined = record.mining
    if mined is None:
        return []
    words = {"data": "the split itself", "tokens": "other tokens"}
    reached = [
        f"{words.get(name, name)} {count}" + (f" ({nearest(record, name)})" if count else "")
        for name, count in mined.found.items()
    ]
    told = f"from {mined.seeds} agreed seeds: {', '.join(reached)}"
    told += f"; saved in {clean(mined.file)}" if mined.file else ""
    return [("Witnesses", f"{told}. They enter no probability.")]


def nearest(record: Contract, search: str) -> str:
    """The least change with which a search found a witness."""
    size = record.mining.smallest[search] if record.mining else 0.0
    if search == "data":
        return "as they are"
    return f"{size:.0f} changed" if search == "tokens" else f"{percent(size)} of the range"
