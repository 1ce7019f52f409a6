"""The proof: both models side by side, every budget judged on measured figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mpo import __version__
from mpo.files import sha256
from mpo.optimizer.data.quality import drop, exceeds
from mpo.pipeline.run.acceptance import warning
from mpo.pipeline.run.analysis import NOTHING
from mpo.pipeline.run.budgets import judge
from mpo.pipeline.run.context import Context
from mpo.pipeline.run.inputs import deployed, feeds
from mpo.pipeline.run.measuring import ORIGINAL, Measured
from mpo.pipeline.run.places import Place
from mpo.pipeline.run.saved import read, save
from mpo.profiles.measure import measure_pair
from mpo.records import (
    Acceptance,
    Analysis,
    Artifact,
    BudgetResult,
    Contract,
    Exported,
    Plan,
    Precision,
    Ratio,
    Ratios,
    Record,
    Recovery,
    Report,
    TargetReport,
)

Status = Literal["met", "already-met", "infeasible", "below-floor", "contract-broken"]
DISAGREE = math.log(1.15)
SAME = Ratio(estimate=1.0, ci95=(1.0, 1.0), pairs=0)
OPTIMIZED = "model.onnx"


class LatencyRatios(Record):
    """optimized / original latency on every target, the first one first."""

    ratios: tuple[Ratio, ...]


def pair_ratios(context: Context, original: Path, optimized: Path) -> tuple[Ratio, ...]:
    """optimized / original latency from processes that alternate both, on every target; kept in
    the run's folder."""

    def make(folder: Path) -> None:
        found = list[Ratio]()
        for place in context.places:
            context.progress("compare both models", len(found), len(context.places))
            found.append(compared(context, place, original, optimized))
        context.progress("compare both models", len(found), len(found))
        save(LatencyRatios(ratios=tuple(found)), folder / "ratios.json")

    key = {**context.key, "files": [sha256(original), sha256(optimized)]}
    folder = context.folder.stage("pair", key, make)
    return read(LatencyRatios, folder / "ratios.json").ratios


def compared(context: Context, place: Place, original: Path, optimized: Path) -> Ratio:
    """optimized / original latency on one target."""
    call = deployed(context)
    return measure_pair(
        place.target,
        original,
        optimized,
        feeds(original, call),
        feeds(optimized, call),
        session=place.session,
        seconds=context.measuring.pair,
    ).ratio


def ratios(original: Measured, optimized: Measured, latency: Ratio) -> Ratios:
    """optimized / original of every figure."""
    one, other = original.figures, optimized.figures
    return Ratios(
        latency=latency,
        memory=_over(other.peak_memory_bytes, one.peak_memory_bytes),
        size=_over(other.size_bytes, one.size_bytes),
        params=_over(other.params, one.params),
        macs=_over(other.macs, one.macs),
    )


def _over(value: float, base: float) -> float:
    return value / base if base else 1.0


@dataclass(frozen=True)
class Outcome:
    """What a run came to; without a plan the original stands as its own result."""

    original: Measured
    optimized: Measured
    ratios: tuple[Ratio, ...] = ()
    analysis: Analysis = NOTHING
    plan: Plan | None = None
    recovery: Recovery | None = None
    contract: Contract | None = None
    formats: tuple[Exported, ...] = ()
    acceptance: Acceptance | None = None


def status_of(
    context: Context, results: Sequence[BudgetResult], original: Measured, outcome: Outcome
) -> Status:
    """Met; over a budget; under every budget but below the quality floor (on validation); or all
    that with a broken contract."""
    if outcome.plan is None:
        return "already-met"
    if not all(result.met for result in results):
        return "infeasible"
    lost = drop(original.validation, outcome.optimized.validation)
    if exceeds(lost, context.recipe.allowed_drop()):
        return "below-floor"
    broken = outcome.contract is not None and outcome.contract.verdict == "broken"
    return "contract-broken" if broken else "met"


def make_report(context: Context, outcome: Outcome) -> Report:
    """Everything as one record."""
    optimized, recipe = outcome.optimized, context.recipe
    original = outcome.original.seen_beside(optimized)
    budgets = judge(recipe.budgets(), original.costs(), optimized.costs(), context.targets)
    latency = outcome.ratios or (SAME,) * len(context.places)
    status = status_of(context, budgets, original, outcome)
    plan = outcome.plan or empty_plan(context)
    return Report(
        tool={"name": "mpo", "version": __version__},
        subject=context.subject.name,
        target=context.targets[0],
        method=recipe.method,
        seed=recipe.seed,
        budgets=budgets,
        met=status in ("met", "already-met"),
        status=status,
        max_drop=recipe.allowed_drop(),
        original=original.figures,
        optimized=optimized.figures,
        ratio=ratios(original, optimized, latency[0]),
        blocks=len(outcome.analysis.blocks),
        removed=plan.removed,
        parity={"original": original.parity, "onnx": optimized.parity},
        artifacts=artifacts(context.folder.path, precision_of(optimized), outcome.formats),
        formats=outcome.formats,
        recovery=outcome.recovery,
        acceptance=outcome.acceptance,
        analysis=outcome.analysis,
        plan=plan,
        contract=outcome.contract,
        environment=context.places[0].environment,
        others=other_targets(context, original, optimized, latency),
        conversion=optimized.conversion,
        seconds=dict(context.folder.seconds),
        warnings=told(context, outcome, original, plan, latency[0]),
    )


def told(
    context: Context, outcome: Outcome, original: Measured, plan: Plan, latency: Ratio
) -> tuple[str, ...]:
    """All that the report warns of, in the order of the story."""
    return (
        *outcome.analysis.warnings,
        *warnings(context, original, outcome.optimized, plan, latency),
        *warning(outcome.acceptance),
        *format_notes(outcome.formats),
    )


def format_notes(formats: Sequence[Exported]) -> tuple[str, ...]:
    """What could not be made, or was made and not run, one sentence each."""
    failed = [one for one in formats if not one.ok]
    unseen = [one for one in formats if one.ok and not one.ran]
    return (
        *(not_made(one) for one in failed),
        *(f"{one.format} was built and not run: {one.ran_reason}." for one in unseen),
    )


def other_targets(
    context: Context, original: Measured, optimized: Measured, latency: Sequence[Ratio]
) -> tuple[TargetReport, ...]:
    """Both models on every target but the first."""
    both = zip(original.others, optimized.others, strict=True)
    return tuple(
        TargetReport(original=one, optimized=other, ratio=ratio, environment=place.environment)
        for (one, other), ratio, place in zip(both, latency[1:], context.places[1:], strict=True)
    )


def not_made(one: Exported) -> str:
    """The warning for a format of --export, with what to do about it."""
    remedy = f" Remedy: {one.hint}" if one.hint else ""
    return f"{one.format} was not made: {one.reason.removesuffix('.')}.{remedy}"


def empty_plan(context: Context) -> Plan:
    """The plan that removes nothing."""
    recipe, name = context.recipe, context.subject.name
    return Plan(method=recipe.method, subject=name, seed=recipe.seed, removed=(), harm=0.0)


def precision_of(made: Measured) -> Precision:
    """The precision of a measured file."""
    return made.conversion.precision if made.conversion else "fp32"


def artifacts(
    folder: Path, precision: Precision = "fp32", formats: Sequence[Exported] = ()
) -> tuple[Artifact, ...]:
    """The files of a run that are handed on; `precision` is the result's; those of further formats
    come last."""
    known = (
        (OPTIMIZED, "onnx"),
        (f"{OPTIMIZED}.data", "onnx-data"),
        (ORIGINAL, "onnx"),
        (f"{ORIGINAL}.data", "onnx-data"),
        ("model.safetensors", "safetensors"),
    )
    own = tuple(
        Artifact(
            path=name,
            format=kind,
            precision=precision if name.startswith(OPTIMIZED) else "fp32",
            bytes=(folder / name).stat().st_size,
            sha256=sha256(folder / name),
        )
        for name, kind in known
        if (folder / name).is_file()
    )
    return (*own, *(file for one in formats for file in one.files))


def warnings(
    context: Context, original: Measured, optimized: Measured, plan: Plan, ratio: Ratio
) -> tuple[str, ...]:
    """Everything a reader must know before trusting the figures."""
    told = [*plan.cut, *context.splits().notes, *context.converted]
    told += [*original.warnings, *optimized.warnings]
    told += disagreement(original, optimized, ratio) if plan.removed else []
    lost = drop(original.figures.quality, optimized.figures.quality)
    if plan.removed and lost > context.recipe.allowed_drop():
        told.append(
            f"On the test split the drop is {lost:.4f}, over {context.recipe.allowed_drop():.4f}; "
            "acceptance was decided on validation."
        )
    return tuple(dict.fromkeys(told))


def disagreement(original: Measured, optimized: Measured, ratio: Ratio) -> list[str]:
    """A warning when the solo runs tell another story than the runs that alternate both models."""
    before, after = original.figures.latency_ms.p50, optimized.figures.latency_ms.p50
    if not before or not after or abs(math.log(after / before / ratio.estimate)) <= DISAGREE:
        return []
    return [
        f"Solo p50 went to {after / before:.2f}x, but both models run in turn give "
        f"{ratio.estimate:.2f}x. Either the machine was busy during a solo run, or spinning "
        "threads (solo only) hide part of the gain: measure again on an idle machine, or with "
        "--threads 1."
    ]
