"""Targets by name: local, local:cuda:0, ssh://[user@]host[:port], profile:FILE."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence

from mpo.errors import UsageError
from mpo.profiles.jobs import Target
from mpo.profiles.local import LocalTarget

LOCAL = re.compile(r"local(?::(cuda:\d{1,2}))?")


def open_target(text: str) -> Target:
    """The target of this name, ready for jobs.

    Raises:
        UsageError: no such kind of target.
    """
    if found := LOCAL.fullmatch(text):
        return LocalTarget(found[1] or "cpu")
    raise UsageError(
        f"{text!r} is no target.",
        hint="Targets: local, local:cuda:0, ssh://[user@]host[:port], profile:FILE.",
    )


@contextlib.contextmanager
def opened(texts: Sequence[str]) -> Iterator[tuple[Target, ...]]:
    """All targets of these names; every one of them is closed at the end, however it comes."""
    with contextlib.ExitStack() as stack:
        targets = []
        for text in dict.fromkeys(texts):
            targets.append(open_target(text))
            stack.callback(targets[-1].close)
        yield tuple(targets)
