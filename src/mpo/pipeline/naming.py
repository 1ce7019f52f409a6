"""What `mpo bench` is asked, and the models that it names: read before anything is measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from mpo.errors import BaselineError, UsageError
from mpo.exporters.preflight import preflight
from mpo.gate import ALPHA_FAIL, wilcoxon_critical
from mpo.pipeline.baselines import model_file, read_bench
from mpo.pipeline.benchinputs import Feeds, described, fitting, make_feeds
from mpo.pipeline.comparing import sharing
from mpo.pipeline.graphs import (
    count_macs,
    count_nodes,
    count_params,
    data_files,
    read_model,
    wanted_inputs,
)
from mpo.pipeline.phases import Effort
from mpo.records import Bench, BenchSubject, Which
from mpo.rules import Rule
from mpo.store import RECIPE, sha256

InputsFrom = Literal["random", "file", "run"]


@dataclass(frozen=True)
class Asked:
    """What `mpo bench` is asked.

    Attributes:
        model: an ONNX file or a run folder.
        baseline: the same, or a record of an earlier bench; None without one.
        rules: that fail it.
        strict: an inconclusive rule fails too.
        targets: names.
        data: a subject whose test split judges quality; None without.
        inputs: shapes, or one .npz.
        batch: size of the free first axis.
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
    effort: Effort = field(default_factory=Effort)


@dataclass(frozen=True)
class Named:
    """The models that were named, with their inputs and what is known without measuring."""

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


def read_named(asked: Asked) -> Named:
    """Read what is named, before anything is measured.

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
    path = _looked_at(asked.model)
    feeds, source = _feeds(asked, path)
    candidate = describe_model("candidate", asked.model, path, feeds)
    if asked.baseline is None:
        return Named(candidate, feeds, path, None, {}, None, None, source)
    if asked.baseline.suffix == ".json":
        stored = read_bench(asked.baseline)
        old = stored.subject("candidate")
        other = old.model_copy(update={"id": "baseline"}) if old else None
        return Named(candidate, feeds, path, other, {}, None, stored, source)
    other_path = _looked_at(asked.baseline)
    other_feeds = _same_feeds(other_path, feeds, candidate)
    other = describe_model("baseline", asked.baseline, other_path, other_feeds)
    return Named(candidate, feeds, path, other, other_feeds, other_path, None, source)


def _looked_at(named: Path) -> Path:
    """The ONNX file that a path names, once the pre-flight has found it sound. The file of a run
    folder was loaded when it was made."""
    path = model_file(named)
    preflight(path, load=not named.is_dir())
    return path


def _feeds(asked: Asked, path: Path) -> tuple[Feeds, InputsFrom]:
    """The inputs, and where they come from."""
    wanted = wanted_inputs(read_model(path))
    if not asked.inputs and (asked.model / RECIPE).is_file():
        from mpo.pipeline.accuracy import run_samples  # torch: only here and for --data

        return fitting(wanted, run_samples(asked.model, path, asked.batch), "The run"), "run"
    kind: InputsFrom = "file" if asked.inputs and asked.inputs[0].endswith(".npz") else "random"
    return make_feeds(wanted, asked.inputs, asked.batch), kind


def _same_feeds(path: Path, feeds: Feeds, candidate: BenchSubject) -> Feeds:
    """The candidate's inputs under the baseline's names, in the files' order.

    Raises:
        BaselineError: the baseline does not take them.
    """
    wanted = wanted_inputs(read_model(path))
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
            f"The baseline {path} does not take the inputs of {candidate.path}: {error.message}",
            hint=error.hint or "Compare models of one and the same interface.",
        ) from error


def _as_float(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    """The same values in the other model's floating type: a half-precision model is compared with
    the model that it came from."""
    floats = array.dtype.kind == "f" and dtype in ("float16", "float32", "float64")
    return array.astype(dtype) if floats else array


def describe_model(which: Which, named: Path, path: Path, feeds: Feeds) -> BenchSubject:
    """What needs no measuring.

    Raises:
        UsageError: no such file, or a data file of it is missing.
        MpoError: no ONNX model.
    """
    model = read_model(path)
    files = (path, *data_files(path, model))
    inputs = described(feeds)
    return BenchSubject(
        id=which,
        path=str(named),
        sha256=sha256(path),
        bytes=sum(file.stat().st_size for file in files),
        params=count_params(model),
        nodes=count_nodes(model.graph),
        macs=count_macs(model, {one.name: one.shape for one in inputs}),
        inputs=inputs,
    )
