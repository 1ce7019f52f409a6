"""What engine builders left on this machine, believed only when this user's own key signed it.

An engine is native code and a timing cache steers what is built: neither is taken from a folder
that someone else could write to.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mpo.errors import RefusedError, UsageError
from mpo.files import sha256, writable, write_atomic
from mpo.runfolder import fingerprint

if TYPE_CHECKING:
    from onnx import GraphProto, TensorProto

MAC = hashlib.sha256
MAC_BYTES = 32


def content_hash(path: Path) -> str:
    """A hash of an ONNX file and of every file that holds its external data.

    Raises:
        UsageError: no ONNX file, or external data that is not there.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(path, load_external_data=False).graph
        names = {name for tensor in _tensors(graph) for name in _locations(tensor)}
        files = [path, *(path.parent / name for name in sorted(names))]
        return fingerprint([sha256(file) for file in files])
    except (OSError, DecodeError) as error:
        raise UsageError(f"{path} is no ONNX file that can be read: {error}") from error


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Every weight and constant of a graph and of the graphs inside its nodes."""
    pending = [graph]
    while pending:
        one = pending.pop()
        yield from one.initializer
        for node in one.node:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
                pending += [attribute.g] if attribute.HasField("g") else []
                pending += attribute.graphs


def _locations(tensor: TensorProto) -> list[str]:
    return [entry.value for entry in tensor.external_data if entry.key == "location"]


def user_key() -> Path:
    """Where this user's key lies: apart from any cache, so that a copied cache is not believed."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "mpo" / "cache.key"


class EngineCache:
    """Signed entries by key, in a folder of this user's own.

    Args:
        folder: made when it is not there.
        key: the file with this user's secret; made when it is not there.

    Raises:
        RefusedError: the folder or the key belongs to, or is open to, others.
        UsageError: the folder cannot be written.
    """

    def __init__(self, folder: Path, key: Path | None = None) -> None:
        self.folder, secret = folder, key or user_key()
        for place in (folder, secret.parent):
            with writable(place):
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
            _require_own(place)
        self._secret = _secret(secret)

    def get(self, key: str) -> bytes | None:
        """The entry, or None when there is none; one that was not signed here is deleted."""
        path = self.folder / key
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return None
        payload = raw[MAC_BYTES:]
        if hmac.compare_digest(raw[:MAC_BYTES], self._sign(key, payload)):
            return payload
        path.unlink(missing_ok=True)
        return None

    def put(self, key: str, payload: bytes) -> None:
        """Store an entry; a reader sees the old one or the whole new one."""
        with writable(self.folder):
            write_atomic(self.folder / key, self._sign(key, payload) + payload)

    def _sign(self, key: str, payload: bytes) -> bytes:
        signer = hmac.new(self._secret, key.encode() + b"\0", MAC)
        signer.update(payload)
        return signer.digest()


def _require_own(path: Path) -> None:
    facts = path.lstat()
    if stat.S_ISLNK(facts.st_mode):
        facts = path.stat()
    if facts.st_uid != os.getuid() or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise RefusedError(
            f"{path} can be written by others than you: what lies there is not believed.",
            hint=f"Take a folder of your own, or: chmod go-w {path}",
        )


def _secret(path: Path) -> bytes:
    with contextlib.suppress(FileExistsError):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(MAC_BYTES))
    facts = path.stat()
    if facts.st_uid != os.getuid() or facts.st_mode & 0o077 or facts.st_size != MAC_BYTES:
        raise RefusedError(
            f"The key {path} is not yours alone, or no key of {MAC_BYTES} bytes.",
            hint="Delete it; a new one is made, and what the old one signed is built again.",
        )
    return path.read_bytes()
