"""The checks of run folders are worth something: with a sync, a rename or a hash taken out of the
code, the one that is there for it fails."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

WHOLESALE = """files.disk.mkdir(target)
    for entry in sorted(temporary.iterdir()):
        files.disk.rename(entry, target / entry.name)
"""
# (module, what stands there, what is put in its place, the check that must fail)
MUTATIONS = {
    "a file is renamed unsynced": ("files", "        disk.sync(temporary)\n", "", "power"),
    "a renamed file's folder is not synced": (
        *("files", "        disk.sync(path.parent)\n"),
        *("", "power"),
    ),
    "a file is written in its place": (
        *("files", 'path.with_name(f".{path.name}.{os.getpid()}.tmp")'),
        *("path", "power"),
    ),
    "a stage's files are not synced": ("stages", "files.disk.sync(entry)", "pass", "power"),
    "a stage's folder is not synced": (
        *("stages", "    files.disk.sync(target.parent)\n"),
        *("", "power"),
    ),
    "a stage is not renamed as one": (
        *("stages", "files.disk.rename(temporary, target)\n"),
        *(WHOLESALE, "stop"),
    ),
    "hashes are not compared": (
        *("stages", "sha256(folder / name) == digest"),
        *("True", "damage"),
    ),
    "a change of runs is not decided before it starts": (
        *("replacing", "    finish_swap(home)\n"),
        *("    (new / READY).unlink()\n", "overwriting"),
    ),
}


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """The modules of run folders and their checks, apart from the checkout."""
    package, tests = tmp_path / "code" / "mpo", tmp_path / "code" / "tests" / "faults"
    package.mkdir(parents=True)
    tests.mkdir(parents=True)
    for path in (root / "src" / "mpo").glob("*.py"):
        shutil.copy(path, package)
    for name in ("checks", "disks", "story"):
        shutil.copy(root / "tests" / "faults" / f"{name}.py", tests)
    return tmp_path / "code"


def run(copy: Path, check: str, room: Path) -> subprocess.CompletedProcess[str]:
    room.mkdir()
    return subprocess.run(
        [sys.executable, "-m", "tests.faults.checks", check, str(room)],
        cwd=copy, env={"PYTHONPATH": str(copy)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.case(11, 14, 15)
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_check_fails_when(name: str, copy: Path, tmp_path: Path) -> None:
    module, text, other, check = MUTATIONS[name]
    path = copy / "mpo" / f"{module}.py"
    source = path.read_text()
    assert source.count(text) == 1, "the code changed: change this mutation too"
    path.write_text(source.replace(text, other))
    ended = run(copy, check, tmp_path / "room")
    assert ended.returncode == 1, f"{check} passes all the same"
    assert "Error" in ended.stderr.splitlines()[-1] or "Warning" in ended.stderr.splitlines()[-1]


def test_the_checks_pass_on_an_unchanged_copy(copy: Path, tmp_path: Path) -> None:
    ended = run(copy, "power", tmp_path / "room")
    assert ended.returncode == 0, ended.stderr
