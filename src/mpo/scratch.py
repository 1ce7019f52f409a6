"""One folder for all temporary files of a command, so that what a killed one left can be told from
what a living one uses."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

PREFIX = "mpo-scratch-"
LOCK = ".lock"


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Inside the block, temporary files of this process and its children lie in a folder that goes
    with it; folders of commands that were killed go now. Where none can be made, nothing changes.
    """
    base = Path(tempfile.gettempdir())
    try:
        _sweep(base)
        folder, lock = _made(base)
    except OSError:
        yield base
        return
    before = tempfile.tempdir, os.environ.get("TMPDIR")
    with lock:
        tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
        try:
            yield folder
        finally:
            tempfile.tempdir = before[0]
            if before[1] is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before[1]
            shutil.rmtree(folder, ignore_errors=True)


def _made(base: Path) -> tuple[Path, IO[str]]:
    """A folder and its lock. One that another command, which starts at the same moment, swept away
    before it was locked is made again."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        with contextlib.suppress(FileNotFoundError):
            lock = (folder / LOCK).open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = True
            except BlockingIOError:  # it is being swept
                held = False
            except OSError:  # a file system without locks: there nothing is ever swept
                held = True
            if held and (folder / LOCK).exists():
                return folder, lock
            lock.close()


def _sweep(base: Path) -> None:
    """Delete the folders of this user whose lock nobody holds."""
    for folder in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            with (folder / LOCK).open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
