"""Files that are whole or not there: every write, sync, rename and deletion of run folders.

All of them go through `disk`, a handful of operations in one place, so that tests can let the n-th
one fail, or end the process there, and see what is left.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from mpo.errors import MpoError, UsageError

# The disk is full, a quota or a limit on the size of files is reached: not the user's input.
SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SPACE_TEXTS = ("No space left on device", "os error 28", "Disk quota exceeded", "File too large")
# What another place, or other rights on this one, would mend.
PLACE = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EINVAL,
)


class Disk:
    """The operations that change a disk."""

    def write(self, path: Path, raw: bytes) -> None:
        """Write a new file, or over an old one."""
        with path.open("wb") as file:
            file.write(raw)

    def append(self, path: Path, raw: bytes) -> None:
        """Write at the end of a file."""
        with path.open("ab") as file:
            file.write(raw)

    def sync(self, path: Path) -> None:
        """Make a file's content, or a folder's entries, last through a loss of power."""
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def rename(self, old: Path, new: Path) -> None:
        """Move a file or folder; a file at `new` is replaced."""
        old.replace(new)

    def unlink(self, path: Path) -> None:
        """Delete a file or a link."""
        path.unlink()

    def mkdir(self, path: Path) -> None:
        """Make a folder; its parent must be there."""
        path.mkdir()

    def rmdir(self, path: Path) -> None:
        """Delete an empty folder."""
        path.rmdir()

    def free(self, path: Path) -> int:
        """Bytes that may still be written below a folder that is there."""
        return shutil.disk_usage(path).free


disk = Disk()


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file so that a reader sees the old one or the whole new one, even after a crash."""
    raw = content.encode() if isinstance(content, str) else content
    with replacing(path) as temporary:
        try:
            disk.write(temporary, raw)
        except OSError as error:
            raise unwritten(path, error, len(raw)) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside `path` to write a file to; it is synced and becomes `path` at the end, or is
    gone when the block raises. What a killed writer of the same file left goes too."""
    for left in path.parent.glob(f".{_escaped(path.name)}.*.tmp"):
        if not _alive(left):
            disk.unlink(left)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        disk.sync(temporary)
        disk.rename(temporary, path)
        disk.sync(path.parent)
    finally:
        with contextlib.suppress(OSError):
            disk.unlink(temporary)


def make_folder(path: Path) -> None:
    """Make a folder and its parents, where they are not there yet."""
    if not path.is_dir():
        if path.parent != path:
            make_folder(path.parent)
        try:
            disk.mkdir(path)
        except FileExistsError:  # another run made it just now
            if not path.is_dir():
                raise


def remove(path: Path) -> None:
    """Delete a file, a link, or a folder with all that is in it; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        for entry in sorted(path.iterdir()):
            remove(entry)
        disk.rmdir(path)
    elif path.is_symlink() or path.exists():
        disk.unlink(path)


@contextlib.contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write into an error that names the place."""
    try:
        yield
    except OSError as error:
        raise unwritten(path, error) from error


def unwritten(path: Path, error: OSError, needed: int | None = None) -> MpoError:
    """The error for a write that failed: a UsageError when another place or other rights mend it,
    else an MpoError; a full disk with its numbers.

    Args:
        needed: bytes that were to be written.
    """
    if error.errno in SPACE:
        return full(path, needed)
    kind = UsageError if error.errno in PLACE else MpoError
    return kind(
        f"Cannot write to {path}: {error.strerror or error}.",
        hint="Free space there, or choose another folder with -o.",
    )


def full(path: Path, needed: int | None = None) -> MpoError:
    """The error for a full disk."""
    wanted = "" if needed is None else f"{needed} bytes are needed, "
    return MpoError(
        f"No space left to write {path}: {wanted}{free_bytes(path)} are free.",
        hint="Free space there (or raise the limit), then run the same command again.",
    )


def out_of_space(error: BaseException) -> bool:
    """Whether an exception, of whichever library, says that the disk is full."""
    seen = getattr(error, "errno", None) in SPACE
    return seen or any(text in str(error) for text in SPACE_TEXTS)


def place_of(error: BaseException, otherwise: Path) -> Path:
    """The file that an error is about, where it says so."""
    name = getattr(error, "filename", None)
    return Path(name) if isinstance(name, str) else otherwise


def free_bytes(path: Path) -> int:
    """Bytes that may still be written below a path, which need not be there yet."""
    place = path
    while not place.exists() and place.parent != place:
        place = place.parent
    return disk.free(place)


def _escaped(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


def _alive(left: Path) -> bool:
    """Whether the process that a temporary file's name tells of is still there."""
    number = left.name.split(".")[-2]
    if not number.isdecimal():
        return True
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
