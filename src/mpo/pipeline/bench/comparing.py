"""From raw figures and rules to verdicts. Pure: records in, records out.

A ratio's verdict rests on pairs: two models in one process, or two processes one after the other. A
stored baseline has no pairs; then only bounds that no noise seen could explain decide.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

from mpo.errors import BaselineError, MpoError, UsageError
from mpo.gate import (
    LOOKS,
    Decision,
    Interval,
    Verdict,
    decide_apart,
    minimum_detectable,
    sequential,
)
from mpo.pipeline.bench.throttling import flags_of, throttled_pairs, too_many, unthrottled
from mpo.records import BenchComparison, BenchRuns, BenchVerdict, Quality, Record, Which
from mpo.records.bench import Pairing
from mpo.rules import MEASURES, Rule

# The figure of a process that a metric is about; "latency" when models cannot run in turn.
LATENCY_FIELDS = {
    "latency": "p10_ms",
    "latency.p50": "p50_ms",
    "latency.p90": "p90_ms",
    "latency.load": "load_ms",
    "latency.first": "first_ms",
}
MEMORY_FIELDS = {"memory": "peak_bytes", "memory.load": "load_bytes"}
# Memory above an empty runtime is told to about this much; a difference below it is none.
MEMORY_RESOLUTION = 2**20
# Between two machines of one kind, or two hours on one, latency moved by 2.7 % (one standard
# deviation, MEASURING.md 1.3 c); three of them.
DRIFT = 0.08
WORDS: dict[Verdict, BenchVerdict] = {
    "PASS": "pass",
    "FAIL": "fail",
    "INCONCLUSIVE": "inconclusive",
}


def sharing(rules: Sequence[Rule], targets: int, *, stored: bool) -> int:
    """How many questions are put to noise at once: each could raise a false alarm.

    Args:
        stored: relative rules are judged against a stored baseline, by bounds that need no alpha.
    """
    noisy = [rule for rule in rules if rule.source in ("paired", "solo")]
    return targets * sum(not (stored and rule.needs_baseline) for rule in noisy)


def undecided(
    rules: Sequence[Rule], runs: BenchRuns, looks: Sequence[int], shared: int
) -> list[Rule]:
    """The rules that the figures so far do not decide.

    Args:
        shared: rules that share alpha.
    """
    return [
        rule for rule in rules if _decision(rule, runs, looks, shared).verdict == "INCONCLUSIVE"
    ]


def judge_noisy(rule: Rule, runs: BenchRuns, looks: Sequence[int], shared: int) -> BenchComparison:
    """A rule on latency or memory, the baseline (if the rule needs one) measured beside."""
    series = _series(rule, runs)
    found = _decision(rule, runs, looks, shared)
    used = series[: found.pairs]
    absolute = rule.kind == "absolute"
    scale = rule.limit if absolute else 1.0
    bounds = (found.interval.estimate, found.interval.low, found.interval.high)
    interval = Interval(*(scale * bound for bound in bounds))
    spread = statistics.stdev(used)
    mde = minimum_detectable(
        spread, found.pairs, 1.0 if absolute else rule.limit, rules=max(1, shared)
    )
    return BenchComparison(
        metric=rule.metric,
        target=runs.target,
        rule=rule.text,
        unit=unit_of(rule),
        limit=_limit(rule),
        estimate=_in_unit(rule, interval.estimate),
        low=_in_unit(rule, interval.low),
        high=_in_unit(rule, interval.high),
        pairs=found.pairs,
        sd_log=spread,
        mde=_in_unit(rule, mde * scale),
        pairing=_pairing(rule, runs),
        verdict=WORDS[found.verdict],
        reason=_why_open(rule, runs, found) if found.verdict == "INCONCLUSIVE" else "",
    )


def judge_stored(rule: Rule, runs: BenchRuns, stored: BenchRuns) -> BenchComparison:
    """A rule on latency or memory against figures of an earlier bench."""
    new, old = figures(rule.metric, "candidate", runs), figures(rule.metric, "candidate", stored)
    if rule.metric in MEMORY_FIELDS:
        new, old = _resolved(new), _resolved(old)
    drift = 0.0 if rule.metric in MEMORY_FIELDS else DRIFT
    verdict, interval = decide_apart(new, old, rule.limit, drift=drift)
    # Confirmed is what lies beyond the limit even when all noise seen was against it.
    mde = rule.limit * interval.estimate / interval.low
    drifted = f" and {100 * drift:.0f} % drift" if drift else ""
    return BenchComparison(
        metric=rule.metric,
        target=runs.target,
        rule=rule.text,
        unit="%",
        limit=_limit(rule),
        estimate=_in_unit(rule, interval.estimate),
        low=_in_unit(rule, interval.low),
        high=_in_unit(rule, interval.high),
        pairs=min(len(new), len(old)),
        mde=_in_unit(rule, mde),
        pairing="stored",
        verdict=WORDS[verdict],
        reason=f"Against a stored figure: bounds span all processes of both{drifted}. Name the "
        "baseline's model for a verdict from pairs.",
    )


def judge_exact(rule: Rule, new: float | None, old: float | None) -> BenchComparison:
    """A rule on what has no noise: bytes, parameters, nodes, MACs.

    Raises:
        MpoError: a figure that the rule needs could not be had; that is never a silent pass.
    """
    if new is None or (old is None and rule.needs_baseline):
        raise MpoError(
            f"{rule.text!r} cannot be judged: the file does not tell its {rule.metric} (no engine, "
            "no graph, or one with free shapes, functions or control flow).",
            hint="Gate another metric: params, nodes, size.",
        )
    value = float(new)
    if rule.kind == "relative":
        value = _change(new, float(old or 0))
    fails = value > rule.value
    percent = rule.kind == "relative"
    shown = None if math.isinf(value) else 100 * value if percent else value
    return BenchComparison(
        metric=rule.metric,
        rule=rule.text,
        unit=unit_of(rule),
        limit=100 * rule.value if percent else rule.value,
        estimate=shown,
        low=shown,
        high=shown,
        pairing="exact",
        verdict="fail" if fails else "pass",
        reason="The baseline has none." if shown is None else "",
    )


def judge_quality(rule: Rule, new: Quality, old: Quality | None) -> BenchComparison:
    """A rule on the task's metric: the same examples through the same runtime, so it is exact.

    Raises:
        UsageError: the rule looks at the wrong side.
        BaselineError: the baseline was measured without data, or on other data.
    """
    if rule.above != new.lower_is_better:
        side = "less" if new.lower_is_better else "more"
        raise UsageError(
            f"{rule.text!r}: {side} {new.metric} is better.",
            hint=f"Write accuracy{'>' if new.lower_is_better else '<'} in the place of "
            f"accuracy{'>' if rule.above else '<'}.",
        )
    if old is None and rule.needs_baseline:
        raise BaselineError(
            f"{rule.text!r} cannot be judged: the baseline has no quality.",
            hint="Measure the baseline with --data too.",
        )
    if old is not None and (old.metric, old.samples) != (new.metric, new.samples):
        raise BaselineError(
            f"The baseline has {old.metric} of {old.samples} examples, the candidate {new.metric} "
            f"of {new.samples}.",
            hint="Measure both with the same --data.",
        )
    value, scale = new.value, 1.0
    if rule.kind == "points":
        value, scale = new.value - (old.value if old else 0.0), 100.0
    elif rule.kind == "relative":
        value, scale = _change(new.value, old.value if old else 0.0), 100.0
    # A half of a point is no round number in binary: what rounding adds must not fail.
    excess = (value - rule.value) * (1 if rule.above else -1)
    fails = excess > 1e-12 * max(1.0, abs(rule.value))
    shown = scale * value if math.isfinite(value) else None
    return BenchComparison(
        metric=rule.metric,
        rule=rule.text,
        unit=unit_of(rule),
        limit=scale * rule.value,
        estimate=shown,
        low=shown,
        high=shown,
        pairing="exact",
        verdict="fail" if fails else "pass",
    )


def figures(metric: str, which: Which, runs: BenchRuns) -> list[float]:
    """A metric of every process of a model."""
    processes: Sequence[Record]
    if metric in MEMORY_FIELDS:
        processes, name = runs.memory.get(which, ()), MEMORY_FIELDS[metric]
    else:
        processes, name = runs.alone.get(which, ()), LATENCY_FIELDS[metric]
    return [float(getattr(process, name)) for process in processes]


def ratio_logs(metric: str, runs: BenchRuns) -> list[float]:
    """ln(candidate / baseline), one per process in turn, or one per pair of processes; without
    those of a throttled GPU."""
    flags = throttled_pairs(metric, runs)
    if metric == "latency" and runs.pairs_ms:
        return unthrottled([math.log(new / old) for old, new in runs.pairs_ms], flags)
    new, old = figures(metric, "candidate", runs), figures(metric, "baseline", runs)
    if metric in MEMORY_FIELDS:
        new, old = _resolved(new), _resolved(old)
    logs = [math.log(first / second) for first, second in zip(new, old, strict=True)]
    return unthrottled(logs, flags)


def _resolved(values: Sequence[float]) -> list[float]:
    """Memory, at least as much as can be told: so a ratio of two next to nothings is one."""
    return [max(value, MEMORY_RESOLUTION) for value in values]


def unit_of(rule: Rule) -> str:
    """The unit that a rule's figures are told in."""
    if rule.kind == "relative":
        return "%"
    if rule.kind == "points":
        return "pp"
    return {"ms": "ms", "bytes": "B", "count": "", "share": ""}[MEASURES[rule.metric].dimension]


def overall(comparisons: Sequence[BenchComparison]) -> BenchVerdict:
    """The verdict of all rules together."""
    found = {one.verdict for one in comparisons if one.rule}
    order: tuple[BenchVerdict, ...] = ("fail", "inconclusive", "pass")
    return next((verdict for verdict in order if verdict in found), "not-gated")


def _series(rule: Rule, runs: BenchRuns) -> list[float]:
    """What the gate takes: logarithms of ratios to the baseline, or to the limit itself."""
    if rule.kind == "absolute":
        values = figures(rule.metric, "candidate", runs)
        logs = [math.log(max(value, 1e-9) / rule.limit) for value in values]
        return unthrottled(logs, flags_of(rule, runs))
    return ratio_logs(rule.metric, runs)


def _decision(rule: Rule, runs: BenchRuns, looks: Sequence[int], shared: int) -> Decision:
    limit = 1.0 if rule.kind == "absolute" else rule.limit
    found = sequential(_series(rule, runs), limit, looks=looks or LOOKS, rules=max(1, shared))
    return replace(found, verdict="INCONCLUSIVE") if too_many(flags_of(rule, runs)) else found


def _pairing(rule: Rule, runs: BenchRuns) -> Pairing:
    if rule.kind == "absolute":
        return "absolute"
    return "in-process" if rule.metric == "latency" and runs.pairs_ms else "process"


def _why_open(rule: Rule, runs: BenchRuns, found: Decision) -> str:
    if too_many(flags := flags_of(rule, runs)):
        return f"The GPU was throttled during {sum(flags)} of {len(flags)}, more than a quarter."
    return f"{found.pairs} pairs do not decide: the limit lies between the bounds."


def _in_unit(rule: Rule, value: float) -> float | None:
    """A ratio as a change in per cent, an absolute figure as it is; None for a bound that is none
    (zero or infinity)."""
    if not math.isfinite(value) or value <= 0:
        return None
    return 100 * (value - 1) if rule.kind == "relative" else value


def _change(new: float, old: float) -> float:
    """New over old, less one: 0.1 is ten per cent more; infinite when something came of nothing."""
    if old:
        return (new - old) / abs(old)
    return 0.0 if new == old else math.copysign(math.inf, new)


def _limit(rule: Rule) -> float:
    """A rule's limit in its unit, as it was written."""
    return 100 * rule.value if rule.kind == "relative" else rule.value
