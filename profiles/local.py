"""This machine as a target: a child process in a clean environment, with a limit, for each job."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from typing import Any

import psutil

from mpo.errors import MpoError
from mpo.guardian import guarded
from mpo.profiles.jobs import FIXED, KEPT, LAUNCHER, Job, read_answer, too_slow

# Of the memory that is free now a job may take so much; a model that asks for more fails with the
# runtime's own words instead of having the system choose what to kill.
SHARE = 0.9
BOUNDED = ("/bin/sh", "-c", 'ulimit -d "$1" 2> /dev/null; shift; "$@"; exit $?', "mpo-measure")


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
                [*self._launcher(), sys.executable, "-I", str(job.script)],
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
        with guarded(child.pid):
            return _answer(child, job)

    def _launcher(self) -> tuple[str, ...]:
        """A GPU's driver maps more than the machine has, so only a CPU's jobs are bounded."""
        if self.device != "cpu":
            return LAUNCHER
        return (*BOUNDED, str(int(SHARE * psutil.virtual_memory().available / 1024)))

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


def _kill(child: subprocess.Popen[str]) -> None:
    """Kill the launcher and the worker: both are in the session that Popen made."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.communicate()
