"""Ctrl-C and SIGTERM: the first ends the work where it stands, so that everything is rolled back or
finished; a second Ctrl-C, or a SIGTERM that native code keeps waiting, ends the process at once.
What lies on disk is whole at any moment."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

GRACE_S = 8.0  # from SIGTERM to the end; Slurm and CI servers give ten seconds or more
INTERRUPTED, TERMINATED = 130, 143


class Terminated(BaseException):
    """SIGTERM came."""


_speaking: set[int] = set()  # pipes that a signal is told to


def _apart() -> None:
    """What a forked child, as a data loader's worker, does first: a Ctrl-C reaches it too, and must
    not be told to its parent as one more; SIGTERM ends it as it ends any process."""
    if _speaking:
        _speaking.clear()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


os.register_at_fork(after_in_child=_apart)


@contextlib.contextmanager
def stoppable(said: Callable[[], None]) -> Iterator[None]:
    """Inside the block, SIGINT raises KeyboardInterrupt and SIGTERM raises Terminated.

    Args:
        said: called before an end at once, from another thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    hears, speaks = os.pipe()
    os.set_blocking(speaks, False)
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, _interrupt),
        signal.SIGTERM: signal.signal(signal.SIGTERM, _terminate),
    }
    woken = signal.set_wakeup_fd(speaks, warn_on_full_buffer=False)
    _speaking.add(speaks)
    threading.Thread(target=_listen, args=(hears, said), daemon=True).start()
    try:
        yield
    finally:
        _speaking.discard(speaks)
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(speaks)  # the listener ends


def _listen(hears: int, said: Callable[[], None]) -> None:
    """Read the numbers of signals, which come here even while the main thread is in native code."""
    interrupts, ending = 0, 0
    with open(hears, "rb", buffering=0) as numbers:
        while True:
            heard, _, _ = select.select([numbers], [], [], GRACE_S if ending else None)
            if not heard:
                _now(said, ending)
            came = numbers.read(64)
            if not came:
                return
            interrupts += came.count(signal.SIGINT)
            if interrupts > 1:
                _now(said, INTERRUPTED)
            if signal.SIGTERM in came:
                ending = TERMINATED


def _now(said: Callable[[], None], code: int) -> NoReturn:
    with contextlib.suppress(OSError):
        said()
    os._exit(code)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated
