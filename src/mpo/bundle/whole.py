"""Whether a bundle is whole: every byte what its manifest says. Nothing in it is run."""

from __future__ import annotations

from pathlib import Path

from mpo.bundle import mpo_edge
from mpo.bundle.reader import open_bundle
from mpo.records import Bundle, Record
from mpo.store import sha256


class Verified(Record):
    """What is known of a bundle whose every byte is what its manifest says.

    Attributes:
        digest: the sha256 of its manifest, which names it.
        sha256: of the file.
        same_runtime: its program is the very one of this mpo.
    """

    path: str
    digest: str
    sha256: str
    signature: str
    same_runtime: bool
    manifest: Bundle


def verify(path: str | Path) -> Verified:
    """Whether every byte of a bundle is what its manifest says; its program is not run.

    Raises:
        UsageError: there is no such file.
        RefusedError: it is no bundle, or not as it must be.
    """
    place = Path(path)
    with open_bundle(place) as bundle:
        bundle.verify()
        own = sha256(Path(mpo_edge.__file__))
        theirs = bundle.manifest.files.get("runtime/mpo_edge.py")
        return Verified(
            path=str(path),
            digest=bundle.digest,
            sha256=sha256(place),
            signature="none" if bundle.signature() is None else "not checked",
            same_runtime=theirs is not None and theirs.sha256 == own,
            manifest=bundle.manifest,
        )
