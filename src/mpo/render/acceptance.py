"""The guard's verdict in one line, with the numbers that it rests on."""

from __future__ import annotations

from mpo.records import Acceptance, Report
from mpo.render.text import allowed_drop, is_share

TONES = {"accepted": "green", "unproven": "bold yellow", "rejected": "bold red"}
BADGES = {"accepted": "good", "unproven": "warn", "rejected": "bad"}
METHODS = {
    "score": "paired score bound",
    "exact": "exact bound",
    "bootstrap": "paired bootstrap",
    "point": "no bound: the metric cannot be resampled",
}


def acceptance_line(report: Report, found: Acceptance) -> str:
    """ "drop 0.4 points, at most 0.9 (97.5 % confidence, paired score bound) on 1,000 validation
    examples; 1 point allowed; 7 lost, 3 gained"."""
    unit = "points" if is_share(report) else "%"
    told = f"drop {_percent(found.drop)} {unit}"
    if found.bound is None:
        told += f" ({METHODS[found.method]})"
    else:
        sure = f"{100 * (1 - found.alpha):.4g} % confidence, {METHODS[found.method]}"
        told += f", at most {_percent(found.bound)} ({sure})"
    told += f" on {found.samples:,} validation examples; {allowed_drop(report)} allowed"
    if found.lost is not None and found.gained is not None:
        told += f"; decisions lost {found.lost:,}, gained {found.gained:,}"
    return told


def round_lines(report: Report) -> tuple[str, ...]:
    """One sentence a round, when the plan was carried out in several."""
    plan = report.plan
    chosen = (one for one in plan.alternatives if one.removed == plan.removed and one.rounds)
    unit = "points" if is_share(report) else "%"
    return tuple(
        f"Round {number}: {', '.join(step.removed)} out, {step.gone} gone, {step.epochs} epochs, "
        f"drop {_percent(step.acceptance.drop)} {unit}: {step.acceptance.verdict}"
        f"{'' if step.kept else ', undone'}"
        for one in chosen
        for number, step in enumerate(one.rounds, 1)
    )


def _percent(share: float) -> str:
    """0.0042 -> "0.42"; what rounds to zero has no sign."""
    return f"{100 * share + 0:.2f}".replace("-0.00", "0.00")
