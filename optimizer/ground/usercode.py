"""The user's own code: called with a seed, and whatever it raises told in its own words."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mpo.errors import MpoError, UsageError


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's global generator at this seed inside, untouched outside."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def guarded(what: str, call: Callable[[], Any]) -> Any:
    """Call the user's function; whatever it raises becomes a UsageError with its own words."""
    try:
        return call()
    except MpoError:
        raise
    except Exception as error:
        place = _own_frame(error)
        raise UsageError(
            f"{what} raised {type(error).__name__}: {first_line(error)}{place}",
            hint="Run the subject file in Python alone to see the whole trace.",
        ) from error


def first_line(error: BaseException) -> str:
    """The first line of an error's text, for messages of one sentence."""
    return str(error).strip().split("\n")[0][:300]


def _own_frame(error: Exception) -> str:
    frames = inspect.getinnerframes(error.__traceback__) if error.__traceback__ else []
    return (
        f" (line {frames[-1].lineno} of {frames[-1].filename.rsplit('/', 1)[-1]})" if frames else ""
    )
