"""A device over the system's OpenSSH: nothing is installed there and nothing is left there.

One connection a target, with profiles/bootstrap.py at its far end. The user's own OpenSSH
configuration decides on keys, jumps and known hosts; a host whose key is unknown or has changed is
never connected to. What the device answers is data from a stranger (profiles/frames.py).
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpo.errors import MpoError, RefusedError, UsageError
from mpo.files import sha256
from mpo.profiles.address import parse_address
from mpo.profiles.farewells import OLD, farewell
from mpo.profiles.frames import Channel
from mpo.profiles.jobs import FIXED, KEPT, LAUNCHER, Job, plain, read_answer, too_slow
from mpo.profiles.pipes import LateError, Limits, LostError, SilentError

PYTHON = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./-]*")
BOOTSTRAP = Path(__file__).with_name("bootstrap.py")
# Byte by byte: Python's own reading would take what follows the agent's source, too.
LOADER = (
    "exec {python} -I -c 'import os,sys;sys.version_info<(3,8)and os._exit({old});"
    'exec(b"".join(os.read(0,1)for _ in range({size})))\''
)
MODULES = ("numpy", "onnxruntime")
NEEDS = Job(
    what="looked for numpy and onnxruntime",
    script=Path(__file__).with_name("needs.py"),
    request={"modules": MODULES},
    timeout=60.0,
)
KEEP = 512 << 20  # bytes of files that stay on the device while the connection lasts
OUTPUT = 8 << 20  # bytes of a script's answer
RETRIES = 3
PAUSE = 2.0  # seconds before the first retry, doubled for each further one
GRACE = 30.0  # seconds for an answer, beyond a job's own time


class SshTarget:
    """A device over ssh; it connects when it is first needed.

    Attributes:
        name: ssh://[user@]host[:port].
        device: where models run on it.
        versions: of its python, numpy and onnxruntime; empty until it is connected.
    """

    def __init__(
        self,
        name: str,
        device: str = "cpu",
        *,
        ssh: Sequence[str] = ("ssh",),
        python: str = "python3",
        limits: Limits | None = None,
    ) -> None:
        """Name a device; nothing happens yet.

        Args:
            ssh: the program and its first arguments, such as ("ssh", "-F", "config").
            python: the interpreter there: a name or a path.
            limits: on what it may send and how long it may take.

        Raises:
            UsageError: a name that is none.
        """
        if not PYTHON.fullmatch(python):
            raise UsageError(f"{python[:100]!r} is no name of a Python on a device.")
        self.name, self.device = name, device
        self.versions: dict[str, str] = {}
        self._address, self._python, self._ssh = parse_address(name), python, tuple(ssh)
        self._limits = limits or Limits()
        self._channel: Channel | None = None

    def connect(self) -> None:
        """Connect, and look whether the device has what measuring needs.

        Raises:
            UsageError: its name, key, login, Python or packages need the user.
            RefusedError: another host key than the known one, or no agent of ours.
            MpoError: it cannot be reached.
        """
        try:
            about = read_answer(NEEDS, *self._process(NEEDS))
            missing = self._texts(about.get("missing"))
            modules = self._texts(about.get("modules"))
        except LostError as error:
            raise MpoError(f"{self.name} cannot be reached: {error.message}.") from error
        except MpoError:
            self.close()
            raise
        if missing:
            self.close()
            raise UsageError(
                f"{self.name} lacks what measuring needs: {'; '.join(missing.values())}.",
                hint=f"{self._address.login} {self._python} -m pip install {' '.join(MODULES)} "
                "(a Python in a virtual environment is named with MPO_REMOTE_PYTHON).",
            )
        self.versions = {"python": plain(about.get("python")), **modules}

    def run(self, job: Job) -> dict[str, Any]:
        """The answer of the job's script, from a fresh process on the device.

        A job that the connection is lost under is run again over a new connection, three times at
        most.

        Raises:
            UsageError, RefusedError: as for connect; a script that names what is missing.
            MpoError: the job failed or took too long, or the connection was lost too often.
        """
        if not self.versions:
            self.connect()
        for lost in range(1, RETRIES + 2):
            try:
                process = self._process(job)
                break
            except LostError as error:
                if lost > RETRIES:
                    raise MpoError(
                        f"The connection to {self.name} was lost {lost} times while it "
                        f"{job.what}: {error.message}.",
                        hint="Look at the device's network, power and memory.",
                    ) from error
            time.sleep(PAUSE * 2 ** (lost - 1))
        return read_answer(job, *process)

    def close(self) -> None:
        """End the connection: the agent there kills what runs and deletes its folder."""
        channel, self._channel = self._channel, None
        if channel:
            channel.close()

    def _process(self, job: Job) -> tuple[int, str, str]:
        """Exit code, output and errors of the script's process on the device."""
        try:
            channel = self._channel or self._open()
            hashes = {name: sha256(path) for name, path in job.files.items()}
            script = sha256(job.script)
            paths = {hashes[name]: path for name, path in job.files.items()}
            self._upload(channel, {**paths, script: job.script})
            question = {
                "op": "run",
                "script": script,
                "files": hashes,
                "request": dict(job.request),
                "launcher": LAUNCHER,
                "kept": KEPT,
                "environment": {**FIXED, **job.environment},
                "timeout": job.timeout,
            }
            answer = self._ask(channel, question, job.timeout + GRACE)
        except BaseException as error:
            self.close()
            if isinstance(error, LateError):
                raise too_slow(job) from error
            if isinstance(error, OSError):
                raise MpoError(f"A file for {self.name} cannot be read: {error}.") from error
            raise
        return self._ended(job, answer)

    def _open(self) -> Channel:
        """A new connection with the agent at its far end."""
        source = BOOTSTRAP.read_bytes()
        command = LOADER.format(python=self._python, old=OLD, size=len(source))
        try:
            channel = Channel(
                self.name, [*self._ssh, *self._address.arguments, command], self._limits
            )
        except OSError as error:
            raise UsageError(
                f"{self._ssh[0]} cannot be started: {error}.",
                hint="Install OpenSSH's client: apt-get install openssh-client.",
            ) from error
        self._channel = channel
        try:
            channel.greet(source, {"keep": KEEP, "output": OUTPUT})
        except LateError as error:
            raise LostError(error.message) from error
        except SilentError:
            raise
        except LostError as error:
            code = channel.ending()
            raise farewell(self.name, self._address, self._python, code, channel.said) from error
        return channel

    def _upload(self, channel: Channel, paths: Mapping[str, Path]) -> None:
        """Send what the device does not have yet; it says what arrived."""
        sizes = {sha: path.stat().st_size for sha, path in paths.items()}
        answer = self._ask(channel, {"op": "missing", "files": sizes}, GRACE)
        missing = answer.get("missing")
        if not isinstance(missing, list) or not all(sha in paths for sha in map(str, missing)):
            raise self._strange("a list of files that it was not asked about")
        for sha in dict.fromkeys(map(str, missing)):
            put = {"op": "put", "sha256": sha}
            try:
                stored = self._ask(channel, put, GRACE, paths[sha]).get("stored")
            except LateError as error:
                raise MpoError(
                    f"{self.name} takes files too slowly: {paths[sha].name} of {sizes[sha]} bytes "
                    "did not arrive in time."
                ) from error
            if stored != sha:
                raise self._strange(f"another hash than the one of {paths[sha].name} back")

    def _ask(
        self,
        channel: Channel,
        question: Mapping[str, Any],
        seconds: float,
        body: Path | None = None,
    ) -> dict[str, Any]:
        answer = channel.ask(question, seconds, body)
        if "fault" in answer:
            raise UsageError(
                f"{self.name} cannot do it: {plain(answer['fault'])}.",
                hint="It needs free memory, and free disk where its TMPDIR (or /tmp) lies.",
            )
        return answer

    def _ended(self, job: Job, answer: dict[str, Any]) -> tuple[int, str, str]:
        """How the script's process ended."""
        if answer == {"late": True}:
            raise too_slow(job)
        if "flood" in answer:
            raise MpoError(f"The process that {job.what} wrote more than {OUTPUT} bytes.")
        code, output, errors = (answer.get(key) for key in ("code", "output", "errors"))
        if not isinstance(output, str) or not isinstance(errors, str):
            raise self._strange("an answer without output")
        if type(code) is not int or not -256 < code < 256:
            raise self._strange("an exit code that is none")
        return code, output, errors

    def _texts(self, found: Any) -> dict[str, str]:
        """What the device gave by package, fit for a terminal."""
        if not isinstance(found, dict):
            raise self._strange("a list of packages that is none")
        return {name: plain(found[name]) for name in MODULES if name in found}

    def _strange(self, what: str) -> RefusedError:
        self.close()
        return RefusedError(f"{self.name} sent {what}.", hint="No agent of mpo's does that.")
