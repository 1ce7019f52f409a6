"""The table of fault cases and the tests that hold them: docs/faults.md.

From tests/faults/cases.toml and the marks in the tests' source, which is read and not imported.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CASES = ROOT / "tests" / "faults" / "cases.toml"
HEAD = """# What can go wrong, and the test that holds mpo to its answer

Written by `make docs` from `tests/faults/cases.toml` and the tests' own marks; do not edit.
"""


@dataclass(frozen=True)
class Case:
    """A fault.

    Attributes:
        number: of the case.
        section: it stands in.
        says: what goes wrong, and what mpo does then.
        not_here: why it does not concern mpo; empty when it does.
    """

    number: int
    section: str
    says: str
    not_here: str = ""


def cases() -> tuple[Case, ...]:
    """All cases, in order."""
    return tuple(Case(**entry) for entry in tomllib.loads(CASES.read_text())["case"])


def marked() -> dict[int, list[str]]:
    """The ids of the tests of each case, sorted."""
    found: dict[int, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for number, test in _marks(path):
            found.setdefault(number, []).append(f"{path.relative_to(ROOT).as_posix()}::{test}")
    return found


def _marks(path: Path) -> Iterator[tuple[int, str]]:
    """The cases that a file's tests are marked with; a mark on a class, or the module's
    `pytestmark`, is none: each test says for itself what it holds."""
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.FunctionDef):
            calls = [
                part
                for decorator in node.decorator_list
                for part in ast.walk(decorator)
                if isinstance(part, ast.Call) and ast.unparse(part.func) == "pytest.mark.case"
            ]
            numbers = {ast.literal_eval(one) for call in calls for one in call.args}
            yield from ((number, node.name) for number in sorted(numbers))


def table(tests: Mapping[int, list[str]]) -> str:
    """The text of docs/faults.md."""
    parts, section = [HEAD], ""
    for case in cases():
        if case.section != section:
            section = case.section
            parts.append(f"\n## {section}\n\n| case | what happens | held by |\n|---|---|---|\n")
        held = "<br>".join(f"`{test}`" for test in tests.get(case.number, []))
        if case.not_here:
            held = f"does not concern mpo: {case.not_here}" + (f"<br>{held}" if held else "")
        parts.append(f"| {case.number} | {case.says} | {held} |\n")
    return "".join(parts)
