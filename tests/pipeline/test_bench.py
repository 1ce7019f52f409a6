"""A release workflow through the command line: every exit code, with real files and processes.

Where a verdict would hang on how busy the machine is, a target answers the timing jobs from a
script; all other jobs run for real.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from jsonschema import Draft202012Validator

from mpo.cli import cli
from mpo.profiles.jobs import Job
from mpo.records import Bench
from mpo.schemas import load

Answer = Callable[[Job], dict[str, Any] | None]


def run(model: Path, *options: str | Path) -> Result:
    quick = ["--threads", "1", "--seconds", "0.05", "--processes", "3", "--pairs", "8"]
    return CliRunner().invoke(cli, ["bench", str(model), *quick, *map(str, options)])


def record(result: Result, path: Path) -> Bench:
    assert path.is_file(), result.output
    text = path.read_text()
    Draft202012Validator(load("bench")).validate(json.loads(text))
    json.loads(text, parse_constant=pytest.fail)
    return Bench.model_validate_json(text)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, tiny: ModuleType) -> Callable[[Answer], Any]:
    """Let a script answer some of the jobs."""

    def install(answer: Answer) -> Any:
        target = tiny.Scripted(answer)

        @contextlib.contextmanager
        def opened(names: Any) -> Iterator[Any]:
            yield (target,)

        monkeypatch.setattr("mpo.pipeline.bench.benching.opened", opened)
        return target

    return install


def turns(logs: list[float]) -> Answer:
    """p10 of (baseline, candidate) in processes that ran both in turn: ln(candidate / baseline)."""
    left = list(logs)

    def answer(job: Job) -> dict[str, Any] | None:
        if job.request.get("job") != "turns":
            return None
        ratio = math.exp(left.pop(0))
        return {"p10_ms": [ratio if "candidate" in name else 1.0 for name in job.request["models"]]}

    return answer


@pytest.fixture
def pair(tiny: ModuleType, tmp_path: Path) -> tuple[Path, Path]:
    """(baseline, candidate): two files with one and the same work."""
    return tiny.chain(tmp_path / "baseline.onnx", 4), tiny.chain(tmp_path / "candidate.onnx", 4)


QUIET = list(np.linspace(-0.004, 0.004, 40))
WIDE = [0.12, -0.08, 0.1, -0.06, 0.07, -0.09, 0.05, -0.03] * 5


def test_a_regression_is_found_for_real_with_every_report_beside_it(
    tiny: ModuleType, tmp_path: Path
) -> None:
    old, new = tiny.chain(tmp_path / "old.onnx", 2), tiny.chain(tmp_path / "new.onnx", 6)
    files = {name: tmp_path / f"out/{name}" for name in ("json", "junit", "markdown", "bmf")}
    result = run(
        new, "--baseline", old, "--fail-on", "latency>3%,size>0", "--batch", "48", "-q",
        *(part for name, path in files.items() for part in (f"--{name}", path)),
    )  # fmt: skip
    assert result.exit_code == 4, result.output
    found = record(result, files["json"])
    latency, size = found.comparisons[:2]
    assert (latency.verdict, latency.pairing, latency.pairs) == ("fail", "in-process", 8)
    assert latency.estimate is not None
    assert latency.estimate > 50
    assert size.verdict == "fail"
    assert found.subjects[0].macs == 3 * (found.subjects[1].macs or 0) == 6 * 48 * 96 * 96
    assert {one.name for one in found.metrics} >= {"latency.p50", "latency.load", "memory", "size"}
    assert all(path.stat().st_size for path in files.values())
    assert found.places[0].batch == 48
    assert result.output == ""


def test_the_same_work_passes_for_real(pair: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = pair
    result = run(
        new, "--baseline", old, "--fail-on", "latency>60%,size>0,nodes>0,macs>0", "--batch", "48",
        "--json", tmp_path / "b.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "Pass: 4 rules: 4 passed" in result.output
    assert "pairs in turn" in result.output
    found = record(result, tmp_path / "b.json")
    assert [one.verdict for one in found.comparisons[:4]] == ["pass"] * 4
    assert "torch" not in found.seconds


@pytest.mark.case(62)
def test_a_broken_model_is_bad_input_and_one_that_does_not_run_a_failure_of_measuring(
    tiny: ModuleType, tmp_path: Path, scripted: Callable[[Answer], Any]
) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model at all")
    result = run(path, "--junit", tmp_path / "b.xml")
    assert result.exit_code == 2
    assert "no ONNX model" in result.output
    assert 'type="measurement"' in (tmp_path / "b.xml").read_text()
    from onnx import helper

    odd = tiny.save(tmp_path / "odd.onnx", [helper.make_node("Nonsense", ["x"], ["y"])], {"x": [2]})
    result = run(odd)
    assert result.exit_code == 1, result.output
    assert "odd.onnx ended with code 1" in result.output


def test_a_model_or_a_baseline_with_weights_elsewhere_is_refused_before_anything_runs(
    pair: tuple[Path, Path], tmp_path: Path, scripted: Callable[[Answer], Any]
) -> None:
    from tests.exporters.crafted import outside, save

    (tmp_path / "w.bin").write_bytes(bytes(32))
    (tmp_path / "models").mkdir()
    evil = save(outside("../w.bin"), tmp_path / "models" / "m.onnx")
    for arguments in ((evil,), (pair[0], "--baseline", evil)):
        result = run(*arguments)
        assert result.exit_code == 8, result.output
        assert "outside of its own folder" in result.output
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["m.onnx"]


def test_what_stays_open_passes_with_a_warning_and_fails_under_strict(
    pair: tuple[Path, Path],
    tmp_path: Path,
    tiny: ModuleType,
    scripted: Callable[[Answer], Any],
) -> None:
    old, new = pair

    def measure(*options: str) -> Result:
        noisy = turns(WIDE)
        scripted(lambda job: noisy(job) or tiny.quiet_solo(job))
        return run(new, "--baseline", old, "--fail-on", "latency>3%", *options)

    strict = measure("--strict", "--json", str(tmp_path / "b.json"))
    assert strict.exit_code == 5, strict.output
    found = record(strict, tmp_path / "b.json")
    assert "cannot-resolve" in {one.code for one in found.warnings}
    loose = measure()
    assert loose.exit_code == 0
    assert "INCONCLUSIVE" in loose.output


def test_more_pairs_are_measured_until_the_rule_is_decided(
    pair: tuple[Path, Path],
    tmp_path: Path,
    tiny: ModuleType,
    scripted: Callable[[Answer], Any],
) -> None:
    old, new = pair
    logs = turns([*WIDE[:4], *[0.0] * 36])
    target = scripted(lambda job: logs(job) or tiny.quiet_solo(job))
    result = run(
        new, "--baseline", old, "--fail-on", "latency>3%", "--pairs", "40", "--json",
        tmp_path / "b.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = record(result, tmp_path / "b.json").comparisons[0]
    assert (found.verdict, found.pairs) == ("pass", 20)
    assert target.asked.count("turns") == 20
    assert target.asked.count("solo") == 2 * (3 + 3)  # memory, alone


def stored(
    pair: tuple[Path, Path],
    tmp_path: Path,
    tiny: ModuleType,
    scripted: Callable[[Answer], Any],
) -> Path:
    """A record of the baseline, measured on a quiet machine."""
    scripted(tiny.quiet_solo)
    path = tmp_path / "stored.json"
    assert run(pair[0], "--json", path).exit_code == 0
    return path


def test_a_baseline_of_another_machine_is_not_compared(
    pair: tuple[Path, Path],
    tmp_path: Path,
    tiny: ModuleType,
    scripted: Callable[[Answer], Any],
) -> None:
    path = stored(pair, tmp_path, tiny, scripted)
    raw = json.loads(path.read_text())
    raw["places"][0]["fingerprint"] = "0" * 64
    raw["places"][0]["device"]["cpu"]["model"] = "Another CPU"
    path.write_text(json.dumps(raw))
    result = run(pair[1], "--baseline", path, "--fail-on", "latency>3%")
    assert result.exit_code == 6, result.output
    assert "cpu model Another CPU, now" in result.output
    assert "hint: Name the baseline's model" in result.output
    # What has no noise is the same on every machine.
    exact = run(pair[1], "--baseline", path, "--fail-on", "size>0,params>0,macs>0")
    assert exact.exit_code == 0, exact.output


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"protocol": {"id": "older/1"}}, "protocol older/1"),
        ({"places": [{"batch": 7}]}, "batch 7, now 1"),
        ({"places": [{"session": {"threads": 3}}]}, "threads 3, now 1"),
        ({"places": [{"target": "ssh://else"}]}, "not measured on scripted"),
        ({"subjects": [{"inputs": [{"shape": [9, 96]}]}]}, "inputs x 9x96 float32"),
    ],
)
def test_a_baseline_measured_otherwise_is_not_compared(
    pair: tuple[Path, Path],
    tmp_path: Path,
    tiny: ModuleType,
    scripted: Callable[[Answer], Any],
    change: dict[str, Any],
    said: str,
) -> None:
    path = stored(pair, tmp_path, tiny, scripted)
    raw = json.loads(path.read_text())

    def merge(into: Any, given: Any) -> None:
        for key, value in given.items() if isinstance(given, dict) else enumerate(given):
            if isinstance(value, dict | list) and key != "shape":
                merge(into[key], value)
            else:
                into[key] = value

    merge(raw, change)
    path.write_text(json.dumps(raw))
    result = run(pair[1], "--baseline", path, "--fail-on", "latency>3%")
    assert result.exit_code == 6, result.output
    assert said in result.output


def test_a_stored_baseline_decides_only_what_no_drift_explains(
    pair: tuple[Path, Path],
    tmp_path: Path,
    tiny: ModuleType,
    scripted: Callable[[Answer], Any],
) -> None:
    path = stored(pair, tmp_path, tiny, scripted)

    def measure(slower: float, limit: str, memory: int = 20 * 2**20) -> Result:
        scripted(lambda job: tiny.quiet_solo(job, slower=slower, memory=memory))
        rules = f"latency>{limit},memory>2%"
        return run(pair[1], "--baseline", path, "--fail-on", rules, "--strict")

    same = measure(0.0, "3%")
    assert same.exit_code == 5, same.output
    assert "Against a stored figure" in " ".join(same.output.split())
    assert measure(0.0, "10%").exit_code == 0
    assert measure(0.25, "10%").exit_code == 4
    assert measure(0.0, "10%", memory=24 * 2**20).exit_code == 4


def test_absolute_limits_need_no_baseline(
    pair: tuple[Path, Path],
    tmp_path: Path,
    tiny: ModuleType,
    scripted: Callable[[Answer], Any],
) -> None:
    scripted(tiny.quiet_solo)
    rules = "latency.p90>12ms,memory>50MB,size>1MB"
    held = run(pair[1], "--fail-on", rules, "--pairs", "12")
    assert held.exit_code == 0, held.output
    assert run(pair[1], "--fail-on", "latency>0.5ms").exit_code == 4
    assert run(pair[1], "--fail-on", "memory>1MB").exit_code == 4
    assert run(pair[1], "--fail-on", "size>1kB").exit_code == 4


def test_memory_and_solo_latency_are_gated_by_pairs_of_processes(
    pair: tuple[Path, Path],
    tmp_path: Path,
    tiny: ModuleType,
    scripted: Callable[[Answer], Any],
) -> None:
    old, new = pair
    same = turns(QUIET)

    def answer(job: Job) -> dict[str, Any] | None:
        ballast = 22 if "candidate" in str(job.request.get("models")) else 20
        return same(job) or tiny.quiet_solo(job, slower=0.2, memory=ballast * 2**20)

    scripted(answer)
    result = run(
        new, "--baseline", old, "--fail-on", "memory>2%", "--fail-on", "latency.p50>3%",
        "--pairs", "12", "--json", tmp_path / "b.json",
    )  # fmt: skip
    assert result.exit_code == 4, result.output
    memory, p50 = record(result, tmp_path / "b.json").comparisons[:2]
    assert (memory.verdict, memory.pairing, memory.pairs) == ("fail", "process", 12)
    assert memory.estimate == pytest.approx(100 * (21 / 19 - 1))
    assert (p50.verdict, p50.pairs) == ("fail", 12)
    assert "alone-differs" in {one.code for one in record(result, tmp_path / "b.json").warnings}


def test_models_that_do_not_fit_together_are_compared_by_processes(
    pair: tuple[Path, Path],
    tmp_path: Path,
    tiny: ModuleType,
    scripted: Callable[[Answer], Any],
) -> None:
    target = scripted(lambda job: tiny.quiet_solo(job, slower=0.2, memory=2**50))
    result = run(
        pair[1], "--baseline", pair[0], "--fail-on", "latency>3%", "--json", tmp_path / "b.json"
    )
    assert result.exit_code == 4, result.output
    found = record(result, tmp_path / "b.json").comparisons[0]
    assert (found.pairing, found.pairs) == ("process", 8)
    assert "turns" not in target.asked


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--fail-on", "latncy>3%"], "Did you mean 'latency'"),
        (["--fail-on", "latency>3%"], "none is given"),
        (["--fail-on", "accuracy<0.9"], "needs data"),
        (["--baseline", "none.onnx"], "no file none.onnx"),
        (["--target", "nowhere"], "'nowhere' is no target"),
        (["--input", "1x2x3"], "of shape 1x2x3"),
        (["--fail-on", "latency>9ms,memory>9MB"], "8 pairs cannot confirm"),
    ],
)
def test_bad_usage_is_told_before_anything_is_measured(
    pair: tuple[Path, Path], options: list[str], said: str
) -> None:
    result = run(pair[1], *options)
    assert result.exit_code == 2, result.output
    assert said in result.output
    assert "hint: " in result.output


def test_a_half_precision_model_is_compared_with_its_origin(
    tiny: ModuleType, tmp_path: Path, scripted: Callable[[Answer], Any]
) -> None:
    from onnx import TensorProto, helper

    files = []
    for name, kind in (("baseline", TensorProto.FLOAT), ("candidate", TensorProto.FLOAT16)):
        nodes = [helper.make_node("Tanh", ["x"], ["y"])]
        files.append(tiny.save(tmp_path / f"{name}.onnx", nodes, {"x": [2, 3]}, kind=kind))
    even = turns(QUIET)
    scripted(lambda job: even(job) or tiny.quiet_solo(job))
    result = run(files[1], "--baseline", files[0], "--json", tmp_path / "b.json")
    assert result.exit_code == 0, result.output
    kinds = [one.inputs[0].dtype for one in record(result, tmp_path / "b.json").subjects]
    assert kinds == ["float16", "float32"]


def test_models_of_different_interfaces_are_not_compared(
    pair: tuple[Path, Path], tiny: ModuleType, tmp_path: Path
) -> None:
    fixed = tiny.chain(tmp_path / "fixed.onnx", 4, rows=3)
    result = run(pair[1], "--baseline", fixed)
    assert result.exit_code == 6, result.output
    assert "does not take the inputs" in result.output


@pytest.mark.parametrize(
    ("text", "code"), [("{}", 2), ("no json", 2), ('{"schema": "mpo.bench/1"}', 6)]
)
def test_a_baseline_that_is_no_record(
    pair: tuple[Path, Path], tmp_path: Path, text: str, code: int
) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    result = run(pair[1], "--baseline", path)
    assert result.exit_code == code, result.output


def test_quality_is_measured_on_the_same_files_and_gated(
    tmp_path: Path, tiny: ModuleType, scripted: Callable[[Answer], Any], monkeypatch: Any
) -> None:
    subject = Path(__file__).parents[1] / "subjects" / "tiny.py"
    from mpo.exporters.onnx import export_onnx
    from mpo.optimizer.files.loading import load_subject

    loaded = load_subject(str(subject))
    model = loaded.build()
    batch = next(iter(loaded.splits().test))
    export_onnx(model, batch.args, {}, tmp_path / "baseline.onnx")
    for parameter in list(model.parameters())[-1:]:
        parameter.data[0] += 3.0  # one class is favoured
    export_onnx(model, batch.args, {}, tmp_path / "candidate.onnx")
    even = turns(QUIET)
    scripted(lambda job: even(job) or tiny.quiet_solo(job))
    result = run(
        tmp_path / "candidate.onnx", "--baseline", tmp_path / "baseline.onnx", "--data", subject,
        "--fail-on", "accuracy<-0.5pp", "--json", tmp_path / "b.json",
    )  # fmt: skip
    assert result.exit_code == 4, result.output
    found = record(result, tmp_path / "b.json")
    change = found.comparisons[0]
    old, new = found.quality["baseline"], found.quality["candidate"]
    assert old.value > new.value > 0.3
    assert change.estimate == pytest.approx(100 * (new.value - old.value))
    assert (change.unit, change.limit) == ("pp", -0.5)
    same = run(
        tmp_path / "baseline.onnx", "--data", subject, "--fail-on", "accuracy<0.5,latency>1s"
    )
    assert same.exit_code == 0, same.output
    wrong = run(tmp_path / "baseline.onnx", "--data", subject, "--fail-on", "accuracy>0.5")
    assert wrong.exit_code == 2
    assert "more accuracy is better" in wrong.output


def test_a_github_job_gets_summary_outputs_and_annotations(
    pair: tuple[Path, Path],
    tmp_path: Path,
    tiny: ModuleType,
    scripted: Callable[[Answer], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    (tmp_path / "summary.md").write_text("before\n")
    slow = turns([0.3 + value for value in QUIET])
    scripted(lambda job: slow(job) or tiny.quiet_solo(job))
    evil = tmp_path / "candidate::error::,|`x`\n::set-output name=a::b.onnx"
    evil.write_bytes(pair[1].read_bytes())
    options = ("--baseline", pair[0], "--fail-on", "latency>3%", "--json", "-")
    result = run(evil, *options)
    assert result.exit_code == 4, result.output
    json.loads(result.stdout)
    lines = result.stderr.splitlines()
    commands = [line for line in lines if line.startswith("::")]
    assert [line.split("::")[1].split(" ")[0] for line in commands[:1]] == ["stop-commands"]
    token = commands[0].removeprefix("::stop-commands::")
    assert commands[1] == f"::{token}::"
    assert len(commands) == 3
    assert commands[2].startswith("::error title=latency>3%25 failed::")
    assert "set-output" in commands[2]
    assert "\n" not in commands[2]
    summary = (tmp_path / "summary.md").read_text()
    assert summary.startswith("before\n# ❌ Regression")
    assert not [line for line in summary.splitlines() if line.startswith("::")]
    output = (tmp_path / "output").read_text().splitlines()
    delimiter = output[0].partition("<<")[2]
    assert output[:3] == [f"verdict<<{delimiter}", "fail", delimiter]
    assert len(delimiter) > 32


def test_a_bench_needs_no_torch(tmp_path: Path, tiny: ModuleType) -> None:
    import subprocess

    code = "import sys; import mpo.pipeline.bench.benching, mpo.render.bench, mpo.cli; "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
