"""What every view shares: figures in pairs with their units, budgets, plans, the verdict."""

from __future__ import annotations

from dataclasses import dataclass

from mpo.records import BudgetResult, Plan, PlanCandidate, Quality, Ratio, Report, TargetReport
from mpo.render.contracttext import sentence as contract_sentence
from mpo.render.names import clean, compact_names, shorten
from mpo.units import format_bytes, format_count, format_ms

METRICS = {
    "size_bytes": "File size",
    "memory_bytes": "Peak memory",
    "params": "Parameters",
    "macs": "MACs",
    "latency_p50_ms": "Latency p50",
    "latency_p90_ms": "Latency p90",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of both models as text, and its ratio (optimized / original) for drawing."""

    label: str
    before: str
    after: str
    change: str
    share: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came out: a word, its tone (good or bad), and a sentence with the numbers."""

    word: str
    tone: str
    sentence: str


def format_metric(metric: str, value: float) -> str:
    """A figure of a budget's metric with its unit."""
    if metric.endswith("_bytes"):
        return format_bytes(value)
    return format_ms(value) if metric.endswith("_ms") else format_count(value)


def format_seconds(value: float) -> str:
    """0.42 -> "0.4 s"; 75 -> "1 min 15 s"; 7300 -> "2 h 2 min"."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def is_share(report: Report) -> bool:
    """Whether the task metric is a share in [0, 1], more being better, so that percent fits."""
    pair = (report.original.quality, report.optimized.quality)
    return all(not q.lower_is_better and 0 <= q.ci95[0] <= q.ci95[1] <= 1 for q in pair)


def format_quality(value: float, share: bool, samples: int = 0) -> str:
    """A value of the task metric: percent for a share, two decimals from 10,000 samples on."""
    if not share:
        return f"{value:.4g}"
    return f"{100 * value:.{2 if samples >= 10_000 else 1}f} %"


def quality_interval(quality: Quality, share: bool) -> str:
    """ "99.2 % [98.1, 99.7]": the value with its 95 % interval."""
    low, high = (
        format_quality(value, share, quality.samples).removesuffix(" %") for value in quality.ci95
    )
    return f"{format_quality(quality.value, share, quality.samples)} [{low}, {high}]"


def quality_change(report: Report) -> str:
    """Optimized minus original: "-0.4 points" for a share, "-1.2 %" of the original otherwise."""
    before, after = report.original.quality, report.optimized.quality
    change = after.value - before.value
    if is_share(report):
        return f"{signed(100 * change, 2 if before.samples >= 10_000 else 1)} points"
    if before.value == 0:
        return f"{change:+.4g}"
    return f"{signed(100 * change / abs(before.value), 1)} %"


def signed(value: float, digits: int) -> str:
    """A change with its sign; what rounds to zero has none."""
    shown = f"{value:+.{digits}f}"
    return shown[1:] if float(shown) == 0 else shown


def allowed_drop(report: Report) -> str:
    """The quality floor as text: "1 point" for a share, "1 %" otherwise."""
    allowed = f"{100 * report.max_drop:.3g}"
    if not is_share(report):
        return f"{allowed} %"
    return f"{allowed} point" if allowed == "1" else f"{allowed} points"


def rows(report: Report) -> tuple[Row, ...]:
    """Every figure of both models, quality last; the ratio of p50 is the paired one."""
    old, new, ratio = report.original, report.optimized, report.ratio
    speed = ratio.latency
    p90 = new.latency_ms.p90 / old.latency_ms.p90 if old.latency_ms.p90 else speed.estimate
    share = is_share(report)
    return (
        _plain("Parameters", "params", old.params, new.params, ratio.params),
        _plain("MACs", "macs", old.macs, new.macs, ratio.macs),
        _plain("File size", "size_bytes", old.size_bytes, new.size_bytes, ratio.size),
        _plain(
            "Peak memory",
            "memory_bytes",
            old.peak_memory_bytes,
            new.peak_memory_bytes,
            ratio.memory,
        ),
        _p50(old.latency_ms.p50, new.latency_ms.p50, speed),
        _plain("Latency p90", "latency_p90_ms", old.latency_ms.p90, new.latency_ms.p90, p90),
        Row(
            shorten(old.quality.metric, 24).capitalize(),
            quality_interval(old.quality, share),
            quality_interval(new.quality, share),
            quality_change(report),
            1.0,
        ),
    )


def _plain(label: str, metric: str, before: float, after: float, ratio: float) -> Row:
    return Row(
        label, format_metric(metric, before), format_metric(metric, after), f"{ratio:.2f}x", ratio
    )


def target_rows(other: TargetReport) -> tuple[Row, ...]:
    """Memory and latency of both models on one more target."""
    old, new, speed = other.original, other.optimized, other.ratio
    memory, p90 = (
        after / before if before else speed.estimate
        for before, after in (
            (old.peak_memory_bytes, new.peak_memory_bytes),
            (old.latency_ms.p90, new.latency_ms.p90),
        )
    )
    return (
        _plain("Peak memory", "memory_bytes", old.peak_memory_bytes, new.peak_memory_bytes, memory),
        _p50(old.latency_ms.p50, new.latency_ms.p50, speed),
        _plain("Latency p90", "latency_p90_ms", old.latency_ms.p90, new.latency_ms.p90, p90),
    )


def _p50(before: float, after: float, speed: Ratio) -> Row:
    paired = f"{speed.estimate:.2f}x [{speed.ci95[0]:.2f}, {speed.ci95[1]:.2f}]"
    figures = (format_ms(before), format_ms(after))
    return Row("Latency p50", *figures, paired, speed.estimate, speed.ci95)


def asked(report: Report, budget: BudgetResult) -> str:
    """A budget as it was given, with its target when there are several."""
    return clean(f"{budget.text} on {budget.target}" if report.others else budget.text)


def budget_line(budget: BudgetResult) -> str:
    """ "Peak memory 41.2 MB <= 50 MB": the measured figure beside its bound, as it came out."""
    measured = format_metric(budget.metric, budget.measured)
    limit = format_metric(budget.metric, budget.limit)
    if measured == limit and budget.measured != budget.limit:
        measured, limit = f"{budget.measured:,.10g}", f"{budget.limit:,.10g}"
    return f"{METRICS[budget.metric]} {measured} {'<=' if budget.met else '>'} {limit}"


def removed_line(report: Report, limit: int | None = None) -> str:
    """ "14 of 27 blocks removed, int8: layer1.1-4, layer2.3"."""
    count = _done(report)
    return f"{count}: {compact_names(report.removed, limit)}" if report.removed else count


def _done(report: Report) -> str:
    """ "14 of 27 blocks removed, int8 with 2 layers in float32"."""
    count = f"{len(report.removed)} of {report.blocks} blocks removed"
    made = report.conversion
    if made is None:
        return count
    kept = f" with {len(made.kept)} layers in float32" if made.kept else ""
    return f"{count}, {made.precision}{kept}"


def verdict(report: Report) -> Verdict:
    """The outcome in a word and a sentence with the numbers that decide."""
    held = sum(budget.met for budget in report.budgets)
    name = shorten(report.original.quality.metric, 40)
    quality = (
        f"{name} {quality_change(report)} on {report.optimized.quality.samples:,} test samples, "
        f"{allowed_drop(report)} allowed"
    )
    removed = _done(report)
    if report.status == "already-met":
        return Verdict(
            "Already met", "good", "The original holds every budget; nothing was removed."
        )
    if report.status == "infeasible":
        lines = dict.fromkeys(budget_line(budget) for budget in report.budgets if not budget.met)
        missed = "; ".join(lines)
        what = f"No plan holds every budget. The closest one: {missed or quality}."
        return Verdict("Infeasible", "bad", f"{what} {removed}; {quality}.")
    if report.status == "contract-broken" and report.contract is not None:
        told = contract_sentence(report.contract)
        return Verdict("Contract broken", "bad", f"{told} {removed}; {quality}.")
    if report.status == "below-floor":
        what = f"{held} of {len(report.budgets)} budgets hold, but only below the quality floor"
        return Verdict("Below the quality floor", "bad", f"{what}: {quality}. {removed}.")
    if not report.budgets:
        return Verdict("Done", "good", f"{removed}; {quality}. No budget was asked for.")
    budgets = f"{held} of {len(report.budgets)} budgets {'holds' if held == 1 else 'hold'}"
    return Verdict("Met", "good", f"{budgets}; {removed}; {quality}.")


def chosen_candidate(plan: Plan) -> PlanCandidate | None:
    """The candidate that the plan chose, when it is among those recorded."""
    return next((one for one in plan.alternatives if is_chosen(plan, one)), None)


def is_chosen(plan: Plan, candidate: PlanCandidate) -> bool:
    """Whether a candidate is the plan's: the same blocks in the same precision."""
    return set(candidate.removed) == set(plan.removed) and candidate.precision == plan.precision


def candidates(plan: Plan) -> tuple[PlanCandidate, ...]:
    """The chosen candidate, then the alternatives; each set of blocks once in a precision."""
    chosen = chosen_candidate(plan) or PlanCandidate(
        removed=plan.removed, harm=plan.harm, precision=plan.precision
    )
    unique: dict[tuple[frozenset[str], str], PlanCandidate] = {}
    for candidate in (chosen, *plan.alternatives):
        unique.setdefault((frozenset(candidate.removed), candidate.precision), candidate)
    return tuple(unique.values())


def blocks_of(plan: Plan, candidate: PlanCandidate, limit: int | None = None) -> str:
    """A candidate's blocks, after its precision when any candidate has another one than fp32."""
    named = compact_names(candidate.removed, limit)
    if {plan.precision, *(one.precision for one in plan.alternatives)} == {"fp32"}:
        return named
    return f"{candidate.precision}: {named or 'nothing'}"
