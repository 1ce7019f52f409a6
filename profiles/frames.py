"""Questions and answers with profiles/bootstrap.py, whose docstring tells the format.

An answer counts only when it carries this connection's nonce and its question's number. Whatever
breaks the format, or is larger than it may be, is refused.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mpo.profiles.jobs import parse_json
from mpo.profiles.pipes import CHUNK, Deadline, Limits, Pipes

ANY_HEADER = re.compile(rb"MPO1 ([0-9a-f]{1,64}) (\d{1,20})\n")
HEADER = re.compile(rb"MPO1 ([0-9a-f]{32}) (\d{1,9})\n")
HEADER_BYTES = 5 + 32 + 1 + 9 + 1
SLOWEST = 10_000  # bytes per second: an upload that is slower is not waited for


class Channel:
    """A process that answers questions, one at a time."""

    def __init__(self, name: str, argv: Sequence[str], limits: Limits) -> None:
        """Start the process.

        Args:
            name: of the target, for messages.

        Raises:
            OSError: there is no such program.
        """
        self._limits, self._nonce = limits, secrets.token_hex(16)
        self._greeted, self._asked = False, 0
        self._pipes = Pipes(name, argv, limits)

    def greet(self, source: bytes, settings: Mapping[str, Any]) -> None:
        """Send the agent and its settings, wait for its first answer.

        Raises:
            LostError, LateError, RefusedError: as for ask.
        """
        hello = {"op": "hello", "nonce": self._nonce, "beat": self._limits.beat, **settings}
        self.ask(hello, self._limits.handshake, ahead=source)

    def ask(
        self,
        question: Mapping[str, Any],
        seconds: float,
        body: Path | None = None,
        ahead: bytes = b"",
    ) -> dict[str, Any]:
        """The answer to a question.

        Args:
            question: JSON-able; "op" and what belongs to it.
            seconds: in which the answer must be there; a body gets more, by its size.
            body: a file that is sent with it.
            ahead: bytes that are sent before it.

        Raises:
            LateError: no answer in time, though the other end is there.
            LostError: the connection ended or fell silent.
            RefusedError: what came is no answer to this question.
            OSError: the body cannot be read.
        """
        self._asked += 1
        size = body.stat().st_size if body else 0
        silence = self._limits.silence if self._greeted else self._limits.handshake
        deadline = Deadline(seconds + size / SLOWEST, silence)
        text = json.dumps({"id": self._asked, **question}).encode()
        for part in _parts(ahead + b"MPO1 %d %d\n" % (len(text), size) + text, body):
            self._pipes.send(part, deadline)
        beats = 0
        while (answer := self._next(deadline)) == {"beat": True}:
            beats += 1
            if beats > 10 + 2 * deadline.watch.seconds / self._limits.beat:
                raise self._pipes.refused("more heartbeats than its clock allows")
        if answer.pop("id", None) != self._asked:
            raise self._pipes.refused("an answer that nothing had asked for")
        return answer

    @property
    def said(self) -> str:
        """What the process wrote before any answer, for a person to read."""
        return (bytes(self._pipes.buffer[-CHUNK:]) + b"\n" + self._pipes.errors).decode(
            errors="replace"
        )

    def ending(self) -> int | None:
        """The process's exit code once it has closed its end; None when it lives on."""
        return self._pipes.ending()

    def close(self) -> None:
        """Let the other end tidy up and go; it has a few seconds."""
        self._pipes.close()

    def _next(self, deadline: Deadline) -> dict[str, Any]:
        """The next answer, whatever it answers."""
        while (size := self._header()) is None:
            self._pipes.receive(deadline)
        while len(self._pipes.buffer) < size:
            self._pipes.receive(deadline)
        text = bytes(self._pipes.buffer[:size])
        del self._pipes.buffer[:size]
        try:
            answer = parse_json(text)
        except ValueError as error:
            raise self._pipes.refused("an answer that is no JSON") from error
        if not isinstance(answer, dict):
            raise self._pipes.refused("an answer that is no JSON object")
        self._greeted = True
        return answer

    def _header(self) -> int | None:
        """Take the next header out of the buffer: the size it names; None while it is not there."""
        buffer = self._pipes.buffer
        if not self._greeted and not self._skip_noise():
            return None
        found = HEADER.match(buffer)
        if not found:
            if len(buffer) >= HEADER_BYTES or b"\n" in buffer:
                raise self._pipes.refused("bytes that are no answer")
            return None
        if not secrets.compare_digest(found[1], self._nonce.encode()):
            raise self._pipes.refused("an answer with another connection's nonce")
        size = int(found[2])
        if size > self._limits.answer:
            limit = self._limits.answer
            raise self._pipes.refused(f"an answer of {size} bytes; {limit} is the most")
        del buffer[: found.end()]
        return size

    def _skip_noise(self) -> bool:
        """Drop what a login says before the first answer; False while no answer is in sight."""
        buffer, limit = self._pipes.buffer, self._limits.noise
        if found := ANY_HEADER.search(buffer):
            if found.start() <= limit:
                del buffer[: found.start()]
                return True
        elif len(buffer) <= limit:
            return False
        raise self._pipes.refused(f"more than {limit} bytes before its first answer")


def _parts(head: bytes, body: Path | None) -> Iterator[bytes]:
    yield head
    if body:
        with body.open("rb") as file:
            while part := file.read(CHUNK):
                yield part
