"""A real OpenSSH server on the loopback, with keys and configuration of its own, for tests."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

SBIN = ("/usr/sbin", "/usr/local/sbin", "/sbin")
PRIVILEGES = Path("/run/sshd")  # what sshd wants to exist when root starts it


def missing() -> str:
    """Why no server can be started here; "" when one can."""
    for name in ("ssh", "ssh-keygen", "sshd"):
        if not program(name):
            return f"there is no {name}: apt-get install openssh-server"
    return ""


def program(name: str) -> str:
    """The path of a program, also where only root looks; "" when there is none."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *SBIN])
    return shutil.which(name, path=path) or ""


class Server:
    """sshd as this user on a port of its own; lets one key in.

    Attributes:
        config: for `ssh -F`.
        port: on 127.0.0.1.
        temporary: the TMPDIR of its sessions: what stays there was left behind.
    """

    def __init__(self, folder: Path) -> None:
        """Make keys and start it; folder must be the test's own."""
        self.folder, self.port = folder, _free_port()
        self.temporary = folder / "remote-tmp"
        self.temporary.mkdir()
        self.config = folder / "ssh_config"
        self.known = folder / "known_hosts"
        for name in ("host", "user"):
            make_key(folder / name)
        (folder / "authorized").write_text((folder / "user.pub").read_text())
        self.know(folder / "host.pub")
        self._configure()
        self._process = self._start()

    @property
    def name(self) -> str:
        """As a target."""
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"

    @property
    def ssh(self) -> tuple[str, ...]:
        """The client's program with this server's configuration."""
        return ("ssh", "-F", str(self.config))

    def know(self, public: Path) -> None:
        """Make this the one key that the client knows for the server."""
        kind, key = public.read_text().split()[:2]
        self.known.write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")

    def left(self) -> list[str]:
        """What its sessions left behind, after a moment to tidy up."""
        for _ in range(100):
            names = sorted(path.name for path in self.temporary.iterdir())
            if not names:
                break
            time.sleep(0.05)
        return names

    def sessions(self) -> list[int]:
        """Process ids of the server's children: one a connection."""
        return children(self._process.pid)

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()

    def _configure(self) -> None:
        (self.folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {self.folder / 'host'}\n"
            f"AuthorizedKeysFile {self.folder / 'authorized'}\nPidFile none\nStrictModes no\n"
            f"UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            f"PermitRootLogin prohibit-password\nSetEnv TMPDIR={self.temporary}\n"
        )
        self.config.write_text(
            f"IdentityFile {self.folder / 'user'}\nIdentitiesOnly yes\nIdentityAgent none\n"
            f"UserKnownHostsFile {self.known}\nGlobalKnownHostsFile none\n"
        )

    def _start(self) -> subprocess.Popen[bytes]:
        if os.getuid() == 0:
            PRIVILEGES.mkdir(mode=0o755, exist_ok=True)
        log = self.folder / "sshd.log"
        process = subprocess.Popen(
            [program("sshd"), "-D", "-f", str(self.folder / "sshd_config"), "-E", str(log)]
        )
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return process
            if process.poll() is not None:
                break
            time.sleep(0.05)
        process.kill()
        raise RuntimeError(f"sshd did not start: {log.read_text()}")


def make_key(path: Path) -> None:
    """A new key pair: path and path.pub."""
    subprocess.run(
        [program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)],
        check=True,
    )


def children(parent: int) -> list[int]:
    """Process ids of the direct children of a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        if int(fields[1]) == parent and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
