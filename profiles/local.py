"""This machine as a target: a child process in a clean environment, with a limit, for each job."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from typing import Any

from mpo.errors import MpoError
from mpo.profiles.jobs import Job, checked

# The child's parent is this small shell and not the process that holds torch and the model: the
# kernel hands a parent's peak memory down to its child (MEASURING.md 1.3 g).
LAUNCHER = ("/bin/sh", "-c", '"$@"; exit $?', "mpo-measure")
KEPT = ("PATH", "LD_LIBRARY_PATH", "TMPDIR", "LANG", "LC_ALL")
FIXED = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
TAIL = 600


class LocalTarget:
    """This machine."""

    def __init__(self, device: str = "cpu") -> None:
        self.name = "local" if device == "cpu" else f"local:{device}"
        self.device = device

    def run(self, job: Job) -> dict[str, Any]:
        """The answer of the job's script, from a fresh process on this machine."""
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        try:
            child = subprocess.Popen(
                [*LAUNCHER, sys.executable, "-I", str(job.script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env={**kept, **FIXED, **job.environment},
                start_new_session=True,
            )
        except OSError as error:
            raise MpoError(f"The measuring process could not start: {error}.") from error
        return _answer(child, job)

    def close(self) -> None:
        """Nothing is left behind: files are read where they lie."""


def _answer(child: subprocess.Popen[str], job: Job) -> dict[str, Any]:
    paths = {name: str(path.resolve()) for name, path in job.files.items()}
    request = json.dumps({**job.request, "files": paths}) + "\n"
    try:
        output, errors = child.communicate(request, timeout=job.timeout)
    except subprocess.TimeoutExpired as error:
        _kill(child)
        raise too_slow(job) from error
    except BaseException:
        _kill(child)
        raise
    return read_answer(job, child.returncode, output, errors)


def read_answer(job: Job, code: int, output: str, errors: str) -> dict[str, Any]:
    """What a finished process says; how a failed one ended, in one sentence."""
    if code:
        raise MpoError(
            f"The process that {job.what} {_ending(code)}{_last(errors)}",
            hint="The model may be too large for this machine's memory, or no valid ONNX file.",
        )
    try:
        answer = json.loads(output)
    except ValueError as error:
        raise MpoError(f"The process that {job.what} gave no answer{_last(errors)}") from error
    return checked(answer, job.what)


def too_slow(job: Job) -> MpoError:
    """The error for a process that had to be killed."""
    return MpoError(
        f"The process that {job.what} did not end within {job.timeout:.0f} s.",
        hint="The machine may be overloaded, or the model too large for its memory.",
    )


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
