"""The rehearsal of a release pipeline: every situation gets its exit code and its reports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.render.junitschema import check_junit

SCRIPT = Path(__file__).parents[2] / "examples" / "release" / "rehearse.sh"
CODES = {"good": 0, "regression": 4, "broken": 1, "halved": 2, "elsewhere": 6, "noisy": 5}


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a rehearsal that went as it must."""
    folder = tmp_path_factory.mktemp("release") / "out"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", str(SCRIPT), str(folder), "--seconds", "0.05", "--processes", "3"],
        env={**os.environ, "PATH": path, "RULES": "latency>3%,size>2%,params>2%"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = done.stdout.splitlines()
    for name, code in CODES.items():
        assert f"{name:10} exit {code}, wanted {code}  as-expected" in told
    return folder


@pytest.mark.slow
def test_every_situation_leaves_a_report_that_ci_servers_can_read(rehearsal: Path) -> None:
    outcomes = {
        "regression": "failure",
        "noisy": "failure",
        "broken": "error",
        "halved": "error",
        "elsewhere": "error",
    }
    for name in CODES:
        root = ET.parse(rehearsal / name / "bench.xml").getroot()
        check_junit(root)
        found = [child.tag for case in root[0].iter("testcase") for child in case]
        assert set(found) == ({outcomes[name]} if name in outcomes else set())
    for name in ("good", "regression", "noisy"):
        record = json.loads((rehearsal / name / "bench.json").read_text())
        assert record["exit_code"] == CODES[name]
        assert "exit_code<<mpo" in (rehearsal / name / "output").read_text()


@pytest.mark.slow
def test_whatever_fails_is_annotated_once_and_escaped(rehearsal: Path) -> None:
    for name, code in CODES.items():
        text = (rehearsal / name / "log").read_text()
        errors = [line for line in text.splitlines() if line.startswith("::error ")]
        assert len(errors) == (3 if name == "regression" else int(code != 0))
        title = errors[0].split("::")[1] if errors else ""
        assert "%" not in title.replace("%25", "")
