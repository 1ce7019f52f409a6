"""A finished stage, or part of one, as a folder: committed by rename with the hashes of its files,
and found again only when it is whole."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from mpo import files
from mpo.files import make_folder, remove, sha256, write_atomic
from mpo.timing import Stopwatch

MANIFEST = "stage.json"
SCHEMA = "mpo.stage/1"
State = Literal["whole", "missing", "damaged", "newer"]
Manifest = dict[str, Any]


class DamageWarning(UserWarning):
    """Something that a run folder kept is not what was written, or is of a later mpo."""


def read_manifest(folder: Path) -> Manifest | None:
    """What a finished stage says of itself; None when it is not whole to the last byte."""
    return look(folder)[1]


def look(folder: Path) -> tuple[State, Manifest | None]:
    """How a stage's folder is, and what its manifest says when it is whole.

    "newer": written by a later mpo, in a schema that this one does not know.
    """
    if not folder.is_dir():
        return "missing", None
    try:
        manifest: Manifest = json.loads((folder / MANIFEST).read_text())
        schema = str(manifest.get("schema", SCHEMA))
        if schema != SCHEMA and schema.startswith("mpo.stage/"):
            return "newer", None
        whole = all(sha256(folder / name) == digest for name, digest in manifest["files"].items())
        if whole and {"key", "seconds"} <= manifest.keys():
            return "whole", manifest
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        pass
    return "damaged", None


def make(target: Path, facts: Manifest, fill: Callable[[Path], None]) -> Manifest:
    """Let `fill` write files into a temporary folder, and put it into the place of `target`.

    Args:
        facts: what the manifest keeps beside the seconds it took and the hashes of the files.

    Returns:
        The manifest.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    remove(temporary)
    make_folder(temporary)
    watch = Stopwatch()
    try:
        fill(temporary)
        manifest = {"schema": SCHEMA, **facts, "seconds": watch.seconds}
        _commit(temporary, target, manifest)
    finally:
        with contextlib.suppress(OSError):
            remove(temporary)
    return manifest


def set_aside(folder: Path, state: State) -> Path:
    """Move what cannot be used out of the way: of damaged ones the last is kept, of those of a
    later mpo every one."""
    aside = folder.with_name(f".{folder.name}.{state}")
    if state == "damaged":
        remove(aside)
    else:
        aside = next(place for place in _numbered(aside) if not place.exists())
    files.disk.rename(folder, aside)
    return aside


def discard(folder: Path) -> None:
    """Delete a folder that was committed: first its name, at once, so that a kill in the middle
    leaves nothing that looks damaged; nothing there is fine."""
    if folder.is_dir():
        gone = folder.with_name(f".{folder.name.lstrip('.')}.gone.tmp")
        remove(gone)
        files.disk.rename(folder, gone)
        files.disk.sync(gone.parent)
        remove(gone)


def _numbered(first: Path) -> Iterator[Path]:
    yield first
    number = 2
    while True:
        yield first.with_name(f"{first.name}-{number}")
        number += 1


def _commit(temporary: Path, target: Path, manifest: Manifest) -> None:
    """Sync everything, write the manifest (which syncs the folder), and only then rename."""
    entries = sorted(temporary.rglob("*"))
    held = [entry for entry in entries if entry.is_file()]
    manifest["files"] = {entry.relative_to(temporary).as_posix(): sha256(entry) for entry in held}
    for entry in entries:
        files.disk.sync(entry)
    write_atomic(temporary / MANIFEST, json.dumps(manifest, indent=1))
    discard(target)
    files.disk.rename(temporary, target)
    files.disk.sync(target.parent)
