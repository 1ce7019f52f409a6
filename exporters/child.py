"""A child process with a limit on its time and its memory, whose end is an outcome, not a surprise.

Libraries of vendors crash, hang and eat memory: what they do, they do in a child.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from mpo.guardian import guarded
from mpo.timing import Stopwatch

Kind = Literal["ended", "failed", "crashed", "timed-out", "out-of-memory"]
KEPT = (
    *("PATH", "LD_LIBRARY_PATH", "TMPDIR", "LANG", "LC_ALL"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_HOME", "CUDA_CACHE_PATH"),
)
POLL = 0.02  # seconds between two looks at the child's memory
SHARE = 0.9  # of the free memory, when no limit is given
ANSWER_LIMIT = 16 * 2**20  # bytes that a child may say
TAIL = 800


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        kind: "ended" with exit code 0, "failed" with another, "crashed" by a signal, "timed-out" or
            "out-of-memory" by the limits.
        reason: one sentence with the numbers; empty for "ended".
        output: what it wrote on stdout, as text.
        errors: the end of what it wrote on stderr.
        seconds: it took.
        peak_bytes: its largest resident size, children included, as sampled.
    """

    kind: Kind
    reason: str
    output: str
    errors: str
    seconds: float
    peak_bytes: int


def run_child(
    command: Sequence[str],
    request: str = "",
    *,
    timeout: float,
    memory_bytes: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run a command in its own session and wait for its end, or make an end of it.

    Args:
        request: what it reads on stdin.
        timeout: seconds of wall-clock time.
        memory_bytes: of resident memory; 90 % of what is free now when None.
        environment: variables beside PATH, locale and the choice of the GPU.
    """
    limit = memory_bytes or int(SHARE * psutil.virtual_memory().available)
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        files[0].write(request.encode())
        files[0].seek(0)
        watch = Stopwatch()
        try:
            child = subprocess.Popen(
                command,
                stdin=files[0],
                stdout=files[1],
                stderr=files[2],
                env={**kept, **(environment or {})},
                start_new_session=True,
            )
        except OSError as error:
            return Ended("failed", f"could not start: {error.strerror or error}", "", "", 0.0, 0)
        with guarded(child.pid):
            kind, peak = _watch(child, timeout, limit)
        seconds = watch.seconds
        output, errors = _head(files[1]), _tail(files[2])
    reason = ""
    if kind == "timed-out":
        reason = f"did not end within {timeout:.3g} s"
    elif kind == "out-of-memory":
        reason = f"held {peak / 1e6:.0f} MB of memory where {limit / 1e6:.0f} MB are allowed"
    elif child.returncode:
        kind, reason = _ending(child.returncode)
    return Ended(kind, reason, output, errors, seconds, peak)


def run_script(
    script: Path, request: Mapping[str, Any], *, timeout: float, memory_bytes: int | None = None
) -> tuple[Ended, dict[str, Any]]:
    """Run one of our own self-contained scripts: a JSON request in, a JSON object out.

    Returns:
        How it ended, and its answer; the answer is empty unless it ended well. A script that ends
        well without an answer has failed.
    """
    command = (sys.executable, "-I", "-X", "faulthandler", str(script))
    fixed = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    ended = run_child(
        command,
        json.dumps(request) + "\n",
        timeout=timeout,
        memory_bytes=memory_bytes,
        environment=fixed,
    )
    if ended.kind != "ended":
        return ended, {}
    try:
        answer = json.loads(ended.output)
    except ValueError:
        answer = None
    if isinstance(answer, dict):
        return ended, answer
    last = ended.errors.strip().splitlines()[-1:] or ["nothing"]
    reason = f"gave no answer; the last it said: {last[0][:200]}"
    return Ended("failed", reason, "", ended.errors, ended.seconds, ended.peak_bytes), {}


def _watch(child: subprocess.Popen[bytes], timeout: float, limit: int) -> tuple[Kind, int]:
    """Wait for the child; kill all of its session when it passes a limit, or when we must go."""
    watch, peak = Stopwatch(), 0
    kind: Kind = "ended"
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(POLL)
                return kind, peak
            peak = max(peak, _resident(child.pid))
            if peak > limit:
                kind = "out-of-memory"
            elif watch.seconds > timeout:
                kind = "timed-out"
            if kind != "ended":
                _kill(child)
                return kind, peak
    except BaseException:
        _kill(child)
        raise


def _kill(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _resident(pid: int) -> int:
    """Resident bytes of a process and all its descendants; 0 once it is gone."""
    total = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += one.memory_info().rss
    return total


def _ending(code: int) -> tuple[Kind, str]:
    if code >= 0:
        return "failed", f"ended with code {code}"
    with contextlib.suppress(ValueError):
        name = signal.Signals(-code).name
        if name == "SIGKILL":  # none of ours: the kernel's when memory runs out
            return "out-of-memory", "was killed by the system, most likely for want of memory"
        return "crashed", f"was ended by {name}"
    return "crashed", f"was ended by signal {-code}"


def _head(file: Any) -> str:
    file.seek(0)
    return str(file.read(ANSWER_LIMIT).decode("utf-8", "replace"))


def _tail(file: Any) -> str:
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - TAIL))
    return str(file.read().decode("utf-8", "replace"))
