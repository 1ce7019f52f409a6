"""What the two usual JUnit schemas, of Ant and of Jenkins' xunit plugin (junit-10), both let pass.

In words of our own, as a check on parsed XML: each of them refuses attributes and elements that it
does not know, and Ant's requires most of those that it does.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

SUITE = {
    *("name", "package", "id", "hostname", "timestamp"),
    *("tests", "failures", "errors", "skipped", "time"),
}
CASE = {"name", "classname", "time"}
OUTCOMES = {"failure": {"type", "message"}, "error": {"type", "message"}, "skipped": {"message"}}
COUNT = re.compile(r"\d+")
SECONDS = re.compile(r"\d+\.\d+")
MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}")  # Ant's has no time zone


def check_junit(root: ET.Element) -> None:
    """Fail on the first thing that one of the schemas refuses."""
    assert (root.tag, root.attrib) == ("testsuites", {})
    for number, suite in enumerate(root):
        assert suite.tag == "testsuite"
        assert set(suite.attrib) == SUITE
        assert suite.attrib["id"] == str(number)
        assert MOMENT.fullmatch(suite.attrib["timestamp"])
        assert SECONDS.fullmatch(suite.attrib["time"])
        counts = {key: suite.attrib[key] for key in ("tests", "failures", "errors", "skipped")}
        assert all(COUNT.fullmatch(text) for text in counts.values())
        tags = [child.tag for child in suite]
        cases = suite.findall("testcase")
        assert tags == ["properties", *["testcase"] * len(cases), "system-out", "system-err"]
        for one in suite[0]:
            assert (one.tag, set(one.attrib)) == ("property", {"name", "value"})
            assert one.attrib["name"]
        for case in cases:
            check_case(case)
        assert int(counts["tests"]) == len(cases)
        for key, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(counts[key]) == len(suite.findall(f"testcase/{tag}"))


def check_case(case: ET.Element) -> None:
    """A test case has its three attributes and one outcome at most."""
    assert set(case.attrib) == CASE
    assert SECONDS.fullmatch(case.attrib["time"])
    assert len(case) <= 1
    for outcome in case:
        assert set(outcome.attrib) == OUTCOMES[outcome.tag]
        assert len(outcome) == 0
