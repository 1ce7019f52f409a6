"""The tail, not the average, is what people endure: bars on the largest module and function."""

from __future__ import annotations

import ast
from pathlib import Path
from statistics import median

MODULE_LINES = 300
FUNCTION_LINES = 40
MEDIAN_MODULE_LINES = 150
# A program that lies in every bundle must be one file: (module) -> what it may have.
ONE_FILE_PROGRAMS = {"src/mpo/bundle/mpo_edge.py": 999, "src/mpo/bundle/mpo_signature.py": 320}


def test_no_module_is_longer_than_three_hundred_lines(
    root: Path, modules: tuple[Path, ...]
) -> None:
    lengths = {
        path.relative_to(root).as_posix(): len(path.read_text().splitlines()) for path in modules
    }
    long = [
        f"{name}: {lines}"
        for name, lines in lengths.items()
        if lines > ONE_FILE_PROGRAMS.get(name, MODULE_LINES)
    ]
    assert not long, "\n".join(long)


def test_half_of_the_modules_are_shorter_than_a_hundred_and_fifty_lines(
    modules: tuple[Path, ...],
) -> None:
    assert median(len(path.read_text().splitlines()) for path in modules) < MEDIAN_MODULE_LINES


def own_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, the docstring left out: words about a function cost nothing."""
    assert function.end_lineno is not None
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        text = function.body[0]
        assert text.end_lineno is not None
        lines -= text.end_lineno - text.lineno + 1
    return lines


def test_no_function_is_longer_than_forty_lines(root: Path, modules: tuple[Path, ...]) -> None:
    long = [
        f"{path.relative_to(root)}:{node.lineno}: {node.name} has {own_lines(node)} lines"
        for path in modules
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and own_lines(node) > FUNCTION_LINES
    ]
    assert not long, "\n".join(long)
