#!/usr/bin/env python3
"""Check the OpenSSF model signature of an mpo edge bundle with a public key: standard library only.

The signature (bundle.sig) is what `model_signing sign key` writes: a Sigstore bundle with a DSSE
envelope around an in-toto statement, which names the sha256 of every file, signed by ECDSA on P-256
or P-384. No network, no certificate, no library: the key is the one file that a device must trust.
Only public figures are handled here, so it does not matter how long the arithmetic takes.

    python3 mpo_signature.py model.mpo --key KEY.pub      is it signed by this key (0, else 8)

It needs mpo_edge.py beside it, which checks every byte first, and remembers the highest version
that the key signed under the bundle's name: an older bundle, replayed, is refused. Take both files,
and the key, from elsewhere than the bundle.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union

PAYLOAD = "application/vnd.in-toto+json"
MEDIA = "application/vnd.dev.sigstore.bundle.v0.3+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
Point = Optional[Tuple[int, int]]  # None is the point at infinity


class SignatureError(Exception):
    """The signature does not vouch for these files; says why."""


class Curve(NamedTuple):
    """y^2 = x^3 - 3x + b modulo p, the generator and its order (FIPS 186-5, SP 800-186), what a
    public key on it begins with (RFC 5480), and the hash that is signed."""

    prefix: bytes
    p: int
    b: int
    n: int
    generator: Tuple[int, int]
    hash: str


P256 = Curve(
    bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004"),
    2**256 - 2**224 + 2**192 + 2**96 - 1,
    0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    (
        0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
        0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
    ),
    "sha256",
)
LONG = """
B3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF
FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
AA87CA22BE8B05378EB1C71EF320AD746E1D3B628BA79B9859F741E082542A385502F25DBF55296C3A545E3872760AB7
3617DE4A96262C6F5D9E98BF9292DC29F8F41DBD289A147CE9DA3113B5F0B8C00A60B1CE1D7E819D7A431D7C90EA0E5F
"""
_B, _N, _X, _Y = (int(line, 16) for line in LONG.split())
P384 = Curve(
    bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004"),
    2**384 - 2**128 - 2**96 + 2**32 - 1,
    _B,
    _N,
    (_X, _Y),
    "sha384",
)


class Key(NamedTuple):
    """A public key, and the sha256 of its PEM text, by which a signature names it."""

    curve: Curve
    point: Tuple[int, int]
    hint: str


def read_key(pem: bytes) -> Key:
    """A public key as `openssl ec -pubout` writes it.

    Raises:
        SignatureError: no such key, or one on another curve.
    """
    lines = pem.decode("ascii", "replace").split()
    if lines[:2] != ["-----BEGIN", "PUBLIC"] or lines[-2:] != ["PUBLIC", "KEY-----"]:
        raise SignatureError("the key is no public key in PEM form")
    try:
        raw = base64.b64decode("".join(lines[3:-3]), validate=True)
    except binascii.Error as error:
        raise SignatureError("the key is no public key in PEM form") from error
    for curve in (P256, P384):
        size = (curve.p.bit_length() + 7) // 8
        if raw.startswith(curve.prefix) and len(raw) == len(curve.prefix) + 2 * size:
            numbers = raw[len(curve.prefix) :]
            x, y = int.from_bytes(numbers[:size], "big"), int.from_bytes(numbers[size:], "big")
            if max(x, y) >= curve.p or (y * y - x * x * x + 3 * x - curve.b) % curve.p:
                raise SignatureError("the key is no point of its curve")
            body = base64.encodebytes(raw).replace(b"\n", b"")
            rows = [body[place : place + 64] for place in range(0, len(body), 64)]
            text = [b"-----BEGIN PUBLIC KEY-----", *rows, b"-----END PUBLIC KEY-----", b""]
            return Key(curve, (x, y), hashlib.sha256(b"\n".join(text)).hexdigest())
    raise SignatureError("the key is not on the curve P-256 or P-384")


def added(curve: Curve, one: Point, other: Point) -> Point:
    """The sum of two points."""
    if one is None or other is None:
        return one or other
    p = curve.p
    if one[0] == other[0]:
        if (one[1] + other[1]) % p == 0:
            return None
        slope = (3 * one[0] * one[0] - 3) * pow(2 * one[1], -1, p) % p
    else:
        slope = (other[1] - one[1]) * pow(other[0] - one[0], -1, p) % p
    x = (slope * slope - one[0] - other[0]) % p
    return x, (slope * (one[0] - x) - one[1]) % p


def times(curve: Curve, factor: int, point: Point) -> Point:
    """A point added to itself so many times."""
    result: Point = None
    while factor:
        if factor & 1:
            result = added(curve, result, point)
        point = added(curve, point, point)
        factor >>= 1
    return result


def signature_numbers(raw: bytes) -> Tuple[int, int]:
    """r and s of a DER SEQUENCE of two INTEGERs, in the one form that DER allows."""
    found: List[int] = []
    if len(raw) < 8 or raw[0] != 0x30 or raw[1] != len(raw) - 2 or raw[1] > 127:
        raise SignatureError("the signature is no pair of numbers")
    place = 2
    while place < len(raw):
        size = raw[place + 1] if place + 1 < len(raw) else 0
        number = raw[place + 2 : place + 2 + size]
        padded = len(number) > 1 and number[0] == 0 and number[1] < 128
        if raw[place] != 2 or not size or len(number) != size or number[0] > 127 or padded:
            raise SignatureError("the signature is no pair of numbers")
        found.append(int.from_bytes(number, "big"))
        place += 2 + size
    if len(found) != 2:
        raise SignatureError("the signature is no pair of numbers")
    return found[0], found[1]


def verified(key: Key, signature: bytes, message: bytes) -> bool:
    """Whether the key's owner signed the message (ECDSA, FIPS 186-5, 6.4.2)."""
    r, s = signature_numbers(signature)
    curve = key.curve
    if not (0 < r < curve.n and 0 < s < curve.n):
        return False
    # The curve's hash is as long as its order, so nothing is cut off.
    digest = int.from_bytes(hashlib.new(curve.hash, message).digest(), "big")
    inverse = pow(s, -1, curve.n)
    first = times(curve, digest * inverse % curve.n, curve.generator)
    point = added(curve, first, times(curve, r * inverse % curve.n, key.point))
    return point is not None and point[0] % curve.n == r


def check(signature: bytes, pem: bytes, files: Dict[str, str]) -> None:
    """Refuse a signature that is not of exactly these files by exactly this key.

    Args:
        signature: bundle.sig.
        pem: the public key.
        files: sha256 in hexadecimal by name, of every file but the signature.

    Raises:
        SignatureError: says why.
    """
    key = read_key(pem)
    try:
        told = json.loads(signature)
        envelope, material = told["dsseEnvelope"], told["verificationMaterial"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        (sealed,) = envelope["signatures"]
        raw = base64.b64decode(sealed["sig"], validate=True)
        hint = material["publicKey"]["hint"] if "publicKey" in material else None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise SignatureError("it is no signature of a model") from error
    if told.get("mediaType") != MEDIA or envelope.get("payloadType") != PAYLOAD:
        raise SignatureError("it is a signature of another kind")
    if hint is None:
        raise SignatureError("it was made without a key (keyless) or with a certificate")
    if hint != key.hint:
        raise SignatureError("it was made with another key")
    head = "DSSEv1 %d %s %d " % (len(PAYLOAD), PAYLOAD, len(payload))
    if not verified(key, raw, head.encode() + payload):
        raise SignatureError("it is not by this key, or was changed")
    signed = signed_files(payload)
    for name in sorted(set(signed) ^ set(files)):
        what = "was not signed" if name in files else "was signed and is not there"
        raise SignatureError("%s %s" % (json.dumps(name[:120]), what))
    for name, digest in files.items():
        if signed[name] != digest:
            raise SignatureError("%s has other bytes than were signed" % json.dumps(name[:120]))


def signed_files(payload: bytes) -> Dict[str, str]:
    """Names and sha256 in a statement whose signature holds."""
    try:
        statement = json.loads(payload)
        (subject,) = statement["subject"]
        found: Dict[str, str] = {}
        whole = hashlib.sha256()
        for one in statement["predicate"]["resources"]:
            if one["algorithm"] != "sha256" or one["name"] in found:
                raise ValueError(one["name"])
            found[one["name"]] = one["digest"]
            whole.update(bytes.fromhex(one["digest"]))
        right = statement["_type"] == STATEMENT and statement["predicateType"] == PREDICATE
        if not right or subject["digest"] != {"sha256": whole.hexdigest()}:
            raise ValueError(statement["predicateType"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SignatureError("it is a statement of another kind") from error
    return found


def raise_version(state: Path, pem: bytes, name: str, version: int, lower: bool = False) -> int:
    """Remember the highest version that a key signed under a name; refuse a lower one.

    Call it when the signature has been checked: whoever has not the key cannot raise the figure.

    Args:
        state: the JSON file of what this device has seen.
        lower: accept a lower version, which is then the one to beat.

    Returns:
        The highest version before; 0 when there was none.

    Raises:
        SignatureError: a lower version, or a state that cannot be read.
        OSError: the state cannot be written.
    """
    entry = "%s %s" % (read_key(pem).hint, name)
    seen: Dict[str, Any] = {}
    if state.exists():
        try:
            seen = json.loads(state.read_text(encoding="utf-8"))
            if not all(type(one) is int for one in seen.values()):
                raise ValueError("no versions")
        except (ValueError, AttributeError, RecursionError) as error:
            raise SignatureError("%s holds no versions of bundles" % state) from error
    before = int(seen.get(entry, 0))
    if version < before and not lower:
        raise SignatureError(
            "version %d of %s is older than version %d, which this device has seen"
            % (version, name, before)
        )
    if version != before:
        state.parent.mkdir(parents=True, exist_ok=True)
        temporary = state.with_name(".%s.%d.tmp" % (state.name, os.getpid()))
        temporary.write_text(json.dumps({**seen, entry: version}, indent=1), encoding="utf-8")
        temporary.replace(state)
    return before


def default_state() -> Path:
    """Where mpo_edge.py, too, remembers this user's versions."""
    home = os.environ.get("MPO_EDGE_HOME") or os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "mpo-edge-config" / "versions.json"


def vouched(bundle: Any, pem: bytes, state: Union[str, Path], lower: bool = False) -> int:
    """Hold an opened bundle, whose bytes are verified, to a key; the rest as raise_version."""
    signature, manifest = bundle.signature(), bundle.manifest
    if signature is None:
        raise SignatureError("the bundle has none")
    files = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    check(signature, pem, {"bundle.json": bundle.digest, **files})
    return raise_version(Path(state), pem, manifest["name"], manifest["bundle_version"], lower)


def held(edge: Any, asked: argparse.Namespace) -> Dict[str, Any]:
    """Hold a bundle to the key: what the program says when all is well."""
    with edge.Opened(asked.bundle) as bundle:
        bundle.verify()
        state = Path(asked.state) if asked.state else default_state()
        before = vouched(bundle, Path(asked.key).read_bytes(), state, asked.allow_downgrade)
        told = {key: bundle.manifest[key] for key in ("name", "bundle_version")}
        about = {"digest": bundle.digest, **told, "highest_before": before}
        return {"ok": True, **about, "signature": "valid"}


def main(arguments: Optional[List[str]] = None) -> int:
    """Check one bundle; the answer goes to stdout as one line of JSON, the exit code back."""
    line = argparse.ArgumentParser(prog="mpo_signature.py", description=str(__doc__).split("\n")[0])
    line.add_argument("bundle", help="a .mpo file")
    line.add_argument("--key", required=True, help="the public key (PEM, P-256 or P-384)")
    line.add_argument("--state", help="file of the highest versions seen; my own by default")
    line.add_argument("--allow-downgrade", action="store_true", help="take an older version")
    asked = line.parse_args(arguments)
    edge: Any = importlib.import_module("mpo_edge")  # beside this file
    try:
        answer, code = held(edge, asked), 0
    except (SignatureError, edge.EdgeError, OSError) as error:
        code = 8 if isinstance(error, SignatureError) else getattr(error, "code", 2)
        told = "The signature does not hold: %s." if isinstance(error, SignatureError) else "%s"
        answer = {"error": told % error, "exit_code": code}
    sys.stdout.write(json.dumps(answer, ensure_ascii=True) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
