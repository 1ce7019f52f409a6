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
from mpo.timing import Stopwatch

MANIFEST = "stage.json"
RECIPE = "recipe.toml"
MARKER = ".mpo-run"  # only a folder that holds it is ever emptied
LOCK = ".lock"
RESULTS = (
    "bench.json",
    "contract.json",
    "device.json",
    "model.onnx",
    "model.onnx.data",
    "model.safetensors",
    "original.onnx",
    "original.onnx.data",
    "plan.json",
    "report.html",
    "report.json",
    "report.md",
    "similarity.npz",
    "witnesses.npz",
)
FORMATS = "model.*"  # the result in whatever format a plugin makes
OWN = (*RESULTS, RECIPE, "journal.jsonl", "stages", MARKER)


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
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make what was renamed in a folder last through a crash."""
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
    """One run's folder, locked while open. Open it with `open_run`.

    Attributes:
        path: of the folder.
        seconds: what each stage took when it was made, by name, for the stages met so far.
    """

    def __init__(self, path: Path, lock: IO[str]) -> None:
        self.path, self._lock = path, lock
        self.seconds: dict[str, float] = {}
        self._chain = ""
        self._written: set[str] = set()

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
        """Append one line to journal.jsonl."""
        with writable(self.path), (self.path / "journal.jsonl").open("a") as file:
            file.write(json.dumps({"event": event, **facts}, sort_keys=True, default=str) + "\n")

    def stage(self, name: str, key: Any, make: Callable[[Path], None]) -> Path:
        """The folder of a finished stage: kept when it was made from the same key after the very
        same stages and is whole, else made; then the results at the run's top, which are older,
        go first.

        Args:
            name: of the stage.
            key: JSON-able; everything that the stage's result depends on, earlier stages aside.
            make: writes the stage's files into the folder it is given.
        """
        target = self.path / "stages" / name
        wanted = fingerprint({"key": key, "after": self._chain})
        manifest = read_manifest(target)
        if manifest is None or manifest["key"] != wanted:
            self._drop_results()
            manifest = self._make(target, wanted, make)
            self.journal("stage made", stage=name, key=wanted)
        else:
            self.journal("stage kept", stage=name)
        self.seconds[name] = float(manifest["seconds"])
        self._chain = fingerprint([wanted, manifest["files"]])
        return target

    def _make(self, target: Path, key: str, make: Callable[[Path], None]) -> dict[str, Any]:
        temporary = target.with_name(f".{target.name}.tmp")
        with writable(self.path):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        watch = Stopwatch()
        try:
            make(temporary)
            with writable(self.path):
                return _commit(temporary, target, key, watch.seconds)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _drop_results(self) -> None:
        """Delete results that an earlier call left: they are of stages that are no more."""
        with writable(self.path):
            made = {path.name for path in self.path.glob(FORMATS)}
            for name in ({*RESULTS} | made) - self._written:
                (self.path / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the lock."""
        self._lock.close()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What a finished stage says of itself; None when it is not whole to the last byte."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        whole = all(sha256(folder / name) == digest for name, digest in manifest["files"].items())
        return manifest if whole and {"key", "seconds"} <= manifest.keys() else None
    except (OSError, ValueError, KeyError, AttributeError):
        return None


def _commit(temporary: Path, target: Path, key: str, seconds: float) -> dict[str, Any]:
    files = {path.name: sha256(path) for path in sorted(temporary.iterdir())}
    for path in temporary.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    manifest = {"key": key, "seconds": seconds, "files": files}
    write_atomic(temporary / MANIFEST, json.dumps(manifest, indent=1))
    shutil.rmtree(target, ignore_errors=True)
    temporary.replace(target)
    sync_folder(target.parent)
    return manifest


def open_run(path: Path, recipe: str, *, overwrite: bool = False) -> RunFolder:
    """Make or re-open a run folder for this recipe (its TOML text).

    The same recipe goes on where it stopped; another recipe's folder, or a folder that is no run,
    is refused. The marker file keeps the way from the folder to where the run was started, so that
    the subject's path can be found again.

    Args:
        overwrite: throw away the run that is there, finished stages included; a folder that mpo
            did not make is still refused.

    Raises:
        UsageError: the folder is something else, cannot be written, or another process works in it.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file, not a folder.", hint="Choose another folder with -o.")
    with writable(path):
        fresh = not path.is_dir() or not any(entry.name != LOCK for entry in path.iterdir())
        known = path / RECIPE
        ours = (path / MARKER).is_file()
        same = ours and (not known.is_file() or known.read_text() == recipe)
        if not fresh and not same and not (overwrite and ours):
            raise UsageError(
                f"The output folder {path} exists and holds something else.",
                hint="Choose another folder with -o"
                + (", or replace that run with --overwrite." if ours else "."),
            )
        path.mkdir(parents=True, exist_ok=True)
        lock = _locked(path)
        if overwrite:
            _empty(path)
        for left in path.glob(".*.tmp"):  # of a writer that was killed
            left.unlink()
        write_atomic(path / MARKER, json.dumps({"started_in": os.path.relpath(Path.cwd(), path)}))
        write_atomic(known, recipe)
        return RunFolder(path, lock)


def started_in(run: Path) -> Path:
    """The folder that a run was started in, as seen from here."""
    try:
        way = json.loads((run / MARKER).read_text())["started_in"]
    except (OSError, ValueError, KeyError, TypeError):
        return Path.cwd()
    return (run / str(way)).resolve()


def _locked(path: Path) -> IO[str]:
    lock = (path / LOCK).open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise UsageError(
            f"Another mpo works in {path}.", hint="Wait for it, or choose another folder with -o."
        ) from error
    return lock


def _empty(path: Path) -> None:
    """Delete what mpo writes, the marker last, so that a killed deletion can be gone on with."""
    for name in dict.fromkeys((*(one.name for one in path.glob(FORMATS)), *OWN)):
        entry = path / name
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)
