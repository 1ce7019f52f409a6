"""`mpo.bench`: measure a model, compare it, judge it; without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mpo.api.quiet import silent
from mpo.errors import UsageError
from mpo.gate import LOOKS
from mpo.pipeline.bench.benching import bench as measure
from mpo.pipeline.bench.naming import Asked
from mpo.pipeline.bench.phases import Effort, Progress
from mpo.records import Bench
from mpo.rules import parse_rules

FEWEST = 3  # processes of a model alone


def bench(
    model: str | Path,
    baseline: str | Path | None = None,
    fail_on: str | Sequence[str] = (),
    *,
    strict: bool = False,
    target: str | Sequence[str] = "local",
    data: str | None = None,
    inputs: str | Sequence[str] = (),
    batch: int | None = None,
    threads: int = 0,
    runner: str | None = None,
    trust: str | Sequence[str] = (),
    seconds: float = 1.0,
    processes: int = 5,
    pairs: int = 40,
    timeout: float = 300.0,
    progress: Progress = silent,
) -> Bench:
    """Measure an ONNX file or a run folder in fresh processes, beside a baseline when one is named.

    Args:
        model: an ONNX file, or a run folder.
        baseline: the same, measured beside; or the JSON record of an earlier bench.
        fail_on: rules such as "latency>3%,size>0", or several such texts.
        strict: what stays inconclusive fails too.
        target: "local", "ssh://host", or several.
        data: a subject whose test split and metric judge quality.
        inputs: shapes ("1x3x224x224", "ids=1x16:int"), or one .npz; random by default.
        batch: size of the free first axis.
        threads: of one inference; 0 takes the target's physical cores.
        runner: that executes both, of `mpo doctor`'s list; the file's suffix decides when None.
        trust: sha256 of engines that may be loaded: they are native code.
        seconds: of sampling in each process.
        processes: each model alone in so many, at least.
        pairs: at most; 8 to 40.
        timeout: seconds that one process may take.
        progress: called with (what, done, total).

    Returns:
        The record. A regression is no exception: `verdict` is "pass", "fail", "inconclusive" or
        "not-gated", and `exit_code` what the command would end with.

    Raises:
        UsageError: nothing there, rules that need what is not given, inputs that do not fit.
        BaselineError: a baseline that cannot be compared.
        MpoError: a model that is broken, a process that failed.
    """
    if seconds <= 0 or processes < FEWEST or not LOOKS[0] <= pairs <= LOOKS[-1]:
        raise UsageError(
            f"{seconds:g} s in {processes} processes and {pairs} pairs measure nothing.",
            hint=f"At least {FEWEST} processes, {LOOKS[0]} to {LOOKS[-1]} pairs, more than 0 s.",
        )
    texts = _several(fail_on)
    asked = Asked(
        model=Path(model),
        baseline=None if baseline is None else Path(baseline),
        rules=parse_rules(",".join(texts)) if texts else (),
        strict=strict,
        targets=_several(target) or ("local",),
        data=data,
        inputs=_several(inputs),
        batch=batch,
        threads=threads,
        runner=runner,
        trusted=_several(trust),
        effort=Effort(seconds=seconds, processes=processes, pairs=pairs, timeout=timeout),
    )
    return measure(asked, progress)


def _several(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)
