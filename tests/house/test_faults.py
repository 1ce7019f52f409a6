"""No fault case without a test that holds it, or a reason why it does not concern mpo."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def faults(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("faults", root / "docs" / "faults.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def test_the_cases_are_numbered_without_gaps(faults: ModuleType) -> None:
    assert [case.number for case in faults.cases()] == list(range(1, 63))


def test_every_case_has_a_test_or_a_reason(faults: ModuleType) -> None:
    held = set(faults.marked())
    bare = {case.number for case in faults.cases() if not case.not_here} - held
    assert not bare


def test_every_mark_is_of_a_known_case(faults: ModuleType) -> None:
    known = {case.number for case in faults.cases()}
    strange = {n: tests for n, tests in faults.marked().items() if n not in known}
    assert not strange


def test_the_table_of_cases_is_up_to_date(faults: ModuleType, root: Path) -> None:
    assert (root / "docs" / "faults.md").read_text() == faults.table(faults.marked()), "make docs"
