"""A question to a device, answered by a script in a fresh process there; and what answers it.

A script is one self-contained Python file (standard library, numpy, onnxruntime; Python >= 3.8). It
reads one JSON line on stdin, the job's request with "files": {name: path on the device} added, and
writes one JSON answer on stdout: its result, or {"error": "what happened", "hint": "what to do"}.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

from mpo.errors import MpoError, RefusedError, UsageError

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# The child's parent is this small shell and not a process that holds much memory: the kernel hands
# a parent's peak memory down to its child (MEASURING.md 1.3 g).
LAUNCHER = ("/bin/sh", "-c", '"$@"; exit $?', "mpo-measure")
KEPT = ("PATH", "LD_LIBRARY_PATH", "TMPDIR", "LANG", "LC_ALL")
FIXED = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
TAIL = 600


@dataclass(frozen=True)
class Job:
    """One question.

    Attributes:
        what: what it does, for messages: "measured m.onnx".
        script: the file that answers it.
        request: JSON-able.
        files: by relative name, what the script reads; files that belong together (a model and its
            external data) share a folder there as they do here.
        environment: variables that the script's process has beside the device's PATH and locale.
        timeout: seconds; then the process is killed.
    """

    what: str
    script: Path
    request: Mapping[str, Any]
    files: Mapping[str, Path] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 300.0


class Target(Protocol):
    """A device that answers jobs, one at a time. Close it when done.

    Attributes:
        name: as it was asked for: "local", "local:cuda:0", "ssh://user@host:22".
        device: where models run on it: "cpu" or "cuda:0".
    """

    name: str
    device: str

    def run(self, job: Job) -> dict[str, Any]:
        """The answer to the job, from a fresh process.

        Raises:
            UsageError: the device cannot answer until the user does something.
            MpoError: the process could not start, ran out of time, crashed, or gave no answer.
        """

    def close(self) -> None:
        """Leave nothing behind on the device."""


def thread_counts(threads: int) -> dict[str, str]:
    """Environment variables that hold every numeric library to `threads` threads."""
    return dict.fromkeys(THREADS, str(threads))


def read_answer(job: Job, code: int, output: str, errors: str) -> dict[str, Any]:
    """What a finished process says; how a failed one ended, in one sentence.

    Raises:
        UsageError: the script says what is missing.
        RefusedError: figures that are no numbers.
        MpoError: the process failed, or gave no answer.
    """
    if code:
        raise MpoError(
            f"The process that {job.what} {_ending(code)}{last_words(errors)}",
            hint="The model may be too large for the device's memory, or no valid ONNX file.",
        )
    try:
        answer = parse_json(output)
    except ValueError as error:
        raise MpoError(f"The process that {job.what} gave no answer{last_words(errors)}") from error
    return checked(answer, job.what)


def too_slow(job: Job) -> MpoError:
    """The error for a process that had to be killed."""
    return MpoError(
        f"The process that {job.what} did not end within {job.timeout:.0f} s.",
        hint="The machine may be overloaded, or the model too large for its memory.",
    )


def checked(answer: Any, what: str) -> dict[str, Any]:
    """The answer when it is a result.

    Raises:
        UsageError: the script says what is missing.
        MpoError: the answer is no JSON object.
    """
    if not isinstance(answer, dict):
        raise MpoError(f"The process that {what} gave no answer, but {type(answer).__name__}.")
    if "error" in answer:
        raise UsageError(plain(answer["error"]), hint=plain(answer.get("hint", "")))
    return answer


def parse_json(text: str | bytes) -> Any:
    """What a device wrote as JSON, every number of it finite.

    Raises:
        ValueError: no JSON.
        RefusedError: NaN, an infinity, or a number beyond all numbers: no device measures that.
    """
    try:
        return json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def plain(text: object) -> str:
    """What a device says, fit for a terminal: printable characters, and not too many."""
    said = str(text)[: 2 * TAIL]
    return "".join(one if one.isprintable() else " " for one in said)[:TAIL].strip()


def last_words(errors: str) -> str:
    """ ": " and the last line of what a process wrote as errors; a full stop when it wrote none."""
    lines = [line.strip() for line in errors[-TAIL:].splitlines() if line.strip()]
    return f": {plain(lines[-1])}" if lines else "."


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


def _no_number(text: str) -> NoReturn:
    raise RefusedError(
        f"The device gave {text[:20]} where a number must stand.",
        hint="Its figures cannot be used; check the device.",
    )


def _ending(code: int) -> str:
    number = code - 128 if code > 128 else -code
    with contextlib.suppress(ValueError):
        if number > 0:
            return f"was ended by {signal.Signals(number).name}"
    return f"ended with code {code}"
