"""Real runs that are killed at named barriers, and gone on with by the same command: the same plan
and the same files as a run that was left alone, nothing made twice, nothing left."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.faults import story

# Each is met once the ones before it are passed: a chain of kills on the way through one run.
BARRIERS = (
    "after write .original.onnx.tmp",
    "before rename original",
    "before sync analysis.json",
    "after sync plan.json",
    "before rename recovery",
    "before rename model.onnx",
    "before write .report.json.tmp",
)


@pytest.fixture(scope="module")
def both(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[Any]]:
    """A run left alone, a run killed at every barrier, and how the parts of that one ended."""
    home = tmp_path_factory.mktemp("kills")
    tell(root, home / "alone", "-")
    return home / "alone", home / "killed", tell(root, home / "killed", *BARRIERS, "-")


def tell(root: Path, folder: Path, *specs: str) -> list[Any]:
    """Let the driver run; what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.driver", str(folder), *specs],
        cwd=root, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(("src", *sys.path))},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.case(2, 5)
def test_a_run_killed_at_every_barrier_ends_with_the_same_plan_and_files(
    both: tuple[Path, Path, list[Any]],
) -> None:
    alone, killed, ended = both
    ends = [one["ended"] for one in ended if isinstance(one, dict)]
    assert ends == [-9] * len(BARRIERS) + [0], ended
    for name in ("plan.json", "model.onnx", "original.onnx", "model.safetensors"):
        assert digest(killed / name) == digest(alone / name), name
    assert names(killed) == names(alone)


@pytest.mark.slow
@pytest.mark.case(2)
def test_what_was_finished_before_a_kill_is_not_made_again(
    both: tuple[Path, Path, list[Any]],
) -> None:
    made = Counter(
        (event["stage"], event.get("part"))
        for event in story.events(both[1])
        if event["event"] in ("stage made", "part made")
    )
    assert made[("original", None)] == 1
    assert [what for what, count in made.items() if count > 1] == []


@pytest.mark.slow
def test_the_journal_of_a_killed_run_is_numbered_without_gaps(
    both: tuple[Path, Path, list[Any]],
) -> None:
    numbers = [event["n"] for event in story.events(both[1])]
    assert numbers == list(range(len(numbers)))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
