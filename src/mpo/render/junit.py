"""A bench as JUnit XML: a test case for each rule, so that every CI server shows it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree import ElementTree as ET

from mpo.records import Bench, BenchComparison
from mpo.render.bench import change_text, reason_text, rules_of
from mpo.render.names import clean

# What XML 1.0 cannot hold: control characters, lone surrogates, and two non-characters.
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
SUITE = "mpo.bench"
LONGEST = 2000


def xml_text(text: str) -> str:
    """A text that XML can hold, on one line; the writer escapes the rest."""
    return _ILLEGAL.sub("", clean(text))[:LONGEST]


def junit(bench: Bench) -> str:
    """The report. `time` is what measuring took, not the metric."""
    gated = rules_of(bench)
    strict = bench.strict
    failed = sum(one.verdict == "fail" or (strict and _open(one)) for one in gated)
    skipped = 0 if strict else sum(_open(one) for one in gated)
    total = sum(bench.seconds.values())
    root, suite = _suite(
        bench.created, tests=len(gated), failures=failed, errors=0, skipped=skipped,
        time=f"{total:.3f}",
    )  # fmt: skip
    properties = ET.SubElement(suite, "properties")
    for name, value in _facts(bench).items():
        ET.SubElement(properties, "property", name=name, value=xml_text(value))
    for one in gated:
        _case(suite, one, total / len(gated), strict=strict)
    return _written(root, "\n".join(f"{_name(one)}: {_told(one)}" for one in gated))


def junit_error(message: str, hint: str, created: str) -> str:
    """The report of a bench that could not measure.

    Args:
        created: ISO 8601.
    """
    root, suite = _suite(created, tests=1, failures=0, errors=1, skipped=0, time="0.000")
    ET.SubElement(suite, "properties")
    case = ET.SubElement(
        suite, "testcase", name="measure", classname=f"{SUITE}.candidate", time="0.000"
    )
    error = ET.SubElement(case, "error", type="measurement", message=xml_text(message))
    error.text = xml_text(hint)
    return _written(root, "")


def _suite(created: str, **numbers: object) -> tuple[ET.Element, ET.Element]:
    """The root, and the one suite in it.

    What has an attribute here, and in which order elements come, is what the schemas of Ant and of
    Jenkins have in common: both refuse what they do not know.
    """
    root = ET.Element("testsuites")
    attributes = {name: str(value) for name, value in numbers.items()}
    fixed = {"name": SUITE, "package": "mpo", "id": "0", "hostname": "localhost"}
    return root, ET.SubElement(
        root, "testsuite", {**fixed, "timestamp": created[:19], **attributes}
    )


def _case(suite: ET.Element, one: BenchComparison, seconds: float, *, strict: bool) -> None:
    case = ET.SubElement(
        suite,
        "testcase",
        name=_name(one),
        classname=f"{SUITE}.candidate",
        time=f"{seconds:.3f}",
    )
    if one.verdict == "fail":
        ET.SubElement(case, "failure", type="regression", message=_told(one))
    elif _open(one) and strict:
        ET.SubElement(case, "failure", type="inconclusive", message=_told(one))
    elif _open(one):
        ET.SubElement(case, "skipped", message=f"inconclusive: {_told(one)}")


def _name(one: BenchComparison) -> str:
    return xml_text(f"{one.rule} on {one.target}" if one.target else one.rule)


def _told(one: BenchComparison) -> str:
    return xml_text(f"{change_text(one)} against {one.rule}; {reason_text(one)}")


def _open(one: BenchComparison) -> bool:
    return one.verdict == "inconclusive"


def _facts(bench: Bench) -> Mapping[str, str]:
    facts = {"mpo": bench.tool.get("version", ""), "protocol": bench.protocol.id}
    facts["verdict"], facts["run_id"] = bench.verdict, bench.run_id
    for subject in bench.subjects:
        facts[f"{subject.id}.path"] = subject.path
        facts[f"{subject.id}.sha256"] = subject.sha256
    for number, place in enumerate(bench.places):
        facts[f"target.{number}.name"] = place.target
        facts[f"target.{number}.cpu"] = place.device.cpu.model
        facts[f"target.{number}.fingerprint"] = place.fingerprint
        facts[f"target.{number}.threads"] = str(place.session.threads)
        facts[f"target.{number}.batch"] = str(place.batch)
    return facts


def _written(root: ET.Element, output: str) -> str:
    """The text; what is told of every rule, passed ones too, is the suite's output."""
    ET.SubElement(root[0], "system-out").text = output
    ET.SubElement(root[0], "system-err")
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"
