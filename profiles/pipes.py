"""An untrusted process behind three pipes: every wait has an end, every buffer a bound."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from mpo.errors import MpoError, RefusedError
from mpo.timing import Stopwatch

CHUNK = 1 << 16
LEAVE = 3.0  # seconds that the other end has to tidy up


class LostError(MpoError):
    """The connection ended, or nothing came over it; another one may do better."""


class SilentError(LostError):
    """Nothing came over the connection."""


class LateError(MpoError):
    """The other end is there and has no answer in time."""


@dataclass(frozen=True)
class Limits:
    """How much is taken from the other end, and how long it is waited for.

    Attributes:
        noise: bytes before the first answer: a login's greeting.
        answer: bytes of one answer.
        errors: bytes on stderr in all.
        handshake: seconds until the first answer.
        silence: seconds without a byte in either direction; four heartbeats at least.
        beat: seconds between heartbeats while a job runs.
    """

    noise: int = 1 << 16
    answer: int = 1 << 24
    errors: int = 1 << 20
    handshake: float = 60.0
    silence: float = 30.0
    beat: float = 5.0


class Deadline:
    """When an answer must be there, and for how long nothing may come until then."""

    def __init__(self, seconds: float, silence: float) -> None:
        self.watch, self.seconds, self.silence = Stopwatch(), seconds, silence
        self.quiet = Stopwatch()

    def heard(self) -> None:
        """Something came or went."""
        self.quiet = Stopwatch()

    def left(self) -> float:
        """Seconds that may be waited yet.

        Raises:
            SilentError, LateError: none.
        """
        if self.quiet.seconds >= self.silence:
            raise SilentError(f"nothing came for {self.silence:.0f} s")
        if self.watch.seconds >= self.seconds:
            raise LateError(f"no answer within {self.seconds:.0f} s")
        return min(self.seconds - self.watch.seconds, self.silence - self.quiet.seconds)


class Pipes:
    """The process.

    Attributes:
        buffer: what came on its stdout and was not taken yet.
        errors: the end of what came on its stderr.
    """

    def __init__(self, name: str, argv: Sequence[str], limits: Limits) -> None:
        """Start it.

        Args:
            name: of the target, for messages.

        Raises:
            OSError: there is no such program.
        """
        self.buffer, self.errors, self._error_bytes = bytearray(), b"", 0
        self._name, self._limits = name, limits
        self._leave = LEAVE  # none for who is silent, or not ours
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is ours to handle, and nothing can ask on the terminal
        )
        streams = (self._process.stdin, self._process.stdout, self._process.stderr)
        self._streams = [stream for stream in streams if stream]
        self._in, self._out, self._err = (stream.fileno() for stream in self._streams)
        self._ready = selectors.DefaultSelector()
        for one in (self._in, self._out, self._err):
            os.set_blocking(one, False)
        for one in (self._out, self._err):
            self._ready.register(one, selectors.EVENT_READ)

    def send(self, data: bytes, deadline: Deadline) -> None:
        """Write all of it, and take in what comes meanwhile.

        Raises:
            LostError, LateError: it did not take it.
            RefusedError: it floods.
        """
        left = memoryview(data)
        self._ready.register(self._in, selectors.EVENT_WRITE)
        try:
            while left:
                if self._in not in self._wait(deadline):
                    continue
                with contextlib.suppress(BlockingIOError):
                    left = left[os.write(self._in, left) :]
                    deadline.heard()
        except BrokenPipeError as error:
            raise LostError("it was closed") from error
        finally:
            self._ready.unregister(self._in)

    def receive(self, deadline: Deadline) -> None:
        """Wait until the buffer has grown, or something else has come.

        Raises:
            LostError, LateError: nothing came, or the stream ended.
            RefusedError: it floods.
        """
        self._wait(deadline)

    def ending(self) -> int | None:
        """The process's exit code once it has closed its end; None when it lives on."""
        try:
            self._process.wait(LEAVE)
        except subprocess.TimeoutExpired:
            self._leave = 0.0
        while self._read_errors():
            pass
        return self._process.returncode

    def close(self) -> None:
        """Let the other end tidy up and go; it has a few seconds."""
        with contextlib.suppress(OSError):
            self._streams[0].close()
        watch = Stopwatch()
        try:
            while self._process.poll() is None and watch.seconds < self._leave:
                self._drain(LEAVE / 30)
        finally:
            self._process.kill()
            self._process.wait()
            self._ready.close()
            for stream in self._streams[1:]:
                stream.close()

    def refused(self, what: str) -> RefusedError:
        """The error for something that the agent of ours would not send."""
        self._leave = 0.0
        return RefusedError(
            f"{self._name} sent {what}.",
            hint="Something other than mpo's agent answers there; do not trust its figures.",
        )

    def _wait(self, deadline: Deadline) -> set[int]:
        """File descriptors that were ready; what there was to read is read."""
        try:
            left = deadline.left()
        except SilentError:
            self._leave = 0.0
            raise
        ready = {key.fd for key, _ in self._ready.select(left)}
        if self._err in ready:
            self._read_errors()
        if self._out in ready:
            self._read()
            deadline.heard()
        return ready

    def _read(self) -> None:
        part = os.read(self._out, CHUNK)
        if not part:
            raise LostError("it was closed")
        self.buffer += part
        if len(self.buffer) > self._limits.noise + self._limits.answer + CHUNK:
            raise self.refused(f"{len(self.buffer)} bytes at once")

    def _read_errors(self) -> bool:
        """Read what there is on stderr; whether there was anything."""
        try:
            part = os.read(self._err, CHUNK)
        except BlockingIOError:
            return False
        if not part:
            with contextlib.suppress(KeyError):
                self._ready.unregister(self._err)
        self._error_bytes += len(part)
        self.errors = (self.errors + part)[-CHUNK:]
        if self._error_bytes > self._limits.errors:
            raise self.refused(f"more than {self._limits.errors} bytes on stderr")
        return bool(part)

    def _drain(self, seconds: float) -> None:
        """Throw away what comes, so that the other end is not held up while it ends."""
        for key, _ in self._ready.select(seconds):
            with contextlib.suppress(BlockingIOError):
                if not os.read(key.fd, CHUNK):
                    self._ready.unregister(key.fd)
