"""Targets by name: local, local:cuda:0, ssh://[user@]host[:port], profile:FILE."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mpo.errors import UsageError
from mpo.profiles.jobs import Job, Target
from mpo.profiles.local import LocalTarget
from mpo.profiles.ssh import SshTarget

GRAMMAR = "Targets: local, local:cuda:0, ssh://[user@]host[:port], profile:FILE."
LOCAL = re.compile(r"local(?::(cuda:\d{1,2}))?", re.ASCII)
PROFILE = re.compile(r"profile:(.{1,4096})")
CONFIG = "MPO_SSH_CONFIG"  # another file than ~/.ssh/config
PYTHON = "MPO_REMOTE_PYTHON"  # another Python there than python3


class ProfileTarget:
    """A device that is only described: figures are looked up in its file, none can be taken.

    Attributes:
        name: profile:FILE.
        device: what its models would run on.
        path: of the saved profile.
    """

    device = "cpu"

    def __init__(self, path: Path) -> None:
        self.name, self.path = f"profile:{path}", path

    def run(self, job: Job) -> dict[str, Any]:
        """Never an answer.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            f"A saved profile cannot measure: nothing runs on {self.name}.",
            hint="Measure on the device: --target ssh://user@host; `mpo profile` shows the file.",
        )

    def close(self) -> None:
        """Nothing was opened."""


def named_target(text: str) -> Target:
    """The target of this name; nothing is connected yet.

    ssh uses the configuration file that MPO_SSH_CONFIG names and the device's Python that
    MPO_REMOTE_PYTHON names, where they are set.

    Raises:
        UsageError: no such kind of target, or a name that is none.
    """
    if found := LOCAL.fullmatch(text):
        return LocalTarget(found[1] or "cpu")
    if text.startswith("ssh://"):
        config = os.environ.get(CONFIG)
        ssh = ("ssh", "-F", config) if config else ("ssh",)
        return SshTarget(text, ssh=ssh, python=os.environ.get(PYTHON) or "python3")
    if (found := PROFILE.fullmatch(text)) and text.isprintable():
        return ProfileTarget(Path(found[1]).expanduser())
    raise UsageError(f"{text[:100]!r} is no target.", hint=GRAMMAR)


def open_target(text: str) -> Target:
    """The target of this name, ready for jobs: a device over ssh is connected and looked at.

    Raises:
        UsageError: no such target, or a device that needs the user first.
        RefusedError: a device that is not to be trusted.
        MpoError: a device that cannot be reached.
    """
    target = named_target(text)
    if isinstance(target, SshTarget):
        target.connect()
    return target


@contextlib.contextmanager
def opened(texts: Sequence[str]) -> Iterator[tuple[Target, ...]]:
    """All targets of these names; every one of them is closed at the end, however it comes."""
    with contextlib.ExitStack() as stack:
        targets = []
        for text in dict.fromkeys(texts):
            targets.append(open_target(text))
            stack.callback(targets[-1].close)
        yield tuple(targets)
