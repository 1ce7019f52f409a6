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

LONGEST = 1 << 20


def main() -> None:
    """Answer the request."""
    asked = json.loads(sys.stdin.readline())
    program, bundle = asked["files"]["edge/mpo_edge.py"], asked["files"]["edge/model.mpo"]
    # What it keeps goes with the job's folder: the device is left as it was.
    folder = os.path.dirname(os.path.dirname(program))  # noqa: PTH120
    environment = {**os.environ, "MPO_EDGE_HOME": folder}
    answers = []
    for command, *options in asked["commands"]:
        done = subprocess.run(
            [sys.executable, "-E", program, command, bundle, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            check=False,
        )
        said = {
            "output": done.stdout[:LONGEST].decode("utf-8", "replace"),
            "errors": done.stderr[-2000:].decode("utf-8", "replace"),
        }
        answers.append({"code": done.returncode, **said})
        if done.returncode:
            break
    sys.stdout.write(json.dumps({"answers": answers}) + "\n")


if __name__ == "__main__":
    main()
