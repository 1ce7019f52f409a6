"""Sign a bundle as the OpenSSF's model signing does, and hold a bundle to a signature policy.

Signing needs the extra `sign`; so does checking a keyless signature. A signature by key is checked
by the devices' own program, which needs neither a library nor the network.
"""

from __future__ import annotations

import contextlib
import importlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mpo.bundle import mpo_edge, mpo_signature
from mpo.bundle.reader import OpenBundle, open_bundle
from mpo.bundle.writer import sign_bundle
from mpo.errors import MpoError, RefusedError, UsageError
from mpo.files import writable

Checked = Literal["none", "not checked", "valid"]
KEYS = "Make a pair: openssl ecparam -name prime256v1 -genkey -noout -out KEY; openssl ec -pubout."


@dataclass(frozen=True)
class Policy:
    """What a bundle must show.

    Attributes:
        key: the public key that must have signed it; None without.
        identity, issuer: who must have signed it without a key, and who vouches for that.
        required: a bundle without a signature is refused; one that nothing here checks, too.
        state: where versions are remembered; None uses this user's own file.
        allow_downgrade: accept a version that is older than one seen before.
    """

    key: Path | None = None
    identity: str = ""
    issuer: str = ""
    required: bool = False
    state: Path | None = None
    allow_downgrade: bool = False

    @property
    def checks(self) -> bool:
        """Whether it names someone who must have signed."""
        return self.key is not None or bool(self.identity)


NO_POLICY = Policy()


def sign(source: Path, target: Path, *, key: Path | None = None) -> str:
    """Sign every file of a bundle; the bundle's digest, which a signature does not change.

    Args:
        source: a bundle; target: where the signed one goes, which may be the same path.
        key: an EC private key (PEM, P-256 or P-384, not encrypted); None signs keyless with
            Sigstore, which opens the network and asks who you are.

    Raises:
        UsageError: no model-signing here, or no such key.
        RefusedError: the bundle is not whole.
        MpoError: Sigstore could not be reached.
    """
    signer = _module("signing").Config()
    if key is not None:
        _private(signer, key)
    with open_bundle(source) as bundle, _unpacked(bundle) as folder:
        hashing = (
            _module("hashing")
            .Config()
            .set_ignored_paths(paths=[mpo_edge.SIGNATURE], ignore_git_paths=False)
        )
        file = folder.parent / mpo_edge.SIGNATURE
        with _told("Signing"):
            signer.set_hashing_config(hashing).sign(folder, file)
        signature = file.read_bytes()
    return sign_bundle(source, target, signature)


def check(bundle: OpenBundle, policy: Policy) -> Checked:
    """Hold a bundle, whose bytes were verified, to a policy.

    Raises:
        RefusedError: no signature where one is required, by another, of other files, or of an older
            version than one seen before.
        UsageError: no such key.
    """
    signature = bundle.signature()
    if signature is None:
        if policy.required or policy.checks:
            raise RefusedError(
                "A signature is required, and the bundle has none.",
                hint="Ask who made it for a signed one: mpo package --sign --key KEY.",
            )
        return "none"
    if policy.key is not None:
        _by_key(bundle, policy.key, policy)
    elif policy.identity:
        _keyless(bundle, signature, policy)
    elif policy.required:
        raise RefusedError(
            "A signature is required, and nothing says whose.",
            hint="Name the public key: --key KEY.pub.",
        )
    return "valid" if policy.checks else "not checked"


def _by_key(bundle: OpenBundle, key: Path, policy: Policy) -> None:
    pem = _read(key)
    try:
        mpo_signature.read_key(pem)
    except mpo_signature.SignatureError as error:
        raise UsageError(f"{key}: {error}.", hint=KEYS) from error
    state = policy.state or mpo_signature.default_state()
    try:
        with writable(state):
            mpo_signature.vouched(bundle.raw, pem, state, policy.allow_downgrade)
    except mpo_signature.SignatureError as error:
        raise RefusedError(
            f"The signature does not hold: {error}.",
            hint="Do not use the bundle. An older one on purpose needs --allow-downgrade.",
        ) from error


def _keyless(bundle: OpenBundle, signature: bytes, policy: Policy) -> None:
    verifier = _module("verifying").Config()
    with _unpacked(bundle) as folder, _told("Checking the signature", refuse=True):
        file = folder.parent / mpo_edge.SIGNATURE
        file.write_bytes(signature)
        verifier.use_sigstore_verifier(identity=policy.identity, oidc_issuer=policy.issuer)
        verifier.verify(folder, file)


@contextlib.contextmanager
def _unpacked(bundle: OpenBundle) -> Iterator[Path]:
    """The bundle's files in a fresh folder that only this user can enter."""
    with tempfile.TemporaryDirectory(prefix="mpo-sign-") as room:
        folder = Path(room) / f"{bundle.manifest.name}-{bundle.manifest.version}"
        folder.mkdir()
        (folder / mpo_edge.MANIFEST).write_bytes(bundle.manifest_bytes())
        for name in bundle.manifest.files:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                file.writelines(bundle.chunks(name))
        yield folder


def _module(name: str) -> Any:
    try:
        return importlib.import_module(f"model_signing.{name}")
    except ImportError as error:
        raise UsageError(
            "Signing needs model-signing, which is not installed.",
            hint="pip install 'mpo-optimizer[sign]'",
        ) from error


def _private(signer: Any, key: Path) -> None:
    _read(key)
    try:
        signer.use_elliptic_key_signer(private_key=key)
    except (ValueError, TypeError) as error:  # no key, another curve, or a password is asked for
        raise UsageError(f"{key} is no private key to sign with: {error}.", hint=KEYS) from error


def _read(key: Path) -> bytes:
    try:
        return key.read_bytes()
    except OSError as error:
        raise UsageError(f"Cannot read the key {key}: {error.strerror}.", hint=KEYS) from error


@contextlib.contextmanager
def _told(what: str, *, refuse: bool = False) -> Iterator[None]:
    """Whatever model-signing and Sigstore raise, in one sentence."""
    try:
        yield
    except (MpoError, KeyboardInterrupt):
        raise
    except Exception as error:
        kind = RefusedError if refuse else MpoError
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise kind(
            f"{what} failed: {first[:300]}.",
            hint="Without a key, Sigstore must be reached over the network.",
        ) from error
