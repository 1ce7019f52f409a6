"""ssh://[user@]host[:port], and the command line of OpenSSH that it stands for."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from mpo.errors import UsageError

# A name that begins with "-" would be an option of ssh; "--" before it is the second bar.
ADDRESS = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63})@)?"
    r"(?:(?P<host>[A-Za-z0-9_][A-Za-z0-9._-]{0,252})|\[(?P<six>[0-9A-Fa-f:.]{2,45})\])"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?"
)
PASSWORD = re.compile(r"ssh://[^@/]*:[^@/]*@.*", re.DOTALL)
OPTIONS = (
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "ConnectTimeout=10",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
    # Whatever the user's configuration says for shells: no forwarding, no other command, and no
    # master connection that would outlive this one.
    "ClearAllForwardings=yes",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "ControlMaster=no",
    "LogLevel=ERROR",
)


@dataclass(frozen=True)
class Address:
    """Where a device is.

    Attributes:
        user: empty for the one that the OpenSSH configuration names.
        host: a name or an address.
        port: 0 for the one that the OpenSSH configuration names.
    """

    user: str
    host: str
    port: int

    @property
    def arguments(self) -> tuple[str, ...]:
        """What ssh gets before the remote command."""
        options = [word for option in OPTIONS for word in ("-o", option)]
        port = ["-p", str(self.port)] if self.port else []
        user = ["-l", self.user] if self.user else []
        return ("-T", "-a", "-x", *options, *port, *user, "--", self.host)

    @property
    def login(self) -> str:
        """The command that a person connects with, for hints."""
        port = f"-p {self.port} " if self.port else ""
        return f"ssh {port}{self.user}{'@' if self.user else ''}{self.host}"

    @property
    def known_as(self) -> str:
        """The name in known_hosts, for hints."""
        return f"[{self.host}]:{self.port}" if self.port not in (0, 22) else self.host


def parse_address(text: str) -> Address:
    """The address that ssh://[user@]host[:port] names.

    Raises:
        UsageError: it is no such text, or holds a password; that is not repeated.
    """
    if PASSWORD.fullmatch(text):
        raise UsageError(
            "A target takes no password.",
            hint="Use a key: ssh-keygen, then ssh-copy-id USER@HOST; then ssh://USER@HOST.",
        )
    found = ADDRESS.fullmatch(text)
    port = int(found["port"] or 0) if found else 0
    if not found or port > 65535 or not _is_six(found["six"]):
        raise UsageError(
            f"{text[:100]!r} names no device that ssh can reach.",
            hint="Write ssh://[user@]host[:port]: letters, digits, '.', '-' and '_', not '-' "
            "first; an IPv6 address in brackets; a port from 1 to 65535.",
        )
    return Address(found["user"] or "", found["host"] or found["six"], port)


def _is_six(text: str | None) -> bool:
    try:
        return text is None or bool(ipaddress.IPv6Address(text))
    except ValueError:
        return False
