"""Which Python a device has, and which of the packages that measuring needs.

A script for profiles/jobs.py: {"modules": [name]} -> {"python": "3.11.2", "machine": "aarch64",
"modules": {name: version}, "missing": {name: what importing it says}}.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys


def main() -> None:
    """Answer the request; whatever a library prints on stdout goes to stderr."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    found, missing = {}, {}
    for name in json.loads(sys.stdin.readline())["modules"]:
        try:
            found[name] = str(importlib.import_module(name).__version__)
        except (ImportError, OSError, AttributeError) as error:
            missing[name] = str(error)
    about = {"python": platform.python_version(), "machine": platform.machine()}
    answer.write(json.dumps({**about, "modules": found, "missing": missing}) + "\n")
    answer.close()


if __name__ == "__main__":
    main()
