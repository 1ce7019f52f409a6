"""Opening run folders: which one may be written, by whom, and what is there already."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import IO

from mpo import files
from mpo.errors import UsageError
from mpo.files import make_folder, remove, writable, write_atomic
from mpo.locks import LOCK, locked
from mpo.replacing import BEGUN, MARKER, NEW, READY, RECIPE, STAGES, finish_swap
from mpo.runfolder import RunFolder

PROBE = ".mpo-probe"  # made and deleted, to see whether a place can be written


def open_run(path: Path, recipe: str, *, overwrite: bool = False) -> RunFolder:
    """Make or re-open a run folder for this recipe (its TOML text).

    The same recipe goes on where it stopped; another recipe's folder, or a folder that is no run,
    is refused. The marker file keeps the way from the folder to where the run was started, so that
    the subject's path can be found again.

    Args:
        overwrite: replace the run that is there, finished stages included. It stays until the new
            one, which grows beside it, is settled; a folder that mpo did not make is still refused.

    Raises:
        UsageError: the folder is something else, or cannot be written.
        MpoError: another process works in it.
    """
    _require_ours(path, recipe, overwrite=overwrite)
    with writable(path):
        make_folder(path)
        lock = locked(path)
        try:
            return _opened(path, recipe, lock, overwrite=overwrite)
        except BaseException:
            lock.close()
            raise


def require_place(path: Path, recipe: str, *, overwrite: bool = False) -> None:
    """Refuse, before any work, a place that `open_run` would refuse or that cannot be written.

    Raises:
        UsageError: as said.
    """
    _require_ours(path, recipe, overwrite=overwrite)
    place = path
    while not place.exists() and place.parent != place:
        place = place.parent
    with writable(path):
        with contextlib.suppress(FileExistsError):  # of a killed one, or of another at this moment
            files.disk.mkdir(place / PROBE)
        with contextlib.suppress(FileNotFoundError):
            files.disk.rmdir(place / PROBE)


def _of_a_start(name: str) -> bool:
    """Whether a file is of a run that was killed before its folder was marked."""
    drafts = tuple(f".{one}." for one in (MARKER, RECIPE))
    return name in (LOCK, PROBE) or (name.startswith(drafts) and name.endswith(".tmp"))


def _require_ours(path: Path, recipe: str, *, overwrite: bool) -> None:
    with writable(path):
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is a file, not a folder.", hint="Choose another with -o.")
        fresh = not path.is_dir() or all(_of_a_start(entry.name) for entry in path.iterdir())
        decided = (path / NEW / READY).is_file()
        known = path / NEW / RECIPE
        known = known if decided and known.is_file() else path / RECIPE
        ours = decided or (path / MARKER).is_file()
        same = ours and (not known.is_file() or known.read_text() == recipe)
    if not fresh and not same and not (overwrite and ours):
        raise UsageError(
            f"The output folder {path} exists and holds something else.",
            hint="Choose another folder with -o"
            + (", or replace that run with --overwrite." if ours else "."),
        )


def _opened(path: Path, recipe: str, lock: IO[str], *, overwrite: bool) -> RunFolder:
    """The folder to write into, tidied of what a killed writer left."""
    goes_on = finish_swap(path) or (path / BEGUN).is_file()
    goes_on = goes_on and _recipe_of(path) == recipe
    new = path / NEW
    replaces = overwrite and (path / RECIPE).is_file() and not goes_on
    if new.is_dir() and not (replaces and _recipe_of(new) == recipe):
        remove(new)
    home = new if replaces else path
    make_folder(home)
    for left in (path / PROBE, *home.glob(".*.tmp"), *(home / STAGES).glob(".*.tmp")):
        remove(left)
    write_atomic(home / MARKER, json.dumps({"started_in": os.path.relpath(Path.cwd(), path)}))
    write_atomic(home / RECIPE, recipe)
    if not replaces:
        _mark_begun(path, overwrite=overwrite)
    return RunFolder(home, lock, path if replaces else None)


def _mark_begun(path: Path, *, overwrite: bool) -> None:
    """Know the run here again by the same command: with --overwrite it goes on, too, until it has
    come to its end."""
    if overwrite:
        write_atomic(path / BEGUN, "")
    else:
        remove(path / BEGUN)


def _recipe_of(folder: Path) -> str | None:
    try:
        return (folder / RECIPE).read_text()
    except OSError:
        return None


def started_in(run: Path) -> Path:
    """The folder that a run was started in, as seen from here."""
    try:
        way = json.loads((run / MARKER).read_text())["started_in"]
    except (OSError, ValueError, KeyError, TypeError):
        return Path.cwd()
    return (run / str(way)).resolve()
