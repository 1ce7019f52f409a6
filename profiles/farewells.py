"""What it means when ssh ends before the device has answered: which error, and what to do."""

from __future__ import annotations

import re

from mpo.errors import MpoError, RefusedError, UsageError
from mpo.profiles.address import Address
from mpo.profiles.jobs import last_words
from mpo.profiles.pipes import LostError

OLD = 86  # what the loader exits with when the device's Python is too old
SSH_FAILED = 255
CHANGED = re.compile(r"REMOTE HOST IDENTIFICATION HAS CHANGED|REVOKED HOST KEY")
UNKNOWN = re.compile(r"host key is known for|Host key verification failed")
LOGIN = re.compile(r"Permission denied|Too many authentication failures|No supported authentic")
NAME = re.compile(r"Could not resolve hostname|invalid characters")
CONFIG = re.compile(r"Bad (?:configuration option|owner or permissions)|bad configuration options")


def farewell(name: str, address: Address, python: str, code: int | None, said: str) -> MpoError:
    """The error for an ssh that ended before the first answer.

    Args:
        name: of the target.
        python: the interpreter that was asked for there.
        code: what ssh ended with; 255 is its own failure, others are the remote command's.
        said: what it wrote.
    """
    if code is None:
        return LostError("it was closed")
    if code == SSH_FAILED:
        return _of_ssh(name, address, said)
    if code == OLD:
        return UsageError(
            f"{python} on {name} is older than Python 3.8.",
            hint="Install a newer one there, and name it with MPO_REMOTE_PYTHON.",
        )
    if code in (126, 127):
        return UsageError(
            f"There is no {python} on {name}{last_words(said)}",
            hint=f"Try: {address.login} {python} --version. Another one is named with "
            "MPO_REMOTE_PYTHON=/path/to/python3.",
        )
    return MpoError(
        f"What runs on {name} ended with code {code} before it answered{last_words(said)}",
        hint=f"Try: {address.login} {python} --version.",
    )


def _of_ssh(name: str, address: Address, said: str) -> MpoError:
    """The error for ssh's own failure, told by its words."""
    if CHANGED.search(said):
        return RefusedError(
            f"The host key of {name} is not the one that is known.",
            hint="Another machine may answer in its place. When you know why the key changed: "
            f"ssh-keygen -R '{address.known_as}', then connect once with {address.login}.",
        )
    if UNKNOWN.search(said):
        return UsageError(
            f"The host key of {name} is not known yet.",
            hint=f"Connect once with {address.login} and compare the fingerprint.",
        )
    if LOGIN.search(said):
        return UsageError(
            f"{name} lets nobody in{last_words(said)}",
            hint=f"mpo asks for no password: {address.login} must work without one, by a key.",
        )
    if NAME.search(said):
        return UsageError(
            f"{name} is not found{last_words(said)}", hint="Check the name, or ~/.ssh/config."
        )
    if CONFIG.search(said):
        return UsageError(f"ssh's own configuration is in the way{last_words(said)}")
    return LostError(last_words(said).removeprefix(": ").removesuffix("."))
