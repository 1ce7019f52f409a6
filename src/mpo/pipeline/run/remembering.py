"""Measuring that a kill does not undo: every answer of a target is kept while its stage is made."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from mpo.files import sha256
from mpo.profiles.jobs import Job, Target, parse_json
from mpo.runfolder import RunFolder, fingerprint

ANSWER = "answer.json"


class Remembering:
    """A target whose answers are parts of the stage under way.

    A stage that is made again after a kill asks the same questions in the same order, and has the
    answers that were whole without another process. A question that is asked again (until figures
    agree) is another one: its number is in the key.

    Attributes:
        name, device: of the target.
    """

    def __init__(self, target: Target, folder: RunFolder) -> None:
        self.name, self.device = target.name, target.device
        self._target, self._folder = target, folder
        self._asked: Counter[str] = Counter()
        self._hashes: dict[tuple[str, int, int], str] = {}

    def run(self, job: Job) -> dict[str, Any]:
        """The answer to the job, kept or new."""
        stage = self._folder.under_way
        if not stage:
            return self._target.run(job)
        digest = fingerprint([stage, self._question(job)])
        number, self._asked[digest] = self._asked[digest], self._asked[digest] + 1

        def make(folder: Path) -> None:
            (folder / ANSWER).write_text(json.dumps(self._target.run(job)), encoding="utf-8")

        part = self._folder.part(f"job-{digest[:16]}-{number}", digest, make)
        answer: dict[str, Any] = parse_json((part / ANSWER).read_text(encoding="utf-8"))
        return answer

    def close(self) -> None:
        """Leave nothing behind on the device."""
        self._target.close()

    def _question(self, job: Job) -> list[Any]:
        """What the answer depends on, the device aside: that is in the stage's own key."""
        files = {name: self._sha256(path) for name, path in job.files.items()}
        script = self._sha256(job.script)
        return [self.name, script, dict(job.request), files, dict(job.environment)]

    def _sha256(self, path: Path) -> str:
        """A file's hash; one that was not written since is not read again."""
        status = path.stat()
        key = (str(path), status.st_mtime_ns, status.st_size)
        if key not in self._hashes:
            self._hashes[key] = sha256(path)
        return self._hashes[key]
