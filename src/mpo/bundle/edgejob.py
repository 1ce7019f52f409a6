"""Runs the bundle's program on a device, as a script for profiles/jobs.py.

{"commands": [["verify"], ["bench", "--seconds", "1"]], "files": {"edge/mpo_edge.py": path,
"edge/model.mpo": path}} -> {"answers": [{"code": 0, "output": "...", "errors": "..."}, ...]}. It
stops after the first command that does not end with 0. Standard library only, Python >= 3.8.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

LONGEST = 1 << 20


def main() -> None:
    """Answer the request."""
    asked = json.loads(sys.stdin.readline())
    program, bundle = asked["files"]["edge/mpo_edge.py"], asked["files"]["edge/model.mpo"]
    answers = []
    # What the program keeps goes with this folder: the device is left as it was.
    with tempfile.TemporaryDirectory(prefix="mpo-edge-") as folder:
        for command, *options in asked["commands"]:
            answers.append(answer_of([program, command, bundle, *options], folder))
            if answers[-1]["code"]:
                break
    sys.stdout.write(json.dumps({"answers": answers}) + "\n")


def answer_of(line: list[str], folder: str) -> dict[str, Any]:
    """How one command of the program ends, and what it says."""
    done = subprocess.run(
        [sys.executable, "-E", *line],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "MPO_EDGE_HOME": folder},
        check=False,
    )
    return {
        "code": done.returncode,
        "output": done.stdout[:LONGEST].decode("utf-8", "replace"),
        "errors": done.stderr[-2000:].decode("utf-8", "replace"),
    }


if __name__ == "__main__":
    main()
