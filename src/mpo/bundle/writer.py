"""Write a bundle: the same content gives the same bytes, wherever, whenever and by whomever.

Nothing of the machine enters: fixed times, order and attributes, nothing compressed, names in
ASCII, the manifest in one canonical spelling. The layout is mpo_edge.py's own, which reads it.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mpo.bundle import mpo_edge
from mpo.bundle.reader import OpenBundle, open_bundle, told
from mpo.errors import UsageError
from mpo.files import replacing, writable
from mpo.records import Bundle, BundleFile
from mpo.records.bundle import Role

STARTER_NAME = "__main__.py"
STARTER = b'''"""python3 FILE.mpo COMMAND: start the program that lies in the bundle."""

import runpy
import sys

sys.path.insert(0, __file__.replace("__main__.py", "runtime"))
runpy.run_module("mpo_edge", run_name="__main__")
'''
Chunks = Callable[[], Iterator[bytes]]
Content = bytes | Path


@dataclass(frozen=True)
class Part:
    """A file to be packed.

    Attributes:
        content: its bytes, or where they lie.
        role: what it is for.
    """

    content: Content
    role: Role


def listed(parts: Mapping[str, Part]) -> dict[str, BundleFile]:
    """What the manifest's `files` says of these members."""
    return {name: _file(part) for name, part in sorted(parts.items())}


def write_bundle(target: Path, manifest: Bundle, parts: Mapping[str, Part]) -> str:
    """Write a bundle, whole or not at all.

    Args:
        manifest: its `files` must be `listed(parts)`.

    Returns:
        The bundle's digest: the sha256 of its manifest.

    Raises:
        UsageError: it cannot be written, or is larger than a bundle may be.
        RefusedError: a name that no bundle may have, or a manifest of other files.
    """
    sources = {name: partial(_chunks, part.content) for name, part in parts.items()}
    return _write(target, manifest_bytes(manifest), sources, None)


def sign_bundle(source: Path, target: Path, signature: bytes) -> str:
    """Write a bundle again with another signature, or a first one; nothing else of it changes."""
    with open_bundle(source) as bundle:
        manifest = bundle.manifest_bytes()
        return _write(target, manifest, _members(bundle), signature)


def amend_bundle(
    source: Path, target: Path, change: Callable[[Bundle], Bundle], more: Mapping[str, Part]
) -> str:
    """Write a bundle again with more files and a changed manifest, without its signature.

    Args:
        change: from the manifest, whose `files` has the new ones already, to the one to write.
    """
    with open_bundle(source) as bundle:
        files = {**bundle.manifest.files, **listed(more)}
        manifest = change(bundle.manifest.model_copy(update={"files": files}))
        added: dict[str, Chunks] = {n: partial(_chunks, p.content) for n, p in more.items()}
        return _write(target, manifest_bytes(manifest), {**_members(bundle), **added}, None)


def manifest_bytes(manifest: Bundle) -> bytes:
    """The one spelling of a manifest."""
    return mpo_edge.canonical(manifest.model_dump(mode="json"))


def _members(bundle: OpenBundle) -> dict[str, Chunks]:
    return {name: partial(bundle.chunks, name) for name in bundle.manifest.files}


def _chunks(content: Content) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while part := file.read(mpo_edge.CHUNK):
            yield part


def _file(part: Part) -> BundleFile:
    digest, size = hashlib.sha256(), 0
    for chunk in _chunks(part.content):
        digest.update(chunk)
        size += len(chunk)
    return BundleFile(sha256=digest.hexdigest(), size=size, role=part.role)


def _write(
    target: Path, manifest: bytes, sources: Mapping[str, Chunks], signature: bytes | None
) -> str:
    """Write beside the target, read it back as a device would, and put it into place."""
    members: dict[str, Chunks] = {mpo_edge.MANIFEST: partial(_chunks, manifest)}
    members |= {name: sources[name] for name in sorted(sources)}
    if signature is not None:
        members[mpo_edge.SIGNATURE] = partial(_chunks, signature)
    with told():
        mpo_edge.check_names(list(members))
    with writable(target), replacing(target) as temporary:
        _pack(temporary, members)
        with open_bundle(temporary) as bundle:
            bundle.verify()
            digest = bundle.digest
    return digest


def _pack(path: Path, members: Mapping[str, Chunks]) -> None:
    """The archive: headers, whose sizes and checksums are filled in after the content, and the
    directory of them."""
    directory, offset = b"", 0
    with path.open("wb") as file:
        for name, chunks in members.items():
            file.write(mpo_edge.headers(name, 0, 0)[0])
            size = crc = 0
            for chunk in chunks():
                file.write(chunk)
                size, crc = size + len(chunk), zlib.crc32(chunk, crc)
            after = file.tell()
            if after > mpo_edge.LARGEST:
                raise UsageError(
                    f"The bundle has more than {mpo_edge.LARGEST} bytes, which no bundle may have.",
                    hint="Export at a lower precision: --precision fp16.",
                )
            file.seek(offset)
            head, entry = mpo_edge.headers(name, size, crc, offset)
            file.write(head)
            file.seek(after)
            directory, offset = directory + entry, after
        file.write(directory)
        file.write(mpo_edge.end_record(len(members), len(directory), offset))
