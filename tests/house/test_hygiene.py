"""What the repository holds: no machine's paths, no registry, one version, all packages named."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

import mpo

# Written so that this file does not match itself. `someone` is nobody: tests may use that name.
MACHINE_PATH = re.compile(r"(?<![\w.~/-])/(?:work|root|home|Users)/(?!someone\b)[\w.]")
REGISTRY = re.compile(
    r"\b(?:files\.pythonhosted|pypi\.(?:org|python|nvidia)|test\.pypi|registry\.npmjs|"
    r"deb\.debian|download\.pytorch|conda\.anaconda|proxy\.golang)\b",
    re.IGNORECASE,
)


@pytest.fixture(scope="session")
def texts(root: Path) -> dict[str, str]:
    """Every text file that git tracks, or would: its path in the checkout, and its content."""
    if shutil.which("git") is None or not (root / ".git").exists():
        pytest.skip("no git checkout here: nothing is tracked")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = {}
    for name in listed.stdout.split("\0"):
        path = root / name
        if not name or path.is_symlink() or not path.is_file():
            continue
        try:
            found[name] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # weights and data
    return found


@pytest.fixture(scope="session")
def project(root: Path) -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((root / "pyproject.toml").read_text())


def lines_with(pattern: re.Pattern[str], texts: dict[str, str]) -> list[str]:
    """The places where a pattern occurs."""
    return [
        f"{name}:{number}: {line.strip()[:80]}"
        for name, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_file_names_a_path_of_one_machine(texts: dict[str, str]) -> None:
    found = lines_with(MACHINE_PATH, texts)
    assert not found, "\n".join(found)


def test_no_file_names_a_package_registry(texts: dict[str, str]) -> None:
    """Where packages come from is the machine's own configuration."""
    found = lines_with(REGISTRY, texts)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("text", ["see /" + "root/x", "'/" + "home/me'", "(/" + "work/main)"])
def test_machine_paths_are_recognised(text: str) -> None:
    assert MACHINE_PATH.search(text)


@pytest.mark.parametrize("text", ["a/home/b", "../work/x", "https://example.org/work/x", "/tmp/x"])
def test_other_paths_are_not_taken_for_machine_paths(text: str) -> None:
    assert not MACHINE_PATH.search(text)


def test_every_text_file_ends_with_one_line_end(texts: dict[str, str]) -> None:
    wrong = [name for name, text in texts.items() if text and not text.endswith("\n")]
    assert not wrong


def test_the_packages_named_are_the_folders_found(root: Path, project: dict[str, Any]) -> None:
    source = root / "src"
    found = {"mpo"}
    pending = [source / "mpo"]
    while pending:
        for child in pending.pop().iterdir():
            if child.is_dir() and child.name != "__pycache__" and any(child.iterdir()):
                found.add(".".join(child.relative_to(source).parts))
                pending.append(child)
    assert sorted(project["tool"]["setuptools"]["packages"]) == sorted(found)


def test_the_three_folders_are_linked_into_the_package(root: Path) -> None:
    for name in ("optimizer", "exporters", "profiles"):
        link = root / "src" / "mpo" / name
        assert link.is_symlink()
        assert link.readlink() == Path("..", "..", name)


def test_every_data_file_of_the_package_is_declared(root: Path, project: dict[str, Any]) -> None:
    """A template or schema that no pattern covers would be missing from the wheel."""
    declared = project["tool"]["setuptools"]["package-data"]
    for package in project["tool"]["setuptools"]["packages"]:
        folder = root / "src" / Path(*package.split("."))
        for path in folder.iterdir():
            if path.is_file() and path.suffix != ".py":
                patterns = declared.get(package, [])
                assert any(path.match(pattern) for pattern in patterns), f"{package}: {path.name}"


def test_the_changelog_tells_of_this_version(root: Path) -> None:
    changelog = (root / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[?{re.escape(mpo.__version__)}\b", changelog, re.MULTILINE)


def test_every_dependency_has_a_tested_version(root: Path, project: dict[str, Any]) -> None:
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (root / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    }
    extras = project["project"]["optional-dependencies"]
    wanted = [*project["project"]["dependencies"], *extras["dev"], *extras["hf"], *extras["bench"]]
    names = {re.split(r"[<>=\[]", text)[0].lower().replace("_", "-") for text in wanted}
    assert names - {"mpo-optimizer"} <= pinned


def test_continuous_integration_calls_the_readme_s_test_command(root: Path) -> None:
    script = (root / ".ci" / "run").read_text()
    assert script.rstrip().endswith("exec make test")
    assert "make test" in (root / "README.md").read_text()
