"""Run folders: atomic files, stages committed by rename with the hashes of what they hold, one
writer at a time."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from mpo.errors import UsageError

MANIFEST = "stage.json"
RECIPE = "recipe.toml"


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """The sha256 of a JSON-able value, keys sorted."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file so that a reader sees the old one or the whole new one, even after a crash."""
    raw = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write into a UsageError that names the place."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"Cannot write to {path}: {error.strerror or error}.",
            hint="Free space there, or choose another folder with -o.",
        ) from error


class RunFolder:
    """One run's folder, locked while open. Open it with `open_run`."""

    def __init__(self, path: Path, lock: IO[str]) -> None:
        self.path, self._lock = path, lock

    def write(self, name: str, content: bytes | str) -> Path:
        """Write one file of the run, atomically."""
        target = self.path / name
        with writable(self.path):
            write_atomic(target, content)
        return target

    def place(self, source: Path, name: str) -> Path:
        """Copy a stage's file to the run's top, atomically."""
        return self.write(name, source.read_bytes())

    def journal(self, event: str, **facts: Any) -> None:
        """Append one line to journal.jsonl."""
        with writable(self.path), (self.path / "journal.jsonl").open("a") as file:
            file.write(json.dumps({"event": event, **facts}, sort_keys=True, default=str) + "\n")

    def stage(self, name: str, key: Any, make: Callable[[Path], None]) -> Path:
        """The folder of a finished stage: kept when it was made from the same key and is whole,
        else made.

        Args:
            name: of the stage.
            key: JSON-able; everything that the stage's result depends on.
            make: writes the stage's files into the folder it is given.
        """
        target, wanted = self.path / "stages" / name, fingerprint(key)
        if self._whole(target, wanted):
            self.journal("stage kept", stage=name)
            return target
        temporary = self.path / "stages" / f".{name}.tmp"
        with writable(self.path):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        try:
            make(temporary)
            with writable(self.path):
                self._commit(temporary, target, wanted)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self.journal("stage made", stage=name, key=wanted)
        return target

    def _whole(self, folder: Path, wanted: str) -> bool:
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            files = manifest["files"].items()
            return manifest["key"] == wanted and all(
                sha256(folder / name) == digest for name, digest in files
            )
        except (OSError, ValueError, KeyError, AttributeError):
            return False

    def _commit(self, temporary: Path, target: Path, key: str) -> None:
        files = {path.name: sha256(path) for path in sorted(temporary.iterdir())}
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        write_atomic(temporary / MANIFEST, json.dumps({"key": key, "files": files}, indent=1))
        shutil.rmtree(target, ignore_errors=True)
        temporary.replace(target)
        _sync_folder(target.parent)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the lock."""
        self._lock.close()


def open_run(path: Path, recipe: str, *, overwrite: bool = False) -> RunFolder:
    """Make or re-open a run folder for this recipe (its TOML
    text).

    The same recipe goes on where it stopped; another recipe's folder, or a folder that is no run,
    is refused.

    Raises:
        UsageError: the folder is something else, cannot be written, or another process works in it.
    """
    with writable(path):
        if path.exists() and not path.is_dir():
            raise UsageError(
                f"{path} is a file, not a folder.", hint="Choose another folder with -o."
            )
        known = path / RECIPE
        if path.is_dir() and any(path.iterdir()):
            same = known.is_file() and known.read_text() == recipe
            if not same and not (overwrite and known.is_file()):
                raise UsageError(
                    f"The output folder {path} exists and holds something else.",
                    hint="Choose another folder with -o, or replace that run with --overwrite.",
                )
        path.mkdir(parents=True, exist_ok=True)
        lock = _locked(path)
        if overwrite:
            _empty(path)
        write_atomic(known, recipe)
        return RunFolder(path, lock)


def _locked(path: Path) -> IO[str]:
    lock = (path / ".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise UsageError(
            f"Another mpo works in {path}.", hint="Wait for it, or choose another folder with -o."
        ) from error
    return lock


def _empty(path: Path) -> None:
    for entry in path.iterdir():
        if entry.name == ".lock":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
