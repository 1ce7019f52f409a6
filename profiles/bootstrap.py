"""The far end of an ssh target: keeps files in a private folder, answers jobs, leaves nothing.

Sent over ssh to the device's python3 (>= 3.8, standard library only); nothing is installed there.
Requests on stdin are `MPO1 <json bytes> <body bytes>`, a line end, the JSON and the body:
    {"id": 1, "op": "hello", "nonce": "...", "beat": 5, "keep": bytes, "output": bytes}
    {"id": 2, "op": "missing", "files": {sha256: bytes}}     -> {"missing": [sha256, ...]}
    {"id": 3, "op": "put", "sha256": "..."} and the body     -> {"stored": sha256}
    {"id": 4, "op": "run", "script": sha256, "files": {name: sha256}, "request": {...},
     "launcher": [...], "kept": [...], "environment": {...}, "timeout": seconds}
        -> {"code": 0, "output": "...", "errors": "..."} | {"late": true} | {"flood": bytes}
Answers on stdout are `MPO1 <nonce> <json bytes>`, a line end and the JSON, which repeats the id;
what cannot be done is {"fault": "..."}. While a job runs, {"beat": true} comes every few seconds.
The end of stdin, SIGHUP or SIGTERM ends it all: the job is killed, the folder is deleted.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

PREFIX = "mpo-agent-"
STALE = 60  # seconds after which a folder that nobody locks belongs to an agent that was killed
CHUNK = 1 << 18
TAIL = 4096  # bytes of a job's stderr that are kept
SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)


class Gone(Exception):
    """The other end of the connection is not there any more."""


class Agent:
    """One connection: its folder, its files, its running child."""

    def __init__(self) -> None:
        self.stdin, self.stdout = os.dup(0), os.dup(1)
        os.dup2(2, 1)  # whatever else prints does not break into the answers
        self.nonce, self.beat, self.keep, self.output = "", 5.0, 0, 0
        self.child: subprocess.Popen[bytes] | None = None
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        fcntl.flock(os.open(str(self.folder), os.O_RDONLY), fcntl.LOCK_EX)
        self.store = self.folder / "store"
        self.store.mkdir(0o700)

    def close(self) -> None:
        """Kill what runs, delete what was written."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        self.kill()
        shutil.rmtree(str(self.folder), ignore_errors=True)

    def kill(self) -> None:
        """End the job's whole session."""
        if self.child is not None:
            with contextlib.suppress(OSError):
                os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()
            self.child = None

    def serve(self) -> None:
        """Answer requests until the client is gone."""
        does = {"hello": self.hello, "missing": self.missing, "put": self.put, "run": self.run}
        while True:
            head = self.line().split()
            asked = json.loads(self.exactly(int(head[1])).decode())
            asked["bytes"] = int(head[2])
            try:
                answer = does[asked["op"]](asked)
            except OSError as error:
                answer = {"fault": f"{error} ({self.room()})"}
            self.say({"id": asked["id"], **answer})

    def line(self) -> bytes:
        """The next line of stdin, byte by byte: what follows it may be a body."""
        found = b""
        while not found.endswith(b"\n"):
            found += self.exactly(1)
        return found

    def exactly(self, count: int) -> bytes:
        """This many bytes of stdin."""
        parts = []
        while count:
            parts.append(os.read(self.stdin, min(count, CHUNK)))
            if not parts[-1]:
                raise Gone
            count -= len(parts[-1])
        return b"".join(parts)

    def say(self, answer: dict[str, Any]) -> None:
        """Write one answer."""
        text = json.dumps(answer)
        left = f"MPO1 {self.nonce} {len(text)}\n{text}".encode("ascii")
        try:
            while left:
                left = left[os.write(self.stdout, left[:CHUNK]) :]
        except OSError as error:
            raise Gone from error

    def room(self) -> str:
        """How much fits into the folder's disk yet."""
        free = shutil.disk_usage(str(self.folder)).free
        return f"{free // 10**6} MB free in {self.folder.parent}"

    def hello(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Take the client's settings; delete what agents left that were killed."""
        self.nonce, self.beat = asked["nonce"], asked["beat"]
        self.keep, self.output = asked["keep"], asked["output"]
        sweep(self.folder.parent)
        return {"python": "{}.{}.{}".format(*sys.version_info[:3])}

    def missing(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Which of these files must be sent; the oldest others go when all would be too much."""
        wanted = asked["files"]
        here = {path.name: path.stat() for path in self.store.iterdir()}
        need = [name for name in wanted if name not in here]
        total = sum(seen.st_size for seen in here.values()) + sum(wanted[name] for name in need)
        for name in sorted(here, key=lambda one: here[one].st_mtime_ns):
            if name in wanted:
                os.utime(str(self.store / name))
            elif total > self.keep:
                (self.store / name).unlink()
                total -= here[name].st_size
        return {"missing": need}

    def put(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Store the body when its sha256 is the one named."""
        digest, left, fault = hashlib.sha256(), asked["bytes"], ""
        path = self.folder / "arriving"
        with path.open("wb", 0) as file:
            while left:
                part = self.exactly(min(left, CHUNK))
                left -= len(part)
                digest.update(part)
                try:
                    if not fault and file.write(part) != len(part):
                        fault = f"No space left on the device ({self.room()})"
                except OSError as error:  # a full disk; the rest of the body must be read yet
                    fault = f"{error} ({self.room()})"
        if not fault and digest.hexdigest() == asked["sha256"]:
            path.chmod(0o400)
            path.rename(self.store / digest.hexdigest())
            return {"stored": digest.hexdigest()}
        path.unlink()
        return {"fault": fault} if fault else {"stored": digest.hexdigest()}

    def run(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Lay out a job's files, run its script, say how it ended."""
        base = self.folder / "job"
        try:
            script = self.lay(base / "script", "job.py", asked["script"])
            files = asked["files"]
            files = {name: self.lay(base / "files", name, files[name]) for name in files}
            request = base / "request.json"
            request.write_text(json.dumps({**asked["request"], "files": files}) + "\n")
            kept = {name: os.environ[name] for name in asked["kept"] if name in os.environ}
            # onnxruntime leaves a file of its own in TMPDIR: it shall go with the job's folder.
            fixed = {**asked["environment"], "TMPDIR": str(base)}
            with request.open("rb") as stdin:
                self.child = subprocess.Popen(
                    # -E and not -I: where only `pip install --user` is allowed, numpy lies there.
                    [*asked["launcher"], sys.executable, "-E", script],
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    cwd=str(base),
                    env={**kept, **fixed},
                    start_new_session=True,
                )
            return self.follow(self.child, asked["timeout"])
        finally:
            self.kill()
            shutil.rmtree(str(base), ignore_errors=True)

    def lay(self, base: Path, name: str, sha: str) -> str:
        """Put a stored file under a relative name; its path."""
        path = base / name
        if Path(name).is_absolute() or ".." in path.parts:
            raise OSError(f"{name!r} is no relative name")
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        try:
            os.link(str(self.store / sha), str(path))
        except OSError:  # a file system without hard links
            shutil.copyfile(str(self.store / sha), str(path))
        return str(path)

    def follow(self, child: subprocess.Popen[bytes], timeout: float) -> dict[str, Any]:
        """What the child writes, within its time and room; an eye on the client meanwhile."""
        end, beat = time.monotonic() + timeout, time.monotonic() + self.beat
        found, errors = bytearray(), b""
        with selectors.DefaultSelector() as ready:
            for stream in (self.stdin, child.stdout, child.stderr):
                ready.register(stream, selectors.EVENT_READ)  # type: ignore[arg-type]
            while len(ready.get_map()) > 1 or child.poll() is None:
                now = time.monotonic()
                if now >= end:
                    return {"late": True}
                if now >= beat:
                    self.say({"beat": True})
                    beat = now + self.beat
                # Both pipes closed and still alive: about to end, so look again soon.
                wait = min(end, beat) - now if len(ready.get_map()) > 1 else 0.01
                for key, _ in ready.select(wait):
                    if key.fileobj == self.stdin:
                        raise Gone  # nobody asks anything while a job runs
                    part = os.read(key.fd, CHUNK)
                    if not part:
                        ready.unregister(key.fileobj)
                    elif key.fileobj is child.stdout:
                        found += part
                    else:
                        errors = (errors + part)[-TAIL:]
                if len(found) > self.output:
                    return {"flood": len(found)}
        said = {"output": found.decode(errors="replace"), "errors": errors.decode(errors="replace")}
        return {"code": child.returncode, **said}


def sweep(parent: Path) -> None:
    """Delete this user's folders of agents that were killed before they could."""
    for path in parent.glob(PREFIX + "*"):
        with contextlib.suppress(OSError):
            seen = path.lstat()
            if seen.st_uid != os.getuid() or time.time() - seen.st_mtime < STALE:
                continue
            handle = os.open(str(path), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError: it is at work
                shutil.rmtree(str(path), ignore_errors=True)
            finally:
                os.close(handle)


def stop(number: int, frame: object) -> NoReturn:
    """A signal ends the agent by way of its clean-up."""
    raise Gone


def main() -> None:
    """Serve until the client is gone."""
    for number in SIGNALS:
        signal.signal(number, stop)
    agent = Agent()
    try:
        agent.serve()
    except Gone:
        pass
    finally:
        agent.close()


if __name__ == "__main__":
    main()
