"""The cost table: blocks measured alone and whole models, in turn, and calibrated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from mpo.errors import BaselineError, UsageError
from mpo.profiles.calibration import (
    LATENCY,
    Agreement,
    fit_all,
    shared_by_macs,
    spread_over,
    verdict,
    with_latency,
)
from mpo.profiles.jobs import Target
from mpo.profiles.measure import Solo, measure_solo
from mpo.profiles.turns import (
    AGREED,
    AnchorFile,
    Effort,
    Progress,
    Turns,
    Unit,
    agrees,
    file_of,
    take_turns,
)
from mpo.records import Anchor, CostTable, How, Metric, SessionOptions, UnitCost
from mpo.records.costs import EMPTY, FULL

THIRD = 1 / 3
SOLO: frozenset[Metric] = LATENCY | {"memory_bytes"}


def measure_table(
    target: Target,
    units: Sequence[Unit],
    anchors: Sequence[AnchorFile],
    session: SessionOptions,
    metrics: Collection[Metric],
    *,
    batch: int,
    fingerprint: str,
    effort: Effort | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> CostTable:
    """The cost table of these blocks on the target; only what the metrics need is measured.

    Args:
        anchors: the full model first.
        fingerprint: of the target's device.
        seed: of the orders in which models take turns.
        progress: called with (processes done, processes expected).

    Raises:
        UsageError: no full anchor, or files that are missing.
        MpoError: a process failed.
    """
    if not anchors or anchors[0].name != FULL:
        raise UsageError("A cost table needs the full model as its first anchor.")
    effort = effort or Effort()
    turns = Turns()
    if LATENCY & set(metrics):
        turns = take_turns(target, units, anchors, session, effort, seed, progress)
    points = [_anchor(target, one, units, session, metrics, effort, turns) for one in anchors]
    costs, noise = _unit_costs(units, turns, points)
    fits = fit_all(metrics, costs, points, dict.fromkeys(LATENCY, noise))
    uncalibrated = _sum_of_parts(costs, points) if turns.found else None
    said = verdict(uncalibrated, fits)
    return CostTable(
        target=target.name,
        fingerprint=fingerprint,
        session=session,
        batch=batch,
        units=with_latency(costs, fits),
        anchors=tuple(points),
        fits=fits,
        uncalibrated=uncalibrated,
        additive=not said,
        processes=turns.processes,
        warnings=(*_noisy(points, turns), *said, *_apart(points)),
    )


def require_fresh(table: CostTable, fingerprint: str) -> None:
    """Refuse a table of another device, or of this one as it was before it changed.

    Raises:
        BaselineError: the fingerprints differ.
    """
    if table.fingerprint != fingerprint:
        raise BaselineError(
            f"The cost table is of the device {table.fingerprint[:12]}, but {table.target} is "
            f"{fingerprint[:12]} now.",
            hint="Measure again: hardware, runtime or power mode changed since.",
        )


def _anchor(
    target: Target,
    given: AnchorFile,
    units: Sequence[Unit],
    session: SessionOptions,
    metrics: Collection[Metric],
    effort: Effort,
    turns: Turns,
) -> Anchor:
    """The anchor with its solo figures, and its share when it was measured in turn."""
    figures = dict(given.figures)
    missing = (SOLO & set(metrics)) - figures.keys()
    if missing:
        timed = bool(LATENCY & set(metrics))
        solo = _alone(target, given, session, effort.solo_seconds if timed else 0.0, effort.timeout)
        figures["memory_bytes"] = float(solo.peak_memory_bytes)
        if timed:
            figures |= {"latency_p50_ms": solo.p50_ms, "latency_p90_ms": solo.p90_ms}
    gone = set(given.removed)
    found = turns.found.get(f"anchor {given.name}")
    own = Agreement(1.0, 0.0) if given.name == FULL and turns.found else found
    return Anchor(
        name=given.name,
        removed=given.removed,
        kept=tuple(unit.name for unit in units if unit.name not in gone),
        figures=figures,
        share=own.value if own else None,
        spread=own.spread if own else 0.0,
    )


def _alone(
    target: Target, anchor: AnchorFile, session: SessionOptions, seconds: float, timeout: float
) -> Solo:
    """The one place that measures an anchor alone."""
    path, inputs = file_of(anchor)
    return measure_solo(target, path, inputs, session=session, seconds=seconds, timeout=timeout)


def _unit_costs(
    units: Sequence[Unit], turns: Turns, anchors: Sequence[Anchor]
) -> tuple[list[UnitCost], float]:
    """The units with their shares, and the noise of what was measured: half of the spread."""
    found = turns.found
    known = {u.name: found[u.key].value * u.calls for u in units if u.key in found and u.path}
    macs = {unit.name: unit.macs for unit in units}
    empty = next((one.share for one in anchors if one.name == EMPTY and one.share), None)
    left = 1 - empty if empty is not None else 1.0
    missing = {unit.name: unit.macs for unit in units if unit.name not in known} if found else {}
    shares = known | shared_by_macs(known, missing, macs, left)
    first: dict[str, str] = {}
    costs = []
    for unit in units:
        how: How = "counted" if not found else "macs" if unit.name in missing else "measured"
        like = first.setdefault(unit.key, unit.name) if how == "measured" else unit.name
        costs.append(
            UnitCost(
                name=unit.name,
                how="like" if like != unit.name else how,
                like=like if like != unit.name else "",
                reason=unit.reason,
                share=shares.get(unit.name),
                spread=found[unit.key].spread if how == "measured" else 0.0,
                size_bytes=unit.size_bytes,
                params=unit.params,
                macs=unit.macs,
            )
        )
    counts = Counter(unit.key for unit in units if unit.name in known)
    parts = spread_over({key: (count, found[key]) for key, count in counts.items()})
    # An anchor's spread counts beside the plans that are made, which keep a third at the least.
    loud = [one.spread * one.share / max(one.share, THIRD) for one in anchors if one.share]
    return costs, max([parts, *loud]) / 2


def _sum_of_parts(units: Sequence[UnitCost], anchors: Sequence[Anchor]) -> float | None:
    empty = next((one.share for one in anchors if one.name == EMPTY), None)
    return None if empty is None else sum(unit.share or 0.0 for unit in units) + empty


def _noisy(anchors: Sequence[Anchor], turns: Turns) -> list[str]:
    loud = [
        f"{one.name} {one.spread:.1%}"
        for one in anchors
        if one.share is not None and not agrees(Agreement(one.share, one.spread))
    ]
    if not loud:
        return []
    return [
        f"The device is too noisy: over {turns.processes} processes the anchors spread by "
        f"{', '.join(loud)}, more than {AGREED:.0%}; the margin is wider for it."
    ]


def _apart(anchors: Sequence[Anchor]) -> list[str]:
    """Anchors whose solo latency tells another ratio than the turns did."""
    full = anchors[0].figures.get("latency_p50_ms")
    said = []
    for one in anchors[1:]:
        alone = one.figures.get("latency_p50_ms")
        if full and alone and one.share and abs(alone / full / one.share - 1) > 0.10:
            said.append(
                f"The {one.name} model takes {alone / full:.1%} of the full one's time when each "
                f"runs alone, but {one.share:.1%} in turn: the device changed meanwhile, or "
                f"threads wait differently alone."
            )
    return said
