"""Locks of the operating system: gone with the process, however it ends."""

from __future__ import annotations

import fcntl
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from mpo.errors import MpoError, UsageError

LOCK = ".lock"


def locked(path: Path) -> IO[str]:
    """The folder's lock, which the system lets go of when the process ends, however it ends; the
    file says who holds it."""
    lock = (path / LOCK).open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        owner = lock.read().strip()
        lock.close()
        raise MpoError(
            f"Another mpo works in {path}{f': {owner}' if owner else ''}.",
            hint="Wait for it, or choose another folder with -o.",
        ) from error
    except OSError as error:  # a network file system without locks
        lock.close()
        raise UsageError(
            f"{path} cannot be locked: {error.strerror or error}.",
            hint="Choose a folder on a local disk with -o.",
        ) from error
    lock.truncate(0)
    lock.write(f"process {os.getpid()} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n")
    lock.flush()
    return lock
