"""A question to a device, answered by a script in a fresh process there; and what answers it.

A script is one self-contained Python file (standard library, numpy, onnxruntime; Python >= 3.8). It
reads one JSON line on stdin, the job's request with "files": {name: path on the device} added, and
writes one JSON answer on stdout: its result, or {"error": "what happened", "hint": "what to do"}.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mpo.errors import MpoError, UsageError

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


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


def checked(answer: Any, what: str) -> dict[str, Any]:
    """The answer when it is a result.

    Raises:
        UsageError: the script says what is missing.
        MpoError: the answer is no JSON object.
    """
    if not isinstance(answer, dict):
        raise MpoError(f"The process that {what} gave no answer, but {type(answer).__name__}.")
    if "error" in answer:
        raise UsageError(str(answer["error"]), hint=str(answer.get("hint", "")))
    return answer
