"""The CI snippets of docs/bench.md, run as they stand: a good change passes, a bad one fails.

The `mpo` that they find measures more briefly than they ask for: they are to work, and a model
three times as slow is found so, too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from itertools import takewhile
from pathlib import Path
from shlex import quote
from types import ModuleType
from xml.etree import ElementTree as ET

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "bench.md"
BESIDE = Path(sys.executable).parent
MPO = str(BESIDE / "mpo") if (BESIDE / "mpo").is_file() else str(shutil.which("mpo"))


def block(first: str) -> str:
    """The text of the fenced block that starts with this line."""
    text = PAGE.read_text()
    start = text.index(f"```yaml\n{first}") + len("```yaml\n")
    return text[start : text.index("```", start)]


def github_script() -> str:
    """The `run: |` of the step that benches."""
    lines = block("name: bench").split("        run: |\n")[1].splitlines(keepends=True)
    return textwrap.dedent("".join(takewhile(lambda line: line.startswith(" " * 10), lines)))


def gitlab_script() -> str:
    """The entries of `script:`; a folded one is a single line."""
    body = block("bench:").split("  script:\n")[1].split("  artifacts:\n")[0]
    entries = body.split("    - ")[1:]
    return "\n".join(
        " ".join(entry.removeprefix(">-").split()) if entry.startswith(">-") else entry.strip()
        for entry in entries
    )


def git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.invalid"]
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def checkout(tiny: ModuleType, tmp_path: Path) -> Path:
    """A clone whose origin's main branch has a model."""
    if shutil.which("git") is None:
        pytest.skip("no git here")
    origin = tmp_path / "origin"
    (origin / "models").mkdir(parents=True)
    tiny.chain(origin / "models" / "model.onnx", 4, rows=64)
    git(origin, "init", "-q", "-b", "main")
    git(origin, "add", ".")
    git(origin, "commit", "-qm", "model")
    git(tmp_path, "clone", "-q", str(origin), "clone")
    return tmp_path / "clone"


def run(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The script as a CI server's shell runs it."""
    brief = folder.parent / "bin" / "mpo"
    brief.parent.mkdir()
    brief.write_text(f'#!/bin/sh\nexec {quote(MPO)} "$@" --seconds 0.05 --processes 3\n')
    brief.chmod(0o755)
    path = os.pathsep.join([str(brief.parent), str(BESIDE), os.environ["PATH"]])
    plain = {key: value for key, value in os.environ.items() if not key.startswith("GITHUB_")}
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=folder,
        env={**plain, "PATH": path, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_github_step_fails_a_slower_model(checkout: Path, tiny: ModuleType) -> None:
    tiny.chain(checkout / "models" / "model.onnx", 12, rows=64)
    summary, output = checkout / "summary", checkout / "output"
    found = run(
        github_script(),
        checkout,
        GITHUB_ACTIONS="true",
        GITHUB_BASE_REF="main",
        GITHUB_STEP_SUMMARY=str(summary),
        GITHUB_OUTPUT=str(output),
    )
    assert found.returncode == 4, found.stderr
    assert "::error title=latency>3%25 failed::" in found.stderr
    assert "Regression" in summary.read_text()
    assert "\nfail\n" in output.read_text()
    suite = ET.parse(checkout / "bench.xml").getroot()[0]
    assert (suite.attrib["tests"], suite.attrib["errors"]) == ("3", "0")
    assert {path.name for path in checkout.glob("bench.*")} == {
        "bench.json",
        "bench.xml",
        "bench.bmf.json",
    }


@pytest.mark.slow
def test_the_gitlab_job_passes_an_unchanged_model(checkout: Path) -> None:
    found = run(gitlab_script(), checkout, CI_MERGE_REQUEST_TARGET_BRANCH_NAME="main")
    # On a machine that others use, the rules may stay open: that passes too, with a warning.
    assert found.returncode == 0, found.stdout + found.stderr
    assert "FAIL" not in found.stdout
    assert "::error" not in found.stderr
    root = ET.parse(checkout / "bench.xml").getroot()
    assert root[0].attrib["failures"] == "0"
    assert (checkout / "bench.md").read_text().startswith("# ")
