"""Whether a bundle is whole, every byte what its manifest says, and signed by whom it must be.
Nothing in it is run."""

from __future__ import annotations

from pathlib import Path

from mpo.bundle import mpo_edge
from mpo.bundle.reader import open_bundle
from mpo.bundle.signing import NO_POLICY, Checked, Policy, check
from mpo.files import sha256
from mpo.records import Bundle, Record


class Verified(Record):
    """What is known of a bundle whose every byte is what its manifest says.

    Attributes:
        digest: the sha256 of its manifest, which names it.
        sha256: of the file.
        signature: "none", "not checked" when nothing was asked of it, or "valid".
        same_runtime: its program is the very one of this mpo.
    """

    path: str
    digest: str
    sha256: str
    signature: Checked
    same_runtime: bool
    manifest: Bundle


def verify(path: str | Path, policy: Policy = NO_POLICY) -> Verified:
    """Whether every byte of a bundle is what its manifest says; its program is not run.

    Args:
        policy: what its signature must be; nothing by default.

    Raises:
        UsageError: there is no such file.
        RefusedError: it is no bundle, or not as it must be, or not signed as the policy asks.
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
            signature=check(bundle, policy),
            same_runtime=theirs is not None and theirs.sha256 == own,
            manifest=bundle.manifest,
        )
