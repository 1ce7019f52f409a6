"""Disks that fail, fill up, end the process, or forget what was not synced.

Each stands in the place of `mpo.files.disk`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

from mpo import files
from mpo.files import Disk

When = Literal["before", "after"]
D = TypeVar("D", bound=Disk)


class Stopped(BaseException):
    """The process is gone, as far as the disk can tell."""


class Counting(Disk):
    """Counts the operations that change something.

    Attributes:
        count: so far.
        log: their names, and of the last paths their names.
    """

    def __init__(self) -> None:
        self.count, self.log = 0, list[str]()

    def step(self, name: str, path: Path, raw: bytes = b"") -> None:
        self.count += 1
        self.log.append(f"{name} {path.name}")

    def write(self, path: Path, raw: bytes) -> None:
        self.step("write", path, raw)
        super().write(path, raw)
        self.after(path)

    def append(self, path: Path, raw: bytes) -> None:
        self.step("append", path, raw)
        super().append(path, raw)
        self.after(path)

    def sync(self, path: Path) -> None:
        """Only counted: a disk that is shared takes its time, and no test pulls a real plug."""
        self.step("sync", path)
        path.stat()
        self.after(path)

    def rename(self, old: Path, new: Path) -> None:
        self.step("rename", new)
        super().rename(old, new)
        self.after(new)

    def unlink(self, path: Path) -> None:
        self.step("unlink", path)
        super().unlink(path)
        self.after(path)

    def mkdir(self, path: Path) -> None:
        self.step("mkdir", path)
        super().mkdir(path)
        self.after(path)

    def rmdir(self, path: Path) -> None:
        self.step("rmdir", path)
        super().rmdir(path)
        self.after(path)

    def after(self, path: Path) -> None:
        """An operation is done."""


class Failing(Counting):
    """The n-th operation fails; a write leaves half of what it was to write."""

    def __init__(self, n: int, number: int) -> None:
        super().__init__()
        self.n, self.number = n, number

    def step(self, name: str, path: Path, raw: bytes = b"") -> None:
        super().step(name, path, raw)
        if self.count == self.n:
            if name == "write":
                path.write_bytes(raw[: len(raw) // 2])
            raise OSError(self.number, os.strerror(self.number), str(path))


class Full(Counting):
    """From the n-th operation on, nothing more can be stored; deleting works."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def step(self, name: str, path: Path, raw: bytes = b"") -> None:
        super().step(name, path, raw)
        if self.count >= self.n and name in ("write", "append", "mkdir"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def free(self, path: Path) -> int:
        return 512


class Stopping(Counting):
    """The process ends before or after the n-th operation: from then on nothing is done, not even
    what a handler would tidy up."""

    def __init__(self, n: int, when: When = "before") -> None:
        super().__init__()
        self.n, self.when = n, when

    def step(self, name: str, path: Path, raw: bytes = b"") -> None:
        super().step(name, path, raw)
        if self.count > self.n or (self.count == self.n and self.when == "before"):
            self.end()

    def after(self, path: Path) -> None:
        if self.count == self.n and self.when == "after":
            self.end()

    def end(self) -> None:
        raise Stopped


class Killing(Stopping):
    """The process is killed before or after the n-th operation, for real."""

    def end(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Forgetful(Stopping):
    """At the n-th operation the power goes: files that were not synced are empty, names that were
    not synced are as they were before."""

    def __init__(self, n: int, when: When = "before") -> None:
        super().__init__(n, when)
        self._synced: set[int] = set()
        self._renamed: list[tuple[Path, Path]] = []

    def write(self, path: Path, raw: bytes) -> None:
        super().write(path, raw)
        self._synced.discard(path.stat().st_ino)

    def append(self, path: Path, raw: bytes) -> None:
        super().append(path, raw)
        self._synced.discard(path.stat().st_ino)

    def unlink(self, path: Path) -> None:
        if path.exists():
            self._synced.discard(path.stat().st_ino)
        super().unlink(path)

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        self._renamed.append((old, new))

    def sync(self, path: Path) -> None:
        super().sync(path)
        self._synced.add(path.stat().st_ino)
        self._renamed = [one for one in self._renamed if one[1].parent != path]

    def know(self, inodes: Iterable[int]) -> None:
        """Files that lay there long enough."""
        self._synced.update(inodes)

    def lose_power(self, root: Path) -> None:
        """What the disk is like when the machine comes up again."""
        for old, new in reversed(self._renamed):
            if new.exists() and not old.exists() and old.parent.is_dir():
                new.replace(old)
        for path in root.rglob("*"):
            if path.is_file() and path.stat().st_ino not in self._synced:
                path.write_bytes(b"")


@contextlib.contextmanager
def on(disk: D) -> Iterator[D]:
    """Inside the block, every file operation goes through this disk."""
    before = files.disk
    files.disk = disk
    try:
        yield disk
    finally:
        files.disk = before
