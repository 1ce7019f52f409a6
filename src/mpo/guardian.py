"""No child outlives mpo, not even when mpo is killed at once.

Children run in sessions of their own, so that they can be ended with all that they started; nothing
ends them when mpo itself has no time to. This file, run as a small process of its own, reads their
numbers from a pipe; the pipe ends with mpo, and then it ends whoever is left.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

_pipe: tuple[int, int] | None = None  # the process that made it, and its writing end


@contextlib.contextmanager
def guarded(pid: int) -> Iterator[None]:
    """While the block runs, the session that this child leads ends when mpo does."""
    _tell(f"+{pid}\n")
    try:
        yield
    finally:
        _tell(f"-{pid}\n")


def watch() -> None:
    """What the small process does."""
    groups: set[int] = set()
    for line in sys.stdin:
        number = int(line[1:])
        if line[0] == "+":
            groups.add(number)
        else:
            groups.discard(number)
    for group in groups:
        with contextlib.suppress(OSError):
            os.killpg(group, signal.SIGKILL)


def _tell(line: str) -> None:
    """Write to the guardian, started at the first word; without one, children are as they were."""
    global _pipe
    with contextlib.suppress(OSError):
        if _pipe is None or _pipe[0] != os.getpid():  # a fork must not speak for its parent
            _pipe = (os.getpid(), _start())
        os.write(_pipe[1], line.encode())


def _start() -> int:
    reading, writing = os.pipe()
    try:
        os.posix_spawn(
            sys.executable,
            (sys.executable, "-I", "-S", __file__),
            {},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, reading, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
            setsid=True,  # Ctrl-C is for mpo alone
        )
    except OSError:
        os.close(writing)
        raise
    finally:
        os.close(reading)
    return writing


if __name__ == "__main__":
    watch()
