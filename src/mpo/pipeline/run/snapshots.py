"""Snapshots of long work in the run's folder: the last two, as parts of the stage under way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mpo.errors import MpoError
from mpo.optimizer.files.snapshots import Snapshot, read_snapshot, write_snapshot
from mpo.replacing import JOURNAL
from mpo.runfolder import RunFolder, fingerprint

GENERATIONS = 2


class FolderKeeper:
    """Keeps the last two snapshots of one piece of work; the older one serves when the newer is
    damaged.

    A finished training keeps one, its result.

    Args:
        folder: the run's; a stage must be being made when snapshots are read or kept.
        key: JSON-able; which work it is, beside what the stage depends on.
        what: is kept: "training", "similarity".
    """

    def __init__(self, folder: RunFolder, key: Any, what: str = "training") -> None:
        self._folder, self._key, self._what = folder, key, what
        # the stage's key, too: snapshots of one that has changed are not lost ones of this
        self._prefix = f"{what}-{fingerprint([key, folder.under_way])[:16]}-"
        self.warnings: list[str] = []

    def newest(self) -> Snapshot | None:
        """The newest whole snapshot; None when there is none."""
        names = self._folder.parts(self._prefix)
        lost = (last := self._last_made()) is not None and last not in names
        for name in reversed(names):
            try:
                found = read_snapshot(self._folder.part(name, self._key, _absent))
            except MpoError:
                lost = True
                self._folder.drop_part(name)
                continue
            if lost:
                self.warnings.append(
                    f"the newest snapshot of {self._what} was damaged: went on from the one "
                    f"before, of step {found.step}"
                )
            return found
        if lost:
            self.warnings.append(f"no snapshot of {self._what} was whole: begun anew")
        return None

    def keep(self, snapshot: Snapshot) -> None:
        """Keep a snapshot, and of the older ones the newest."""
        names = self._folder.parts(self._prefix)
        number = int(names[-1].removeprefix(self._prefix)) + 1 if names else 1
        name = f"{self._prefix}{number:06d}"
        self._folder.drop_part(name)  # a damaged one
        self._folder.part(name, self._key, lambda folder: write_snapshot(folder, snapshot))
        older = names if snapshot.facts.get("finished") else names[: 1 - GENERATIONS]
        for one in older:
            self._folder.drop_part(one)

    def _last_made(self) -> str | None:
        """The part that was kept last, as the run's journal tells."""
        path, last = self._folder.path / JOURNAL, None
        lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:  # torn by a kill
                continue
            if not isinstance(entry, dict):
                continue
            if entry.get("event") == "stage made":
                last = None
            elif entry.get("event") == "part made":
                name = str(entry.get("part"))
                last = name if name.startswith(self._prefix) else last
        return last


def _absent(folder: Path) -> None:
    raise MpoError("The snapshot belongs to other work.")
