"""Every rule and every plain comparison of a bench, with the figures of each model."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mpo.gate import bootstrap_interval, minimum_detectable, percentile, ratio_interval
from mpo.pipeline.comparing import (
    LATENCY_FIELDS,
    MEMORY_FIELDS,
    figures,
    judge_exact,
    judge_noisy,
    judge_quality,
    judge_stored,
    ratio_logs,
    sharing,
)
from mpo.records import (
    BenchComparison,
    BenchMetric,
    BenchRuns,
    BenchSubject,
    DeviceWarning,
    Quality,
    Which,
)
from mpo.rules import MEASURES, Rule

P99_SAMPLES = 662  # MEASURING.md 1.1: fewer say nothing about one call in a hundred
INTERVAL_PROCESSES = 3
EXACT = ("size", "params", "nodes", "macs")
MODELS: tuple[Which, ...] = ("candidate", "baseline")
UNITS = {"ms": "ms", "bytes": "B", "count": "count", "share": "share"}


@dataclass(frozen=True)
class Found:
    """All that was measured.

    Attributes:
        baseline: measured beside, or as it was stored.
        runs: raw figures of each target.
        stored: those of a stored baseline by target; empty when none is used.
        quality: of each model, when there is data.
        batch: examples of one inference.
        looks: after how many pairs a verdict is sought.
    """

    candidate: BenchSubject
    baseline: BenchSubject | None
    runs: tuple[BenchRuns, ...]
    stored: Mapping[str, BenchRuns]
    quality: Mapping[Which, Quality]
    batch: int
    looks: tuple[int, ...]


def judge(found: Found, rules: Sequence[Rule]) -> tuple[BenchComparison, ...]:
    """Each rule on each target, then what no rule asks about.

    Raises:
        MpoError: a rule's figure is missing.
        UsageError: a rule looks at the wrong side of the task's metric.
        BaselineError: the baseline lacks a figure.
    """
    shared = sharing(rules, len(found.runs), stored=bool(found.stored))
    gated = [one for rule in rules for one in _judged(rule, found, shared)]
    asked = {rule.metric for rule in rules if rule.needs_baseline}
    return (*gated, *(one for one in _plain(found) if one.metric not in asked))


def _judged(rule: Rule, found: Found, shared: int) -> Iterator[BenchComparison]:
    if rule.source == "exact":
        old = figure(found.baseline, rule.metric) if found.baseline else None
        yield judge_exact(rule, figure(found.candidate, rule.metric), old)
    elif rule.source == "quality":
        yield judge_quality(rule, found.quality["candidate"], found.quality.get("baseline"))
    else:
        for runs in found.runs:
            if rule.needs_baseline and runs.target in found.stored:
                yield judge_stored(rule, runs, found.stored[runs.target])
            else:
                yield judge_noisy(rule, runs, found.looks, shared)


def figure(subject: BenchSubject, metric: str) -> float | None:
    """An exact figure of a model by its metric's name."""
    return getattr(subject, "bytes" if metric == "size" else metric)  # type: ignore[no-any-return]


def _plain(found: Found) -> Iterator[BenchComparison]:
    """The baseline beside the candidate, nothing gated: 95 % intervals."""
    if found.baseline is None:
        return
    for runs in found.runs:
        for metric in ("latency", "memory"):
            if runs.alone.get("baseline"):
                yield _ratio(metric, runs)
    for metric in EXACT:
        rule = Rule("", metric, "relative", True, 0.0)
        values = (figure(found.candidate, metric), figure(found.baseline, metric))
        if None not in values:
            yield _not_gated(judge_exact(rule, *values))
    if len(found.quality) == 2:
        new, old = found.quality["candidate"], found.quality["baseline"]
        kind = "points" if _share(new) and _share(old) else "relative"
        rule = Rule("", "accuracy", kind, new.lower_is_better, 0.0)  # type: ignore[arg-type]
        yield _not_gated(judge_quality(rule, new, old))


def _not_gated(one: BenchComparison) -> BenchComparison:
    return one.model_copy(update={"verdict": "not-gated", "limit": None, "rule": ""})


def _share(quality: Quality) -> bool:
    return 0.0 <= quality.ci95[0] <= quality.ci95[1] <= 1.0


def _ratio(metric: str, runs: BenchRuns) -> BenchComparison:
    logs = ratio_logs(metric, runs)
    found, spread = ratio_interval(logs), statistics.stdev(logs)
    low, high = (
        None if not 0 < bound < float("inf") else 100 * (bound - 1)
        for bound in (found.low, found.high)
    )
    in_process = metric == "latency" and bool(runs.pairs_ms)
    return BenchComparison(
        metric=metric,
        target=runs.target,
        unit="%",
        estimate=100 * (found.estimate - 1),
        low=low,
        high=high,
        pairs=len(logs),
        sd_log=spread,
        mde=100 * (minimum_detectable(spread, len(logs)) - 1),
        pairing="in-process" if in_process else "process",
        verdict="not-gated",
    )


def metrics_of(found: Found) -> tuple[BenchMetric, ...]:
    """Every figure of every model."""
    subjects = [one for one in (found.candidate, found.baseline) if one is not None]
    rows: list[BenchMetric] = []
    for runs in found.runs:
        rows += _measured("candidate", runs, found.batch)
        rows += _measured("baseline", runs, found.batch) if runs.alone.get("baseline") else []
    for subject in subjects:
        rows += [_exact(subject, metric) for metric in EXACT]
    for which, quality in found.quality.items():
        rows.append(
            BenchMetric(
                name="accuracy",
                unit="share" if _share(quality) else "",
                subject=which,
                value=quality.value,
                ci95=quality.ci95,
                n_samples=quality.samples,
                method=quality.metric,
                deterministic=True,
            )
        )
    return tuple(rows)


def _exact(subject: BenchSubject, metric: str) -> BenchMetric:
    value = figure(subject, metric)
    return BenchMetric(
        name=metric,
        unit=UNITS[MEASURES[metric].dimension],
        subject=subject.id,
        value=value,
        reason="" if value is not None else "a shape is unknown, or control flow hides it",
        deterministic=True,
    )


def _measured(which: Which, runs: BenchRuns, batch: int) -> Iterator[BenchMetric]:
    calls = sum(one.samples for one in runs.alone[which])
    for name in (*LATENCY_FIELDS, *MEMORY_FIELDS):
        values, memory = figures(name, which, runs), name in MEMORY_FIELDS
        once = memory or name in ("latency.load", "latency.first")
        yield BenchMetric(
            name="latency.p10" if name == "latency" else name,
            unit="B" if memory else "ms",
            subject=which,
            target=runs.target,
            value=statistics.median(values),
            ci95=_interval(values),
            n_processes=len(values),
            n_samples=len(values) if once else calls,
            method="vmhwm of a lean process, above the empty runtime" if memory else "alone",
        )
    kept = runs.samples_ms.get(which, ())
    enough = len(kept) >= P99_SAMPLES
    yield BenchMetric(
        name="latency.p99",
        unit="ms",
        subject=which,
        target=runs.target,
        value=percentile(kept, 0.99) if enough else None,
        reason="" if enough else f"{len(kept)} calls are too few; {P99_SAMPLES} are needed",
        n_processes=len(runs.alone[which]),
        n_samples=len(kept),
        method="alone",
    )
    yield BenchMetric(
        name="throughput",
        unit="1/s",
        subject=which,
        target=runs.target,
        value=1000 * batch / statistics.median(one.p50_ms for one in runs.alone[which]),
        n_processes=len(runs.alone[which]),
        n_samples=calls,
        method="batch / p50",
    )


def _interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % of the median, by bootstrap over processes."""
    if len(values) < INTERVAL_PROCESSES:
        return None
    return bootstrap_interval(
        len(values), lambda rows: statistics.median(values[place] for place in rows)
    )


def doubts(found: Found, comparisons: Sequence[BenchComparison]) -> Iterator[DeviceWarning]:
    """What a reader of these figures should know."""
    for runs in found.runs:
        processes = [one for alone in runs.alone.values() for one in alone]
        restless = sum(not one.steady for one in processes)
        if restless:
            yield DeviceWarning(
                code="not-steady",
                detail=f"{runs.target}: {restless} of {len(processes)} processes did not settle "
                "within their warm-up.",
                remedy="Stop what else runs there; read absolute latencies with care.",
            )
        yield from _contradiction(runs)
    for one in comparisons:
        if one.verdict == "inconclusive" and one.unit == "%" and one.limit and one.sd_log:
            noise = 100 * (minimum_detectable(one.sd_log, one.pairs) - 1)
            if noise > one.limit / 2 > 0:
                yield DeviceWarning(
                    code="cannot-resolve",
                    detail=f"{one.target}: noise alone reads as {noise:.1f} % here; {one.rule} is "
                    "too fine for this machine now.",
                    remedy="Stop what else runs there, allow more pairs, or raise the limit.",
                )


def _contradiction(runs: BenchRuns) -> Iterator[DeviceWarning]:
    """Latency alone and in turn may differ: other threads, caches, or noise."""
    if not runs.pairs_ms:
        return
    turns = ratio_interval(ratio_logs("latency", runs))
    new, old = (figures("latency", which, runs) for which in MODELS)
    alone = statistics.median(new) / statistics.median(old)
    seen = max(turns.high / turns.estimate, turns.estimate / max(turns.low, 1e-9), 1.05)
    if not turns.estimate / seen**2 <= alone <= turns.estimate * seen**2:
        yield DeviceWarning(
            code="alone-differs",
            detail=f"{runs.target}: in turn the candidate takes {turns.estimate:.3f} of the "
            f"baseline's time, alone {alone:.3f}.",
            remedy="In turn, idle threads do not spin: with several threads look at both; else "
            "the machine is busy.",
        )
