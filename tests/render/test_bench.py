"""What a bench looks like: terminal, Markdown, JUnit, annotations, trackers; names are hostile."""

from __future__ import annotations

import io
import json
import re
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from mpo.errors import MpoError
from mpo.records import (
    Bench,
    BenchComparison,
    BenchInput,
    BenchMetric,
    BenchPlace,
    BenchProtocol,
    BenchRuns,
    BenchSubject,
    BenchVerdict,
    Cpu,
    Device,
    DeviceWarning,
    SessionOptions,
    Which,
)
from mpo.render.bench import change_text, markdown, terminal
from mpo.render.bmf import bencher, smaller_is_better
from mpo.render.ci import (
    MOST_ANNOTATIONS,
    cut,
    error_annotation,
    outputs,
    summary,
    workflow_commands,
)
from mpo.render.junit import junit, junit_error
from tests.render.junitschema import check_junit

HOSTILE = (
    "m\n::set-output name=x::y|`<img src=x onerror=1>[a](http://e)@all,:%]]>\x1b[2J\u202e\x00\ufffe"
)


def comparison(
    verdict: BenchVerdict, rule: str = "latency>3%", target: str = "local"
) -> BenchComparison:
    estimate = {"fail": 4.8, "pass": 0.1, "inconclusive": 3.1, "not-gated": 1.0}[verdict]
    return BenchComparison(
        metric="latency", target=target, rule=rule, unit="%", limit=3.0, estimate=estimate,
        low=estimate - 1.3, high=estimate + 1.6, pairs=8, sd_log=0.01, mde=4.2,
        pairing="in-process", verdict=verdict,
    )  # fmt: skip


def subject(which: Which, path: str) -> BenchSubject:
    return BenchSubject(
        id=which, path=path, sha256="0" * 64, bytes=1000, params=10, nodes=3, macs=None,
        inputs=(BenchInput(name="x", shape=(1, 3), dtype="float32"),),
    )  # fmt: skip


def bench_of(
    *comparisons: BenchComparison,
    path: str = "new.onnx",
    target: str = "local",
    strict: bool = False,
) -> Bench:
    found = {one.verdict for one in comparisons if one.rule}
    order: tuple[BenchVerdict, ...] = ("fail", "inconclusive", "pass")
    verdict: BenchVerdict = next((one for one in order if one in found), "not-gated")
    session = SessionOptions()
    place = BenchPlace(
        target=target, fingerprint="f" * 64, session=session, memory_session=session, batch=1,
        device=Device(arch="x86_64", os="Linux", cpu=Cpu(model=path, cores=2)),
    )  # fmt: skip
    metrics = tuple(
        BenchMetric(
            name=name, unit=unit, subject=which, target="" if name == "size" else target,
            value=value, ci95=(0.9 * value, 1.1 * value) if unit == "ms" else None,
        )
        for which in ("candidate", "baseline")
        for name, unit, value in (
            ("latency.p50", "ms", 1.25), ("size", "B", 1000.0), ("throughput", "1/s", 800.0)
        )
    )  # fmt: skip
    codes = {"fail": 4, "inconclusive": 5 if strict else 0}
    return Bench(
        run_id="r", created="2026-11-21T04:52:00+00:00", tool={"name": "mpo", "version": "1"},
        places=(place,), subjects=(subject("candidate", path), subject("baseline", "old.onnx")),
        baseline="model", runs=(BenchRuns(target=target, alone={}, memory={}, samples_ms={}),),
        protocol=BenchProtocol(
            id="p/1", looks=(8,), alpha_fail=0.005, alpha_pass=0.0125, seconds=1.0,
            inputs="random", seed=0,
        ),
        metrics=metrics, comparisons=comparisons, seconds={"alone": 3.0},
        warnings=(DeviceWarning(code="busy", detail=f"{path} is busy.", remedy="Wait."),),
        strict=strict, verdict=verdict, exit_code=codes.get(verdict, 0),
    )  # fmt: skip


def printed(bench: Bench, width: int = 110) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(terminal(bench))
    return out.getvalue()


def test_the_terminal_tells_figures_rules_and_why_in_a_few_lines() -> None:
    text = printed(bench_of(comparison("fail"), comparison("pass", "memory>2%")))
    assert "Regression: 2 rules: 1 failed, 1 passed" in text
    assert re.search(r"Latency p50 +1.25 ms ± 10 % +1.25 ms ± 10 % +\+4.8 % \[\+3.5, \+6.4\]", text)
    assert "8 pairs in turn; +4.2 % would be confirmed 9 times in 10" in text
    assert len(text.splitlines()) <= 12


def test_without_rules_nothing_is_judged() -> None:
    text = printed(bench_of(comparison("not-gated", "")))
    assert "rule" not in text
    assert "+1.0 %" in text


def test_an_absolute_figure_keeps_its_unit_and_an_unbounded_one_says_so() -> None:
    one = comparison("fail").model_copy(update={"unit": "ms", "estimate": 12.5, "low": None})
    assert change_text(one) == "12.5 ms [≤ 6.4 ms]"
    assert change_text(one.model_copy(update={"high": None})) == "12.5 ms"
    assert change_text(one.model_copy(update={"estimate": None})) == "-"


def test_markdown_holds_no_markup_of_a_name() -> None:
    text = markdown(bench_of(comparison("fail"), path=HOSTILE, target=HOSTILE))
    bare = re.sub(r"(`+).*?\1", "", text)
    assert "<img" not in bare.replace("\\<img", "")
    assert "](" not in bare.replace("\\](", "").replace("]\\(", "")
    assert "@all" not in bare
    assert not [line for line in text.splitlines() if line.startswith("::")]
    assert "\x1b" not in text
    assert "\u202e" not in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {5}


@pytest.mark.parametrize("strict", [False, True])
def test_junit_has_a_case_for_each_rule_and_every_server_can_read_it(strict: bool) -> None:
    three = [comparison("fail"), comparison("pass", "size>0"), comparison("inconclusive", "a>1%")]
    root = ET.fromstring(junit(bench_of(*three, path=HOSTILE, strict=strict)))
    assert root.tag == "testsuites"
    (suite,) = root
    counts = {key: suite.attrib[key] for key in ("tests", "failures", "errors", "skipped")}
    failures, skipped = ("2", "0") if strict else ("1", "1")
    assert counts == {"tests": "3", "failures": failures, "errors": "0", "skipped": skipped}
    tags = ["properties", "testcase", "testcase", "testcase", "system-out", "system-err"]
    assert [child.tag for child in suite] == tags
    assert suite.attrib["timestamp"] == "2026-11-21T04:52:00"
    failed, passed, unsure = suite.findall("testcase")
    check_junit(root)
    assert float(failed.attrib["time"]) == 1.0
    failure = failed.find("failure")
    assert failure is not None
    assert failure.attrib["type"] == "regression"
    assert failure.attrib["message"].startswith("+4.8 % [+3.5, +6.4] against latency>3%")
    assert list(passed) == []
    assert "size>0 on local: " in (suite.findtext("system-out") or "")
    assert [child.tag for child in unsure] == ["failure" if strict else "skipped"]
    assert "inconclusive" in str(unsure[0].attrib)
    names = [one.attrib["name"] for one in suite[0]]
    assert "candidate.sha256" in names
    assert len(names) == len(set(names))


def test_junit_of_a_failed_bench_is_an_error() -> None:
    root = ET.fromstring(junit_error(HOSTILE, "look & see", "2026-11-21T04:52:00+00:00"))
    check_junit(root)
    error = root[0][1][0]
    assert (error.tag, error.attrib["type"], error.text) == ("error", "measurement", "look & see")
    assert root[0].attrib["errors"] == "1"


def test_annotations_are_capped_at_ten_of_a_kind() -> None:
    many = [comparison("fail", f"latency>{i}%") for i in range(14)]
    few = [comparison("inconclusive", f"memory>{i}%") for i in range(3)]
    lines = workflow_commands(bench_of(*many, *few))
    errors = [line for line in lines if line.startswith("::error ")]
    assert len(errors) == MOST_ANNOTATIONS
    assert "5 more rules" in errors[-1]
    assert len(lines) == MOST_ANNOTATIONS + 3
    strict = workflow_commands(bench_of(*few, strict=True))
    assert [line.split(" ")[0] for line in strict] == ["::error"] * 3
    assert workflow_commands(bench_of(comparison("pass"))) == ()


def test_annotations_of_hostile_names_stay_one_command_each() -> None:
    bench = bench_of(comparison("fail", target=HOSTILE), path=HOSTILE, target=HOSTILE)
    lines = [*workflow_commands(bench), error_annotation(MpoError(HOSTILE, hint=HOSTILE))]
    for line in lines:
        assert line.count("\n") == 0
        assert line.startswith("::error title=")
        title = line.removeprefix("::error title=").split("::")[0]
        assert not set(title) & set(",:\r\n")
        assert "%" not in re.sub(r"%(25|3A|2C|0A|0D)", "", line)


def test_outputs_cannot_be_ended_by_a_value() -> None:
    text = outputs(bench_of(comparison("fail")), "a\nmpo_t\nverdict=pass", "t")
    assert text.split("\n")[:6] == [
        "verdict<<mpo_t", "fail", "mpo_t", "exit_code<<mpo_t", "4", "mpo_t"
    ]  # fmt: skip
    assert text.count("\nmpo_t\n") == 3


def test_a_summary_that_is_too_long_is_cut_at_a_line_and_says_so() -> None:
    text = cut("é" * 40 + "\nsecond line\n" * 50, 300)
    assert len(text.encode()) <= 300
    assert text.endswith("the JSON record has it.\n")
    assert text.split("\n\n")[0].endswith("second line")
    many = [comparison("fail", f"latency>{i}%") for i in range(9000)]
    assert len(summary(bench_of(*many)).encode()) <= 900_000


def test_trackers_get_numbers_with_their_intervals() -> None:
    bench = bench_of(comparison("pass"), path="folder/new.onnx")
    measures = json.loads(bencher(bench))["new.onnx"]
    assert measures["latency.p50 (ms)"] == pytest.approx(
        {"value": 1.25, "lower_value": 1.125, "upper_value": 1.375}
    )
    assert measures["size (B)"] == {"value": 1000.0}
    rows = json.loads(smaller_is_better(bench))
    assert {row["name"] for row in rows} == {"new.onnx: latency.p50", "new.onnx: size"}
    assert rows[0] == {
        "name": "new.onnx: latency.p50", "unit": "ms", "value": 1.25, "range": "± 0.125"
    }  # fmt: skip
