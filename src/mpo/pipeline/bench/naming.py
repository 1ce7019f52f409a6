"""What `mpo bench` is asked, and the models that it names: read before anything is measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from mpo.bundle.reader import is_bundle, open_bundle
from mpo.errors import BaselineError, UsageError
from mpo.exporters.preflight import preflight
from mpo.gate import ALPHA_FAIL, wilcoxon_critical
from mpo.pipeline.bench.baselines import model_file, read_bench
from mpo.pipeline.bench.comparing import sharing
from mpo.pipeline.bench.formats import RUNNERS, File, describe, read_file, runner_of
from mpo.pipeline.bench.inputs import Feeds, fitting, make_feeds
from mpo.pipeline.bench.phases import Effort
from mpo.profiles.modeljobs import ONNX
from mpo.records import Bench, BenchSubject
from mpo.replacing import RECIPE
from mpo.rules import Rule

InputsFrom = Literal["random", "file", "run"]


@dataclass(frozen=True)
class Asked:
    """What `mpo bench` is asked.

    Attributes:
        model: an ONNX file, a run folder, an edge bundle, or a file of another runner.
        baseline: the same, or a record of an earlier bench; None without one.
        rules: that fail it.
        strict: an inconclusive rule fails too.
        targets: names.
        data: a subject whose test split judges quality; None without.
        inputs: shapes, or one .npz.
        batch: size of the free first axis.
        runner: of the exporters' registry, which executes both models; the file's suffix decides
            when None.
        trusted: sha256 of engines that may be loaded.
        threads: of one inference; 0 takes the target's physical cores.
        effort: how much is measured.
    """

    model: Path
    baseline: Path | None = None
    rules: tuple[Rule, ...] = ()
    strict: bool = False
    targets: tuple[str, ...] = ("local",)
    data: str | None = None
    inputs: tuple[str, ...] = ()
    batch: int | None = None
    threads: int = 0
    runner: str | None = None
    trusted: tuple[str, ...] = ()
    effort: Effort = field(default_factory=Effort)


@dataclass(frozen=True)
class Named:
    """The models that were named, with their inputs and what is known without measuring."""

    runner: str
    candidate: BenchSubject
    feeds: Feeds
    path: Path
    other: BenchSubject | None
    other_feeds: Feeds
    other_path: Path | None
    stored: Bench | None
    source: InputsFrom


def asked_together(asked: Asked, named: Named) -> int:
    """How many questions are put to noise at once."""
    targets = len(dict.fromkeys(asked.targets))
    return sharing(asked.rules, targets, stored=named.stored is not None)


def require_pairs(asked: Asked, named: Named) -> None:
    """Refuse a gate that could never fail.

    Raises:
        UsageError: so few pairs confirm nothing for so many rules.
    """
    shared = asked_together(asked, named)
    if shared and wilcoxon_critical(asked.effort.looks[-1], ALPHA_FAIL / shared) < 0:
        raise UsageError(
            f"{asked.effort.looks[-1]} pairs cannot confirm a regression when {shared} rules on "
            "latency and memory are asked together.",
            hint="Allow more with --pairs 12, or gate fewer metrics.",
        )


def read_named(asked: Asked, scratch: Path) -> Named:
    """Read what is named, before anything is measured.

    Args:
        scratch: an empty folder for the models of bundles, which must outlive their measurement.

    Raises:
        UsageError: nothing there, no ONNX model, rules that need what is not given, inputs that do
            not fit.
        BaselineError: a baseline of another interface.
        RefusedError: a model that reaches for what it must not have.
    """
    needing = [rule for rule in asked.rules if rule.needs_baseline]
    if needing and asked.baseline is None:
        raise UsageError(
            f"{needing[0].text!r} compares with a baseline, and none is given.",
            hint="Name one with --baseline, or write an absolute limit: latency.p90>12ms.",
        )
    if not asked.data and any(rule.source == "quality" for rule in asked.rules):
        raise UsageError("A rule on accuracy needs data.", hint="Name a subject file with --data.")
    path = _looked_at(asked.model, scratch / "candidate")
    runner = runner_of(path, asked.runner)
    _require_onnx_for_data(asked, runner)
    file = read_file(path, runner, asked.trusted)
    feeds, source = _feeds(asked, file)
    candidate = describe("candidate", asked.model, file, feeds)
    if asked.baseline is None:
        return Named(runner, candidate, feeds, path, None, {}, None, None, source)
    if asked.baseline.suffix == ".json":
        stored = read_bench(asked.baseline)
        old = stored.subject("candidate")
        other = old.model_copy(update={"id": "baseline"}) if old else None
        return Named(runner, candidate, feeds, path, other, {}, None, stored, source)
    other_file = read_file(_looked_at(asked.baseline, scratch / "baseline"), runner, asked.trusted)
    other_feeds = _same_feeds(other_file, feeds, candidate)
    other = describe("baseline", asked.baseline, other_file, other_feeds)
    return Named(runner, candidate, feeds, path, other, other_feeds, other_file.path, None, source)


def _looked_at(named: Path, scratch: Path) -> Path:
    """The file that a path names: a bundle's once its bytes are what its manifest says, an ONNX
    file once the pre-flight has found it sound. The file of a run folder was loaded when it was
    made; other formats are opened in children only."""
    if is_bundle(named):
        with open_bundle(named) as bundle:
            bundle.verify()
            path = bundle.unpack_model(scratch)
    else:
        path = model_file(named)
    if path.suffix not in RUNNERS:
        preflight(path, load=not named.is_dir())
    return path


def _require_onnx_for_data(asked: Asked, runner: str) -> None:
    if asked.data and runner != ONNX:
        raise UsageError(
            f"--data judges ONNX files; {asked.model} is run by {runner}.",
            hint="Judge the ONNX file that it was made from, and bench this one without --data.",
        )


def _feeds(asked: Asked, file: File) -> tuple[Feeds, InputsFrom]:
    """The inputs, and where they come from."""
    if not asked.inputs and (asked.model / RECIPE).is_file():
        from mpo.pipeline.bench.accuracy import run_samples  # torch: only here and for --data

        samples = run_samples(asked.model, file.path, asked.batch)
        return fitting(file.wanted, samples, "The run"), "run"
    kind: InputsFrom = "file" if asked.inputs and asked.inputs[0].endswith(".npz") else "random"
    return make_feeds(file.wanted, asked.inputs, asked.batch), kind


def _same_feeds(file: File, feeds: Feeds, candidate: BenchSubject) -> Feeds:
    """The candidate's inputs under the baseline's names, in the files' order.

    Raises:
        BaselineError: the baseline does not take them.
    """
    wanted = file.wanted
    arrays = list(feeds.values())
    try:
        if len(wanted) != len(arrays):
            raise UsageError(f"it takes {len(wanted)} inputs, the candidate {len(arrays)}")
        if {one.name for one in wanted} == set(feeds):
            arrays = [feeds[one.name] for one in wanted]
        renamed = {
            one.name: _as_float(array, one.dtype) for one, array in zip(wanted, arrays, strict=True)
        }
        return fitting(wanted, renamed, "the candidate")
    except UsageError as error:
        raise BaselineError(
            f"The baseline {file.path} does not take the inputs of {candidate.path}: "
            f"{error.message}",
            hint=error.hint or "Compare models of one and the same interface.",
        ) from error


def _as_float(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    """The same values in the other model's floating type: a half-precision model is compared with
    the model that it came from."""
    floats = array.dtype.kind == "f" and dtype in ("float16", "float32", "float64")
    return array.astype(dtype) if floats else array
