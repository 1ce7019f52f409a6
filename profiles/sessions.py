"""Choose how a model is run: the options that lower peak memory at hardly any cost in latency.

Without a memory budget the runtime's defaults stand. With one, candidates are run on the target:
weights mapped from disk instead of copied, freed blocks given back to the system, no arena, a graph
that keeps the weights' own layout, no prepacked copies. benchmarks/peak_memory.py has what each of
them is worth; it depends on the model, hence the choice is measured.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpo.gate import ratio_interval
from mpo.profiles.baseline import baseline, median_bytes
from mpo.profiles.jobs import Target
from mpo.profiles.measure import PAIRS_NEEDED, Progress
from mpo.profiles.modeljobs import MEMORY_CALLS, Inputs, asking, measure_turns, model_job
from mpo.records import Ratio, SessionChoice, SessionOptions, SessionTrial

THRESHOLD = 131072  # glibc's own start value; given in the environment, it stays where it is
ALLOWED = 1.05  # of the default options' latency
GAIN = 0.99  # of a simpler candidate's peak: less of a gain is none
NOISE_BYTES = 524288  # by which the peaks of like processes differ
MEMORY_PROCESSES = 2
ROUNDS = 20  # of both options in turn in a process, at least
# From the simplest on; with mapped weights where there are any.
VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"mmap_threshold_bytes": THRESHOLD},
    {"mmap_threshold_bytes": THRESHOLD, "optimization": "extended"},
    {"mmap_threshold_bytes": THRESHOLD, "arena": False},
    {"mmap_threshold_bytes": THRESHOLD, "arena": False, "optimization": "extended"},
    {
        "mmap_threshold_bytes": THRESHOLD,
        "arena": False,
        "optimization": "extended",
        "prepacking": False,
    },
)
RULE = (
    f"Of all options whose latency is at most {ALLOWED:g} times that of the runtime's defaults, "
    f"those of the lowest peak memory; a gain below {1 - GAIN:.0%} or "
    f"{NOISE_BYTES / 1e6:.1f} MB counts as none."
)


def choose_session(
    target: Target,
    path: Path,
    inputs: Inputs,
    *,
    threads: int,
    wants_memory: bool,
    mapped: Path | None = None,
    seconds: float = 0.5,
    timeout: float = 300.0,
    progress: Progress | None = None,
) -> SessionChoice:
    """The options to run a model with, and all those that are derived from it.

    Args:
        path: the original model with its weights inside the file.
        inputs: arrays by input name, or the path of an .npz with them.
        threads: of one inference.
        wants_memory: whether a budget bounds memory; else the defaults are the answer, unmeasured.
        mapped: the same model with its weights in a file beside it; without it, `external_weights`
            is not among the options.
        seconds: of sampling per process where latency is compared.
        timeout: of one process, in seconds.
        progress: called with (candidates done, candidates in all).

    Raises:
        UsageError: inputs that are missing, or a target that cannot run the file yet.
        MpoError: a process failed, or the operating system tells no peak memory.
    """
    default = SessionOptions(device=target.device, threads=threads)
    if not wants_memory:
        return SessionChoice(session=default, leanest=default)
    options = candidates(default, mapped=mapped is not None)
    with tempfile.TemporaryDirectory(prefix="mpo-measure-") as name:
        work = _Work(target, path, mapped or path, inputs, Path(name), seconds, timeout)
        trials = []
        for done, session in enumerate(options):
            trials.append(work.weighed(session, default))
            if progress:
                progress(done + 1, len(options))
        ranked = by_peak(trials)
        for place in ranked:
            if place == 0:
                break
            ratio = work.compared(default, options[place])
            trials[place] = trials[place].model_copy(update={"latency": ratio})
            if ratio.estimate <= ALLOWED:
                break
    chosen, lean = options[place], options[ranked[0]]
    return SessionChoice(session=chosen, leanest=lean, rule=RULE, trials=tuple(trials))


def candidates(default: SessionOptions, *, mapped: bool) -> tuple[SessionOptions, ...]:
    """The options that are tried, simplest first; the defaults are the first."""
    tried = [default.model_copy(update=one | {"external_weights": mapped}) for one in VARIANTS]
    return (default, *(one for one in tried if one != default))


def by_peak(trials: Sequence[SessionTrial]) -> list[int]:
    """Places of the trials in the order in which they are worth trying: the leanest first, down to
    the defaults (place 0). Options that gain nothing over a part of themselves are left out."""
    first = trials[0].session.model_dump()
    changed = [
        {name for name, value in trial.session.model_dump().items() if value != first[name]}
        for trial in trials
    ]
    peaks = [trial.peak_memory_bytes for trial in trials]
    worth = [
        place
        for place in range(len(trials))
        if all(
            peaks[place] < min(GAIN * peaks[other], peaks[other] - NOISE_BYTES)
            for other in range(len(trials))
            if changed[other] < changed[place]
        )
    ]
    return sorted(worth, key=lambda place: (peaks[place], len(changed[place])))


def described(session: SessionOptions) -> dict[str, str]:
    """The options in words, for the environment of a report."""
    threshold = session.mmap_threshold_bytes
    return {
        "arena": _on(session.arena),
        "spinning": f"{_on(session.spinning)}; off where two models run in turn",
        "prepacking": _on(session.prepacking),
        "graph optimization": session.optimization,
        "MALLOC_MMAP_THRESHOLD_": "unset" if threshold is None else str(threshold),
        "weights": "mapped from a file beside" if session.external_weights else "inside the file",
        "memory": "VmHWM (sampled where there is none) above the same process with an empty model",
    }


def _on(value: bool) -> str:
    return "on" if value else "off"


@dataclass(frozen=True)
class _Work:
    """One model, inline and with mapped weights, on one target."""

    target: Target
    path: Path
    mapped: Path
    inputs: Inputs
    folder: Path
    seconds: float
    timeout: float

    def file(self, session: SessionOptions) -> Path:
        return self.mapped if session.external_weights else self.path

    def weighed(self, session: SessionOptions, default: SessionOptions) -> SessionTrial:
        """The peaks with these options, over the empty runtime with the defaults."""
        job = model_job([self.file(session)], [self.inputs], self.folder, session, self.timeout)
        job = asking(job, job="solo", seconds=0.0, floor=MEMORY_CALLS)
        runs = [self.target.run(job) for _ in range(MEMORY_PROCESSES)]
        load_floor, peak_floor = baseline(self.target, default)
        load = max(0.0, median_bytes(runs, "load_peak") - load_floor)
        peak = max(load, median_bytes(runs, "peak") - peak_floor)
        return SessionTrial(
            session=session, peak_memory_bytes=round(peak), load_memory_bytes=round(load)
        )

    def compared(self, default: SessionOptions, session: SessionOptions) -> Ratio:
        """Latency over the defaults', from processes that take turns with both.

        Each process has the malloc of the options in question, for both of its models: that alone
        was seen to cost nothing while the arena is on. Spinning is off, as in every pair. On one
        thread it is CPU time that counts: other load on the machine hardly disturbs it.
        """
        both = [one.model_copy(update={"spinning": False}) for one in (default, session)]
        models = [self.file(one) for one in both]
        job = model_job(models, [self.inputs] * 2, self.folder, both[1], self.timeout)
        dumps = [one.model_dump(mode="json") for one in both]
        job = asking(job, sessions=dumps)
        logs = []
        for turn in range(PAIRS_NEEDED):
            order = (0, 1) if turn % 2 == 0 else (1, 0)
            times = measure_turns(self.target, job, order, self.seconds, ROUNDS, seed=turn)
            logs.append(math.log(times[1] / times[0]))
        found = ratio_interval(logs)
        return Ratio(estimate=found.estimate, ci95=(found.low, found.high), pairs=len(logs))
