"""One run's folder: stages kept by what they were made from, parts of the one that is being made,
results beside them."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mpo import files
from mpo.errors import MpoError
from mpo.files import full, out_of_space, place_of, remove, writable, write_atomic
from mpo.replacing import BEGUN, FORMATS, JOURNAL, RESULTS, STAGES, swap
from mpo.stages import DamageWarning, Manifest, discard, look, make, read_manifest, set_aside


def fingerprint(value: Any) -> str:
    """The sha256 of a JSON-able value, keys sorted."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Making:
    """A stage that is being made: its folder-to-be and the fingerprint of what it is made from."""

    target: Path
    key: str

    @property
    def parts(self) -> Path:
        """Where its parts are kept meanwhile."""
        return self.target.with_name(f".{self.target.name}.parts")


class RunFolder:
    """One run's folder, locked while open. Open it with `open_run`.

    Attributes:
        path: of the folder.
        seconds: what each stage took when it was made, by name, for the stages met so far.
    """

    def __init__(self, path: Path, lock: IO[str], replaces: Path | None = None) -> None:
        """Args:
        replaces: the folder of the older run whose place this one takes when it is settled.
        """
        self.path, self._lock, self._replaces = path, lock, replaces
        self._lines = _lines_of(path / JOURNAL)
        self.seconds: dict[str, float] = {}
        self._chain = ""
        self._written: set[str] = set()
        self._making: list[Making] = []

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def write(self, name: str, content: bytes | str) -> Path:
        """Write one file of the run, atomically."""
        target = self.path / name
        with writable(self.path):
            write_atomic(target, content)
        self._written.add(name)
        return target

    def place(self, source: Path, name: str) -> Path:
        """Copy a stage's file to the run's top, atomically."""
        return self.write(name, source.read_bytes())

    def journal(self, event: str, **facts: Any) -> None:
        """Append one line to journal.jsonl: numbered, since clocks jump; on a line of its own, even
        after one that a kill cut short."""
        path = self.path / JOURNAL
        line = json.dumps({"n": self._lines, "event": event, **facts}, default=str) + "\n"
        with writable(self.path):
            torn = path.is_file() and path.stat().st_size and not _ends_line(path)
            files.disk.append(path, (b"\n" if torn else b"") + line.encode())
            files.disk.sync(path)
        self._lines += 1

    def stage(self, name: str, key: Any, make: Callable[[Path], None]) -> Path:
        """The folder of a finished stage: kept when it was made from the same key after the very
        same stages and is whole, else made; then the results at the run's top, which are older,
        go first. What is damaged, or of a later mpo, is set aside with a warning.

        Args:
            name: of the stage.
            key: JSON-able; everything that the stage's result depends on, earlier stages aside.
            make: writes the stage's files into the folder it is given.
        """
        target = self.path / STAGES / name
        wanted = fingerprint({"key": key, "after": self._chain})
        making = Making(target, wanted)
        manifest = self._whole(target)
        if manifest is None or manifest["key"] != wanted:
            self._drop_results()
            manifest = self._make(making, make)
            self.journal("stage made", stage=name, key=wanted)
        else:
            self.journal("stage kept", stage=name)
        with writable(self.path):
            discard(making.parts)
        self.seconds[name] = float(manifest["seconds"])
        self._chain = fingerprint([wanted, manifest["files"]])
        return target

    def part(self, name: str, key: Any, make: Callable[[Path], None]) -> Path:
        """The folder of a finished part of the stage that is being made: kept, through a kill too,
        while the stage's own key and this one are the same and it is whole, else made. All parts
        go when their stage is finished.

        Args:
            name: of the part, a file name that does not start with a dot.
            key: JSON-able; what the part depends on beside what its stage depends on.
            make: writes the part's files into the folder it is given.

        Raises:
            RuntimeError: no stage is being made.
        """
        stage = self._under_way()
        target = stage.parts / name
        wanted = fingerprint({"key": key, "stage": stage.key})
        manifest = self._whole(target)
        if manifest is not None and manifest["key"] == wanted:
            self.journal("part kept", stage=stage.target.name, part=name)
            return target
        self._commit(target, {"key": wanted, "stage": stage.key}, make)
        self.journal("part made", stage=stage.target.name, part=name)
        return target

    def parts(self, prefix: str = "") -> list[str]:
        """The names, sorted, of whole parts of the stage that is being made."""
        stage = self._under_way()
        if not stage.parts.is_dir():
            return []
        found = [entry for entry in stage.parts.iterdir() if not entry.name.startswith(".")]
        whole = [entry.name for entry in found if _is_of(entry, stage)]
        return sorted(name for name in whole if name.startswith(prefix))

    def drop_part(self, name: str) -> None:
        """Delete a part that is not needed any more; none there is fine."""
        with writable(self.path):
            discard(self._under_way().parts / name)

    @property
    def under_way(self) -> str:
        """The fingerprint of what the stage that is being made is made from; "" between stages."""
        return self._making[-1].key if self._making else ""

    def settle(self) -> None:
        """The run has come to its end: with overwriting, it takes the older one's place now.

        Raises:
            MpoError: a stage of it is no longer whole; the older run stays.
        """
        if self._replaces is None:
            with writable(self.path):
                remove(self.path / BEGUN)
            return
        for folder in sorted((self.path / STAGES).glob("[!.]*")):
            if look(folder)[0] != "whole":
                raise MpoError(
                    f"The new run's stage {folder} is not whole; the older run stays.",
                    hint="Run the same command again; check the disk.",
                )
        with writable(self._replaces):
            swap(self.path, self._replaces)
        self.path, self._replaces = self._replaces, None

    def _under_way(self) -> Making:
        if not self._making:
            raise RuntimeError("a part outside of any stage")
        return self._making[-1]

    def _whole(self, target: Path) -> Manifest | None:
        """The manifest of a folder that is whole; what is there but cannot be used goes aside."""
        state, manifest = look(target)
        if state in ("damaged", "newer"):
            with writable(self.path):
                aside = set_aside(target, state)
            why = "is damaged" if state == "damaged" else "was written by a later mpo"
            text = f"{target} {why}: it is kept as {aside.name}, and made again."
            self.journal(f"{state} set aside", stage=target.name, kept_as=aside.name)
            warnings.warn(text, DamageWarning, stacklevel=3)
        return manifest

    def _make(self, stage: Making, fill: Callable[[Path], None]) -> Manifest:
        with writable(self.path):
            if stage.parts.is_dir():
                for entry in sorted(stage.parts.iterdir()):
                    if entry.name.endswith(".tmp"):
                        remove(entry)
                    elif look(entry)[0] == "whole" and not _is_of(entry, stage):
                        discard(entry)
        self._making.append(stage)
        try:
            return self._commit(stage.target, {"key": stage.key}, fill)
        finally:
            self._making.pop()

    def _commit(self, target: Path, facts: Manifest, fill: Callable[[Path], None]) -> Manifest:
        """Make a folder; a full disk is told as such, whichever library met it."""
        filling = False

        def filled(folder: Path) -> None:
            nonlocal filling
            filling = True
            fill(folder)
            filling = False

        try:
            return make(target, facts, filled)
        except MpoError:
            raise
        except Exception as error:
            if out_of_space(error):
                raise full(place_of(error, self.path)) from error
            if isinstance(error, OSError) and not filling:
                raise files.unwritten(self.path, error) from error
            raise

    def _drop_results(self) -> None:
        """Delete results that an earlier call left: they are of stages that are no more."""
        with writable(self.path):
            made = {path.name for path in self.path.glob(FORMATS)}
            for name in sorted(({*RESULTS} | made) - self._written):
                remove(self.path / name)

    def close(self) -> None:
        """Let go of the lock."""
        self._lock.close()


def _lines_of(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") if journal.is_file() else 0


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _is_of(part: Path, stage: Making) -> bool:
    """Whether a folder is a whole part of a stage, as it is made now."""
    manifest = read_manifest(part)
    return manifest is not None and manifest.get("stage") == stage.key
