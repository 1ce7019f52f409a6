"""Integer programs handed to HiGHS column by column and row by row."""

from __future__ import annotations

import ctypes
import math
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from mpo.errors import MpoError

Rows = tuple[list[int], list[int], list[float]]
CHATTER = b"Highs"  # what the lines that HiGHS prints by mistake begin with
INFEASIBLE = 2
_STDOUT = threading.Lock()


class Model:
    """Minimise a linear cost over columns within bounds, some of them whole, under rows `>=`."""

    def __init__(self) -> None:
        self.cost: list[float] = []
        self.lower: list[float] = []
        self.upper: list[float] = []
        self.whole: list[int] = []
        self.needed: list[float] = []
        self.cells: Rows = ([], [], [])

    def column(self, cost: float, lower: float, upper: float, *, whole: bool) -> int:
        """Add a column; returns its place."""
        self.cost.append(cost)
        self.lower.append(lower)
        self.upper.append(upper)
        self.whole.append(int(whole))
        return len(self.cost) - 1

    def require(self, row: Mapping[int, float], needed: float) -> None:
        """Add the row sum_i row[i] x_i >= needed."""
        for place, value in row.items():
            self.cells[0].append(len(self.needed))
            self.cells[1].append(place)
            self.cells[2].append(float(value))
        self.needed.append(needed)

    def solve(self) -> list[float] | None:
        """The best columns, or None when no choice satisfies all rows.

        Raises:
            MpoError: the solver stopped without an answer.
        """
        if not self.cost:
            return None if any(needed > 0 for needed in self.needed) else []
        with no_chatter():
            result = milp(
                np.array(self.cost),
                integrality=np.array(self.whole),
                bounds=Bounds(np.array(self.lower), np.array(self.upper)),
                constraints=self._constraints(),
                options={"mip_rel_gap": 0.0},
            )
        if result.status == INFEASIBLE:
            return None
        if result.x is None or result.status != 0:
            raise MpoError(f"The planner's solver stopped without an answer: {result.message}")
        return [float(value) for value in result.x]

    def _constraints(self) -> list[LinearConstraint]:
        if not self.needed:
            return []
        rows, columns, values = self.cells
        shape = (len(self.needed), len(self.cost))
        table = coo_array((values, (rows, columns)), shape=shape).tocsr()
        return [LinearConstraint(table, lb=np.array(self.needed), ub=math.inf)]


@contextmanager
def no_chatter() -> Iterator[None]:
    """Keep HiGHS's stray lines off standard output.

    With all logging off HiGHS 1.12 still calls printf when a solution of its presolved program must
    be repaired in the original one. So that nothing that another thread prints meanwhile is lost,
    file descriptor 1 points to a temporary file for the time, and all other lines are passed on.
    """
    with _STDOUT:
        try:
            kept = os.dup(1)
        except OSError:  # there is no standard output to keep clean
            yield
            return
        with tempfile.TemporaryFile() as caught:
            _flush()
            os.dup2(caught.fileno(), 1)
            try:
                yield
            finally:
                _flush()
                os.dup2(kept, 1)
                caught.seek(0)
                lines = caught.read().splitlines(keepends=True)
                rest = b"".join(line for line in lines if not line.startswith(CHATTER))
                if rest:
                    os.write(kept, rest)
                os.close(kept)


def _flush() -> None:
    """Write out what C code has printed so far."""
    with suppress(OSError, TypeError, AttributeError):  # no C library to be found by this name
        ctypes.CDLL(None).fflush(None)
