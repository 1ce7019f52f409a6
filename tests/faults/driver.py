"""Real runs of the tiny subject, each in a fork of one process that has everything imported:
`python -m tests.faults.driver FOLDER SPEC...`, where a SPEC is "-" for a run that is left alone, or
"before rename original" for one that is killed there. One JSON line each: how it ended, and the
operations that it went through."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import mpo
from mpo.profiles import targets
from mpo.profiles.jobs import Job
from mpo.profiles.local import LocalTarget
from tests.faults import disks
from tests.pipeline.benchmodels import quiet_solo


class Instant(LocalTarget):
    """This machine; what a model costs it says at once, since here nothing depends on it."""

    def run(self, job: Job) -> dict[str, Any]:
        """The answer."""
        if job.request.get("job") == "turns":
            return {"p10_ms": [1.0] * len(job.request["models"]), "rounds": 40}
        found = quiet_solo(job)
        return super().run(job) if found is None else found


SUBJECT = Path(__file__).parents[1] / "subjects" / "tiny.py"
OPTIONS = {"epochs": 1, "candidates": 1, "threads": 1, "effort": "quick"}


class KillingAt(disks.Counting):
    """Kills the process before or after an operation that is named as `Counting.log` names it."""

    def __init__(self, when: str, name: str) -> None:
        super().__init__()
        self.when, self.name = when, name

    def step(self, name: str, path: Path, raw: bytes = b"") -> None:
        super().step(name, path, raw)
        if self.when == "before":
            self.end()

    def after(self, path: Path) -> None:
        if self.when == "after":
            self.end()

    def end(self) -> None:
        if self.log[-1].replace(f".{os.getpid()}.tmp", ".tmp") == self.name:
            os.kill(os.getpid(), 9)


def imported_once() -> None:
    """What every run imports on its way, so that no fork has to."""
    import onnxscript  # noqa: F401
    import torch

    import mpo.api.runs  # noqa: F401

    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])


def run(folder: Path, spec: str) -> None:
    """One run, in the process that calls."""
    when, _, name = spec.partition(" ")
    disk = disks.Counting() if spec == "-" else KillingAt(when, name)
    targets.LocalTarget = Instant  # type: ignore[attr-defined]
    with disks.on(disk):
        mpo.optimize(SUBJECT, "params=70%", output=folder, **OPTIONS)  # type: ignore[arg-type]
    tell(disk.log)


def tell(what: object) -> None:
    """One line of JSON."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Fork, wait, say how it ended."""
    imported_once()
    folder = Path(sys.argv[1])
    for spec in sys.argv[2:]:
        pid = os.fork()
        if pid == 0:
            run(folder, spec)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        tell({"spec": spec, "ended": os.waitstatus_to_exitcode(status)})


if __name__ == "__main__":
    main()
