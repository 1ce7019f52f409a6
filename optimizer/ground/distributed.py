"""The processes that share one run's heavy work, started by torchrun or `accelerate launch`.

Accelerate is the engine: it finds the launcher's settings, the backend and the device. What is
exchanged are tensors and JSON texts, never pickled objects.

Every exchange begins with one number of each process: 0, or the exit code that the process ends
with. So no process waits for one that has given up.
"""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mpo.errors import MpoError, UsageError

PATIENCE = datetime.timedelta(days=1)  # that the others wait for one that measures
LOST = "Start the same command again: finished stages are kept."


class CrewError(MpoError):
    """Another process of the run has ended.

    Attributes:
        code: the exit code that it ended with; 0 when it had done all it should.
        lost: it is gone without a word.
    """

    def __init__(self, message: str, code: int, *, lost: bool = False) -> None:
        super().__init__(message, hint=LOST)
        self.code, self.lost = code, lost


class Crew:
    """A process that works alone: what it says to all stays what it is."""

    rank, size = 0, 1

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes, on the device that it was on.

        Raises:
            CrewError: another process has ended.
        """
        return values

    def tell(self, value: Any, rank: int = 0) -> Any:
        """The JSON-able value of one process; what the others pass does not count.

        Raises:
            CrewError: another process has ended.
        """
        return value

    def collect(self, value: Any) -> list[Any]:
        """The JSON-able values of all processes, in order."""
        return [self.tell(value, rank) for rank in range(self.size)]

    def leave(self, code: int, message: str = "") -> None:
        """Tell the others that this process ends, and with what exit code."""


ALONE = Crew()


class Launched(Crew):
    """The processes that a launcher started.

    Raises:
        UsageError: accelerate is not installed.
    """

    def __init__(self) -> None:
        try:
            from accelerate import PartialState, utils
        except ImportError as error:
            raise UsageError(
                "Several processes need accelerate, which is not installed.",
                hint="pip install 'mpo-optimizer[distributed]', or start mpo without a launcher.",
            ) from error
        with reaching():
            self._state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
        self._tools = utils
        self.rank, self.size = self._state.process_index, self._state.num_processes
        self._left = False

    def sum(self, values: Tensor) -> Tensor:
        """As Crew.sum."""
        self._check(0)
        return self._sum(values)

    def tell(self, value: Any, rank: int = 0) -> Any:
        """As Crew.tell."""
        self._check(0)
        return self._tell(value, rank)

    def leave(self, code: int, message: str = "") -> None:
        """As Crew.leave; once."""
        if not self._left:
            self._left = True
            with contextlib.suppress(CrewError):
                self._check(code, message, ending=True)

    def close(self) -> None:
        """Let go of the connections."""
        with contextlib.suppress(RuntimeError):
            self._state.destroy_process_group()

    def _check(self, code: int, message: str = "", *, ending: bool = False) -> None:
        flags = torch.zeros(self.size, dtype=torch.float64)
        flags[self.rank] = code + 1 if ending else 0
        flags = self._sum(flags)
        ended = {rank: self._tell(message, rank) for rank in flags.nonzero().flatten().tolist()}
        self._left |= bool(ended)
        for rank, told in ended.items():
            if rank != self.rank:
                raise CrewError(f"Process {rank} of this run ended: {told}", int(flags[rank]) - 1)

    def _sum(self, values: Tensor) -> Tensor:
        with reaching():
            found = self._tools.reduce(values.to(self._state.device), reduction="sum")
        return found.to(values.device)  # type: ignore[no-any-return]

    def _tell(self, value: Any, rank: int) -> Any:
        raw = json.dumps(value).encode() if rank == self.rank else b""
        length = int(self._sum(torch.tensor([len(raw)], dtype=torch.float64)))
        held = torch.zeros(length, dtype=torch.uint8)
        if raw:
            held = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
        with reaching():
            sent = self._tools.broadcast(held.to(self._state.device), from_process=rank)
        return json.loads(bytes(sent.cpu().tolist()))


@contextlib.contextmanager
def reaching() -> Iterator[None]:
    """Turn a lost connection into a CrewError."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise CrewError(f"Another process of this run is gone: {reason}", 1, lost=True) from error
