"""The errors of mpo, each with the exit code that the command line ends with.

    MpoError                    1   something failed while measuring or running
    ├── UsageError              2   a wrong option, file, subject or data: the user can mend it
    ├── InfeasibleError         3   no plan holds every budget
    ├── RegressionError         4   a gate confirmed a regression
    ├── InconclusiveError       5   --strict, and the figures do not decide
    ├── BaselineError           6   a stored baseline cannot be compared with this run
    ├── PartialError            7   some artefacts were made, some failed
    └── RefusedError            8   a file that mpo will not load or trust

Every error carries one sentence that says what happened, with the numbers, and a hint that says
what to do.
"""

from __future__ import annotations

from typing import ClassVar


class MpoError(Exception):
    """Something failed while measuring or running.

    Args:
        message: what happened, with the numbers, in one sentence.
        hint: what the user can do about it; empty when there is nothing to say.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(MpoError):
    """A wrong option, file, subject or data set."""

    exit_code = 2


class InfeasibleError(MpoError):
    """No plan holds every budget.

    Args:
        removed: the blocks that the closest plan removes; the run folder keeps it as plan.json.
    """

    exit_code = 3

    def __init__(self, message: str, *, hint: str = "", removed: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.removed = removed


class RegressionError(MpoError):
    """A gate confirmed a regression."""

    exit_code = 4


class InconclusiveError(MpoError):
    """The figures do not decide, and --strict asks for a decision."""

    exit_code = 5


class BaselineError(MpoError):
    """A stored baseline cannot be compared with this run."""

    exit_code = 6


class PartialError(MpoError):
    """Some artefacts were made and some failed."""

    exit_code = 7


class RefusedError(MpoError):
    """A file that mpo will not load or trust."""

    exit_code = 8
