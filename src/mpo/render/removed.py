"""Which blocks went, and why: what stays in their place, what their absence did, what they cost."""

from __future__ import annotations

from dataclasses import dataclass

from mpo.records import Analysis, Report
from mpo.units import format_count


@dataclass(frozen=True, slots=True)
class Gone:
    """One removed block as text.

    Attributes:
        twin: of the blocks that stay, the one whose output is most alike; "" when none compares.
        cka: of the two.
        kl, agreement: of the output with only this block bypassed, before any training.
        params, macs: with the share of the whole model.
    """

    name: str
    twin: str
    cka: str
    kl: str
    agreement: str
    params: str
    macs: str


def gone(report: Report) -> tuple[Gone, ...]:
    """Every removed block that was analysed, in the model's order."""
    harms = {one.name: one for one in report.analysis.harms}
    removed = set(report.removed)
    found = []
    for block in report.analysis.blocks:
        if block.name not in removed:
            continue
        twin, cka = _twin(report.analysis, block.name, removed)
        harm = harms.get(block.name)
        params, macs = shares(report)[block.name]
        found.append(
            Gone(
                name=block.name,
                twin=twin,
                cka=f"{cka:.3f}" if twin else "",
                kl=f"{harm.kl:.3g}" if harm else "",
                agreement=f"{100 * harm.agreement:.1f} %" if harm else "",
                params=f"{format_count(block.params)} ({_percent(params)})",
                macs=f"{format_count(block.macs)} ({_percent(macs)})",
            )
        )
    return tuple(found)


def shares(report: Report) -> dict[str, tuple[float, float]]:
    """Each block's part of the original's parameters and multiply-accumulates."""
    params = report.original.params or 1
    macs = report.original.macs or 1
    batch = report.environment.batch  # a block's are counted for one example
    return {
        one.name: (one.params / params, one.macs * batch / macs) for one in report.analysis.blocks
    }


def _twin(analysis: Analysis, name: str, removed: set[str]) -> tuple[str, float]:
    """The block that stays whose output is most alike, with the similarity."""
    if name not in analysis.names:
        return "", 0.0
    row = analysis.similarity[analysis.names.index(name)]
    alike = [
        (value, other)
        for other, value in zip(analysis.names, row, strict=True)
        if value is not None and other not in removed
    ]
    if not alike:
        return "", 0.0
    value, other = max(alike)
    return other, value


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
