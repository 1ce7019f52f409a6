"""Start the measuring child in a clean environment, wait with a limit, read its answer."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from mpo.errors import MpoError

WORKER = Path(__file__).with_name("worker.py")
# The child's parent is this small shell and not the process that holds torch and the model: the
# kernel hands a parent's peak memory down to its child (MEASURING.md 1.3 g).
LAUNCHER = ("/bin/sh", "-c", '"$@"; exit $?', "mpo-measure")
KEPT = ("PATH", "LD_LIBRARY_PATH", "TMPDIR", "LANG", "LC_ALL")
TAIL = 600


def child_environment(threads: int, lean: bool) -> dict[str, str]:
    """What the child needs of this environment, and fixed thread counts; nothing else goes in.

    Args:
        lean: keep glibc from raising its mmap threshold, so that freed memory goes back at once:
            without it the peak of one and the same model was seen between 85 and 146 MB.
    """
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    counts = dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)
    )
    malloc = {"MALLOC_MMAP_THRESHOLD_": "131072"} if lean else {}
    return {**kept, **counts, **malloc, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}


def run_child(request: dict[str, Any], *, timeout: float) -> dict[str, Any]:
    """Run one request in a fresh process.

    Args:
        request: see profiles/worker.py.
        timeout: seconds; then the child is killed.

    Raises:
        MpoError: the child could not start, ran out of time, crashed, or gave no answer.
    """
    command = [*LAUNCHER, sys.executable, "-I", str(WORKER)]
    what = ", ".join(Path(path).name for path in request["models"])
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=child_environment(request["threads"], lean=not request["arena"]),
            start_new_session=True,
        )
    except OSError as error:
        raise MpoError(f"The measuring process could not start: {error}.") from error
    try:
        output, errors = child.communicate(json.dumps(request) + "\n", timeout=timeout)
    except subprocess.TimeoutExpired as error:
        _kill(child)
        raise MpoError(
            f"Measuring {what} did not end within {timeout:.0f} s.",
            hint="The machine may be overloaded, or the model too large for its memory.",
        ) from error
    except BaseException:
        _kill(child)
        raise
    if child.returncode:
        raise MpoError(
            f"The process that measured {what} {_ending(child.returncode)}{_last(errors)}",
            hint="The model may be too large for this machine's memory, or no valid ONNX file.",
        )
    try:
        answer: dict[str, Any] = json.loads(output)
    except ValueError as error:
        raise MpoError(f"The process that measured {what} gave no answer{_last(errors)}") from error
    return answer


def _kill(child: subprocess.Popen[str]) -> None:
    """Kill the launcher and the worker: both are in the session that Popen made."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


def _ending(code: int) -> str:
    number = code - 128 if code > 128 else -code
    with contextlib.suppress(ValueError):
        if number > 0:
            return f"was ended by {signal.Signals(number).name}"
    return f"ended with code {code}"


def _last(errors: str) -> str:
    lines = [line.strip() for line in errors[-TAIL:].splitlines() if line.strip()]
    return f": {lines[-1]}" if lines else "."
