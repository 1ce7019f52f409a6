"""The measuring of `mpo bench` on one target: each model alone, then both in turn, until the rules
are decided or the pairs are spent. Every figure comes from a fresh process."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mpo.gate import LOOKS, percentile
from mpo.pipeline.bench.comparing import LATENCY_FIELDS, MEMORY_FIELDS, undecided
from mpo.pipeline.bench.inputs import Feeds
from mpo.pipeline.bench.throttling import SPARE, throttled_pairs
from mpo.profiles.jobs import Target
from mpo.profiles.measure import Solo, measure_solo
from mpo.profiles.modeljobs import model_job, watched_turns
from mpo.records import (
    BenchMemory,
    BenchProcess,
    BenchRuns,
    GpuTelemetry,
    SessionOptions,
    Which,
)
from mpo.rules import Rule
from mpo.timing import Stages

Progress = Callable[[str, int, int], None]
KEPT = 1000  # single calls in the record, of each model
ROUNDS = (20, 60)  # in turn: the fewest and the most that are insisted on
PATIENCE_MS = 4000.0  # a process in turn insists on as many rounds as fit into this
LEAN_PROCESSES = 3  # for memory, each model at least
TOGETHER = 0.8  # of the memory: beyond it both models are not loaded at once


@dataclass(frozen=True)
class Subject:
    """A model with what it is fed."""

    path: Path
    feeds: Feeds


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        seconds: of sampling a process.
        processes: each model alone at least.
        pairs: at most.
        timeout: of one process, in seconds.
    """

    seconds: float = 1.0
    processes: int = 5
    pairs: int = LOOKS[-1]
    timeout: float = 300.0

    @property
    def looks(self) -> tuple[int, ...]:
        """After how many pairs a verdict is sought."""
        return tuple(look for look in LOOKS if look <= self.pairs)


@dataclass
class Measuring:
    """One target's figures as they come in.

    Args:
        target: where.
        memory_bytes: that the target has; None when unknown.
        session: how a model is run alone; in turn, spinning is off.
        memory_session: how it is run when its memory is measured.
        candidate: the model in question.
        baseline: measured beside it; None without one.
        rules: that decide how long measuring goes on.
        shared: how many rules, over all targets, share alpha.
        effort: its bounds.
        progress: called with (what, done, total).
        stages: where the seconds of each phase are added.
    """

    target: Target
    memory_bytes: int | None
    session: SessionOptions
    memory_session: SessionOptions
    candidate: Subject
    baseline: Subject | None
    rules: Sequence[Rule]
    shared: int
    effort: Effort
    progress: Progress
    stages: Stages
    _alone: dict[Which, list[Solo]] = field(default_factory=dict)
    _lean: dict[Which, list[Solo]] = field(default_factory=dict)
    _pairs: list[tuple[float, float]] = field(default_factory=list)
    _watched: list[GpuTelemetry | None] = field(default_factory=list)

    def run(self) -> BenchRuns:
        """Measure.

        Raises:
            UsageError: the target cannot run the model until the user does something.
            MpoError: a process failed.
        """
        with self.stages.timed("memory"):
            rules = [rule for rule in self.rules if rule.metric in MEMORY_FIELDS]
            self._until("memory", self._one_lean, rules, LEAN_PROCESSES, "memory")
        turns = self.baseline is not None and self._fit_together()
        with self.stages.timed("alone"):
            alone = {*LATENCY_FIELDS} - ({"latency"} if turns else set())
            rules = [rule for rule in self.rules if rule.metric in alone]
            self._until("alone", self._one_alone, rules, self.effort.processes, "latency.p50")
        if self.baseline is not None and turns:
            with self.stages.timed("in turn"):
                self._turns(self.baseline)
        return self.runs

    @property
    def runs(self) -> BenchRuns:
        """What is measured so far."""
        return BenchRuns(
            target=self.target.name,
            alone={which: tuple(map(_process, solos)) for which, solos in self._alone.items()},
            memory={which: tuple(map(_memory, solos)) for which, solos in self._lean.items()},
            samples_ms={which: _thinned(solos) for which, solos in self._alone.items()},
            pairs_ms=tuple(self._pairs),
            pairs_telemetry=tuple(self._watched) if any(self._watched) else (),
        )

    def _until(
        self,
        what: str,
        measure: Callable[[int], None],
        rules: Sequence[Rule],
        least: int,
        metric: str,
    ) -> None:
        """Call `measure` `least` times; then, with rules that the gate can decide so far, on from
        look to look until they are decided. What was throttled, as `metric` takes it, is measured
        again, up to a limit."""
        if self.baseline is None:
            rules = [rule for rule in rules if not rule.needs_baseline]
        done = 0
        for goal in (least, *(self.effort.looks if rules else ())):
            if goal > least and not undecided(rules, self.runs, self.effort.looks, self.shared):
                break
            while done < goal + min(sum(throttled_pairs(metric, self.runs)), goal // SPARE):
                self.progress(f"{self.target.name}: {what}", done, goal)
                measure(done)
                done += 1
        self.progress(f"{self.target.name}: {what}", done, done)

    def _one_alone(self, done: int) -> None:
        self._each(done, self._alone, self.session, self.effort.seconds)

    def _one_lean(self, done: int) -> None:
        self._each(done, self._lean, self.memory_session, 0.0)

    def _each(
        self, done: int, into: dict[Which, list[Solo]], session: SessionOptions, seconds: float
    ) -> None:
        """Both models, one after the other, in the order AB BA AB ..."""
        models: list[tuple[Which, Subject | None]] = [
            ("candidate", self.candidate),
            ("baseline", self.baseline),
        ]
        for which, subject in models if done % 2 == 0 else models[::-1]:
            if subject is not None:
                solo = measure_solo(
                    self.target,
                    subject.path,
                    subject.feeds,
                    session=session,
                    processes=1,
                    seconds=seconds,
                    timeout=self.effort.timeout,
                )
                into.setdefault(which, []).append(solo)

    def _turns(self, baseline: Subject) -> None:
        """Processes that run both models in turn."""
        both = (baseline, self.candidate)
        session = self.session.model_copy(update={"spinning": False})
        once_ms = sum(solos[0].p50_ms for solos in self._alone.values())
        rounds = round(min(max(PATIENCE_MS / max(once_ms, 1e-6), ROUNDS[0]), ROUNDS[1]))
        with tempfile.TemporaryDirectory(prefix="mpo-bench-") as folder:
            paths, feeds = [one.path for one in both], [one.feeds for one in both]
            job = model_job(paths, feeds, Path(folder), session, self.effort.timeout)

            def one(done: int) -> None:
                # The model that is loaded first runs a little slower, so they take turns in that.
                order = [0, 1] if done % 2 == 0 else [1, 0]
                seconds = self.effort.seconds
                times, gpu = watched_turns(self.target, job, order, seconds, rounds, seed=done)
                self._pairs.append((times[0], times[1]))
                self._watched.append(gpu)

            rules = [rule for rule in self.rules if rule.metric == "latency"]
            self._until("in turn", one, rules, self.effort.looks[0], "latency")

    def _fit_together(self) -> bool:
        peaks = sum(max(one.peak_memory_bytes for one in solos) for solos in self._lean.values())
        return self.memory_bytes is None or peaks < TOGETHER * self.memory_bytes


def _process(solo: Solo) -> BenchProcess:
    return BenchProcess(
        load_ms=solo.load_ms,
        first_ms=solo.first_ms,
        device_p50_ms=solo.device_ms,
        p10_ms=percentile(solo.samples_ms, 0.1),
        p50_ms=solo.p50_ms,
        p90_ms=solo.p90_ms,
        samples=len(solo.samples_ms),
        steady=solo.steady,
        telemetry=solo.telemetry,
    )


def _memory(solo: Solo) -> BenchMemory:
    return BenchMemory(
        load_bytes=solo.load_memory_bytes,
        peak_bytes=solo.peak_memory_bytes,
        method=solo.memory_method,
    )


def _thinned(solos: Sequence[Solo]) -> tuple[float, ...]:
    samples = [sample for solo in solos for sample in solo.samples_ms]
    step = -(-len(samples) // KEPT)
    return tuple(samples[::step])
