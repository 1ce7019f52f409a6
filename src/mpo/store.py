"""Opening run folders: which one may be written, by whom, and what is there already."""

from __future__ import annotations

import json
import os
from pathlib import Path

from mpo.errors import UsageError
from mpo.files import make_folder, remove, sha256, sync_folder, writable, write_atomic
from mpo.locks import LOCK, locked
from mpo.runfolder import FORMATS, JOURNAL, RESULTS, STAGES, RunFolder, fingerprint
from mpo.stages import read_manifest

__all__ = [
    "MARKER",
    "RECIPE",
    "RunFolder",
    "fingerprint",
    "open_run",
    "read_manifest",
    "sha256",
    "started_in",
    "sync_folder",
    "writable",
    "write_atomic",
]

RECIPE = "recipe.toml"
MARKER = ".mpo-run"  # only a folder that holds it is ever emptied
OWN = (*RESULTS, RECIPE, JOURNAL, STAGES, MARKER)


def open_run(path: Path, recipe: str, *, overwrite: bool = False) -> RunFolder:
    """Make or re-open a run folder for this recipe (its TOML text).

    The same recipe goes on where it stopped; another recipe's folder, or a folder that is no run,
    is refused. The marker file keeps the way from the folder to where the run was started, so that
    the subject's path can be found again.

    Args:
        overwrite: throw away the run that is there, finished stages included; a folder that mpo
            did not make is still refused.

    Raises:
        UsageError: the folder is something else, or cannot be written.
        MpoError: another process works in it.
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
        make_folder(path)
        lock = locked(path)
        if overwrite:
            _empty(path)
        for left in path.glob(".*.tmp"):  # of a writer that was killed
            remove(left)
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


def _empty(path: Path) -> None:
    """Delete what mpo writes, the marker last, so that a killed deletion can be gone on with."""
    for name in dict.fromkeys((*(one.name for one in path.glob(FORMATS)), *OWN)):
        remove(path / name)
