"""Every rule and every plain comparison of a bench, with the figures of each model."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from mpo.gate import minimum_detectable, ratio_interval
from mpo.pipeline.bench.comparing import (
    figures,
    judge_exact,
    judge_noisy,
    judge_quality,
    judge_stored,
    ratio_logs,
    sharing,
)
from mpo.pipeline.bench.figures import EXACT, Found, figure, is_share
from mpo.pipeline.bench.throttling import throttle_doubts
from mpo.records import (
    BenchComparison,
    BenchRuns,
    DeviceWarning,
    Which,
)
from mpo.rules import Rule

MODELS: tuple[Which, ...] = ("candidate", "baseline")


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
        kind = "points" if is_share(new) and is_share(old) else "relative"
        rule = Rule("", "accuracy", kind, new.lower_is_better, 0.0)  # type: ignore[arg-type]
        yield _not_gated(judge_quality(rule, new, old))


def _not_gated(one: BenchComparison) -> BenchComparison:
    return one.model_copy(update={"verdict": "not-gated", "limit": None, "rule": ""})


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
        yield from throttle_doubts(runs)
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
