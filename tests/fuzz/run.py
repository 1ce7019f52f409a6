"""Fuzz one target with atheris from its corpus: python tests/fuzz/run.py onnx --seconds 60

Ends with one line of JSON: executions, seconds, inputs that reached new code, and the finding if
there was one, as base64 to be added to the target's corpus.
"""

from __future__ import annotations

import argparse
import base64
import importlib
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def asked() -> argparse.Namespace:
    """The command line."""
    line = argparse.ArgumentParser(description=__doc__)
    line.add_argument("target")
    line.add_argument("--seconds", type=int, default=60)
    line.add_argument("--longest", type=int, default=65536, help="bytes of an input")
    line.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 2**31))
    line.add_argument("--found", type=Path, help="folder for inputs that reach new code; kept")
    return line.parse_args()


def main() -> int:
    """Fuzz in this process; libFuzzer ends it, so a child says how it went."""
    given = asked()
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["mpo", "tests.fuzz"]):
        targets = importlib.import_module("tests.fuzz.targets")
    target = targets.TARGETS[given.target]
    started, count = time.monotonic(), 0

    with tempfile.TemporaryDirectory() as room:
        folder = given.found or Path(room, "corpus")
        folder.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(targets.corpus(given.target)):
            (folder / f"seed{number}").write_bytes(data)
        before = len(list(folder.iterdir()))

        def tell(finding: bytes | None = None) -> None:
            told = {
                "target": given.target,
                "executions": count,
                "seconds": round(time.monotonic() - started, 1),
                "new_inputs": len(list(folder.iterdir())) - before,
                "finding": base64.b64encode(finding).decode() if finding is not None else None,
            }
            print(json.dumps(told), flush=True)

        def one(data: bytes) -> None:
            nonlocal count
            count += 1
            try:
                target(data)
            except Exception as error:  # noqa: BLE001 - whatever comes up is the finding
                print(f"finding: {type(error).__name__}: {error}", file=sys.stderr)
                tell(data)
                os._exit(1)
            if time.monotonic() - started > given.seconds:
                tell()
                os._exit(0)

        options = [
            sys.argv[0],
            f"-max_len={given.longest}",
            f"-seed={given.seed}",
            "-timeout=20",
            "-rss_limit_mb=1024",
            "-verbosity=0",
            f"-artifact_prefix={room}/",
            str(folder),
        ]
        atheris.Setup(options, one)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
