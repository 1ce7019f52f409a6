"""Signatures: the right key, a wrong one, none, tampered, replayed; each with its exit code."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

from mpo.bundle import mpo_edge, mpo_signature
from mpo.bundle.mpo_signature import SignatureError, read_key
from mpo.bundle.reader import open_bundle
from mpo.bundle.signing import Policy, check, sign
from mpo.bundle.writer import sign_bundle
from mpo.cli import cli
from mpo.errors import RefusedError, UsageError
from tests.bundle.small import entries, write_small

pytest.importorskip("model_signing", reason="the extra `sign` is not installed")
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

CURVES = {"P-256": (ec.SECP256R1(), hashes.SHA256()), "P-384": (ec.SECP384R1(), hashes.SHA384())}


class Pair(NamedTuple):
    """The files of a key pair."""

    private: Path
    public: Path


def pair(folder: Path, name: str, curve: ec.EllipticCurve = ec.SECP256R1()) -> Pair:  # noqa: B008
    key = ec.generate_private_key(curve)
    made = Pair(folder / name, folder / f"{name}.pub")
    made.private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    made.public.write_bytes(public_pem(key))
    return made


def public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form)


class World(NamedTuple):
    """A signed bundle, the pair that signed it, another pair, and where versions are kept."""

    bundle: Path
    ours: Pair
    other: Pair
    state: Path

    def judge(self, path: Path | None = None, **policy: Any) -> str:
        with open_bundle(path or self.bundle) as bundle:
            bundle.verify()
            return check(bundle, Policy(state=self.state, **policy))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("signed")
    ours, other = pair(folder, "ours"), pair(folder, "other")
    write_small(folder / "plain.mpo", bundle_version=3)
    sign(folder / "plain.mpo", folder / "b.mpo", key=ours.private)
    return World(folder / "b.mpo", ours, other, folder)


@pytest.fixture
def world(made: World, tmp_path: Path) -> World:
    return made._replace(state=tmp_path / "state" / "versions.json")


def test_the_right_key_verifies_and_the_digest_stays(world: World) -> None:
    assert world.judge(key=world.ours.public, required=True) == "valid"
    with open_bundle(world.bundle) as signed, open_bundle(world.bundle.parent / "plain.mpo") as old:
        assert signed.digest == old.digest


def test_a_wrong_key_is_refused(world: World) -> None:
    with pytest.raises(RefusedError, match="another key") as caught:
        world.judge(key=world.other.public)
    assert caught.value.exit_code == 8
    assert not world.state.exists()


@pytest.mark.parametrize("key", ["--key=", "--key"])
def test_an_empty_key_is_not_taken_for_none(key: str, world: World) -> None:
    """As a shell's unset variable gives it: the device must not answer that all is well."""
    line = ["verify", str(world.bundle), key, *[""] * (key == "--key")]
    assert mpo_edge.main(line) != 0


def test_no_signature_is_refused_where_one_is_required(world: World) -> None:
    plain = world.bundle.parent / "plain.mpo"
    assert world.judge(plain) == "none"
    for policy in ({"required": True}, {"key": world.ours.public}):
        with pytest.raises(RefusedError, match="has none"):
            world.judge(plain, **policy)


def test_a_signature_that_nobody_checks_is_refused_where_one_is_required(world: World) -> None:
    assert world.judge() == "not checked"
    with pytest.raises(RefusedError, match="nothing says whose"):
        world.judge(required=True)


def test_the_signature_of_another_bundle_is_refused(world: World, tmp_path: Path) -> None:
    with open_bundle(world.bundle) as bundle:
        signature = bundle.signature()
    assert signature is not None
    write_small(tmp_path / "c.mpo", license="MIT")
    sign_bundle(tmp_path / "c.mpo", tmp_path / "d.mpo", signature)
    with pytest.raises(RefusedError, match=r"bundle\.json\" has other bytes than were signed"):
        world.judge(tmp_path / "d.mpo", key=world.ours.public)


def test_a_replayed_older_version_is_refused_and_taken_only_on_purpose(
    world: World, tmp_path: Path
) -> None:
    for version in (2, 4):
        write_small(tmp_path / f"{version}.mpo", bundle_version=version)
        sign(tmp_path / f"{version}.mpo", tmp_path / f"{version}.mpo", key=world.ours.private)
    judge: Callable[..., str] = lambda n, **more: world.judge(  # noqa: E731
        tmp_path / f"{n}.mpo", key=world.ours.public, **more
    )
    assert judge(2) == judge(4) == judge(4) == "valid"
    with pytest.raises(RefusedError, match="version 2 of small is older than version 4"):
        judge(2)
    assert judge(2, allow_downgrade=True) == "valid"
    assert judge(2) == "valid"


def test_a_bundle_of_another_key_cannot_raise_the_version(world: World, tmp_path: Path) -> None:
    write_small(tmp_path / "9.mpo", bundle_version=9)
    sign(tmp_path / "9.mpo", tmp_path / "9.mpo", key=world.other.private)
    with pytest.raises(RefusedError):
        world.judge(tmp_path / "9.mpo", key=world.ours.public)
    assert world.judge(tmp_path / "9.mpo", key=world.other.public) == "valid"
    assert world.judge(key=world.ours.public) == "valid"


def test_a_state_that_cannot_be_read_is_refused_and_left_alone(world: World) -> None:
    world.state.parent.mkdir()
    world.state.write_text('{"x": "many"}')
    with pytest.raises(RefusedError, match="holds no versions"):
        world.judge(key=world.ours.public)
    assert world.state.read_text() == '{"x": "many"}'


def statement(world: World) -> tuple[dict[str, Any], dict[str, Any]]:
    """The signature, and the statement in it."""
    told = json.loads(dict(entries(world.bundle))[mpo_edge.SIGNATURE])
    return told, json.loads(base64.b64decode(told["dsseEnvelope"]["payload"]))


def test_every_flipped_bit_of_what_is_signed_is_found(world: World) -> None:
    told, _ = statement(world)
    payload = bytearray(base64.b64decode(told["dsseEnvelope"]["payload"]))
    key = read_key(world.ours.public.read_bytes())
    raw = base64.b64decode(told["dsseEnvelope"]["signatures"][0]["sig"])

    def holds() -> bool:
        head = f"DSSEv1 {len(mpo_signature.PAYLOAD)} {mpo_signature.PAYLOAD} {len(payload)} "
        return mpo_signature.verified(key, raw, head.encode() + bytes(payload))

    assert holds()
    for place in range(0, len(payload), 301):
        payload[place] ^= 1 << place % 8
        assert not holds()
        payload[place] ^= 1 << place % 8


BENT: dict[str, Callable[[dict[str, Any]], object]] = {
    "no envelope": lambda s: s.pop("dsseEnvelope"),
    "two signatures": lambda s: s["dsseEnvelope"]["signatures"].append({"sig": ""}),
    "no signature": lambda s: s["dsseEnvelope"]["signatures"].clear(),
    "another payload type": lambda s: s["dsseEnvelope"].update(payloadType="text/plain"),
    "another media type": lambda s: s.update(mediaType="x"),
    "no hint": lambda s: s["verificationMaterial"].update(publicKey={"hint": None}),
    "a certificate": lambda s: s.update(verificationMaterial={"certificate": {}}),
    "another hint": lambda s: s["verificationMaterial"]["publicKey"].update(hint="0" * 64),
    "no base64": lambda s: s["dsseEnvelope"].update(payload="$$$"),
    "an empty signature": lambda s: s["dsseEnvelope"]["signatures"][0].update(sig=""),
    "zeros": lambda s: s["dsseEnvelope"]["signatures"][0].update(
        sig=base64.b64encode(b"\x30\x06\x02\x01\x00\x02\x01\x00").decode()
    ),
}


@pytest.mark.parametrize("name", BENT)
def test_a_bent_signature_is_refused(name: str, world: World) -> None:
    told, _ = statement(world)
    BENT[name](told)
    with pytest.raises(SignatureError):
        mpo_signature.check(json.dumps(told).encode(), world.ours.public.read_bytes(), {})


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b'"x"', b"[" * 100_000, b"\xff\xfe"])
def test_what_is_no_signature_is_refused(raw: bytes, world: World) -> None:
    with pytest.raises(SignatureError, match="no signature"):
        mpo_signature.check(raw, world.ours.public.read_bytes(), {})


def test_a_file_more_or_less_than_was_signed_is_refused(world: World) -> None:
    raw = dict(entries(world.bundle))[mpo_edge.SIGNATURE]
    pem = world.ours.public.read_bytes()
    signed = {one["name"]: one["digest"] for one in statement(world)[1]["predicate"]["resources"]}
    mpo_signature.check(raw, pem, signed)
    with pytest.raises(SignatureError, match="was not signed"):
        mpo_signature.check(raw, pem, {**signed, "more": "0" * 64})
    with pytest.raises(SignatureError, match="is not there"):
        mpo_signature.check(raw, pem, dict(list(signed.items())[1:]))


@pytest.mark.parametrize("curve", CURVES)
def test_our_arithmetic_agrees_with_a_library_s(curve: str) -> None:
    kind, digest = CURVES[curve]
    for number in range(3):
        key = ec.generate_private_key(kind)
        message = hashlib.sha256(bytes([number])).digest() * (number + 1)
        raw, public = key.sign(message, ec.ECDSA(digest)), read_key(public_pem(key))
        assert mpo_signature.verified(public, raw, message)
        assert not mpo_signature.verified(public, raw, message + b"x")
        r, s = mpo_signature.signature_numbers(raw)
        assert not mpo_signature.verified(public, der(r, s + 1), message)
        # The twin of every signature, which ECDSA itself allows.
        assert mpo_signature.verified(public, der(r, public.curve.n - s), message)
        for wrong in (0, public.curve.n):
            assert not mpo_signature.verified(public, der(r, wrong), message)
            assert not mpo_signature.verified(public, der(wrong, s), message)


def der(*numbers: int) -> bytes:
    body = b""
    for number in numbers:
        raw = number.to_bytes(number.bit_length() // 8 + 1, "big")
        body += bytes([2, len(raw)]) + raw
    return bytes([0x30, len(body)]) + body


@pytest.mark.parametrize(
    "raw",
    [
        b"0\x06\x02\x01\x01\x02\x01",  # cut off
        b"0\x06\x02\x01\x01\x02\x01\x01\x00",  # more behind
        b"0\x07\x02\x02\x00\x01\x02\x01\x01",  # a zero too many
        b"0\x06\x02\x01\x81\x02\x01\x01",  # negative
        b"0\x03\x02\x01\x01" + b"\x00" * 3,
        b"0\x09\x02\x01\x01\x02\x01\x01\x02\x01\x01",  # three numbers
    ],
)
def test_numbers_in_another_form_than_der_s_are_refused(raw: bytes) -> None:
    with pytest.raises(SignatureError, match="pair of numbers"):
        mpo_signature.signature_numbers(raw)


def test_keys_of_other_kinds_are_refused(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP521R1())
    with pytest.raises(SignatureError, match="P-256 or P-384"):
        read_key(public_pem(key))
    pem = public_pem(ec.generate_private_key(ec.SECP256R1()))
    raw = bytearray(base64.b64decode(b"".join(pem.splitlines()[1:-1])))
    raw[-1] ^= 1
    text = base64.b64encode(raw)
    off = b"-----BEGIN PUBLIC KEY-----\n" + text + b"\n-----END PUBLIC KEY-----\n"
    with pytest.raises(SignatureError, match="no point of its curve"):
        read_key(off)
    for other in (b"", b"ssh-ed25519 AAAA", pem.replace(b"PUBLIC", b"PRIVATE")):
        with pytest.raises(SignatureError, match="PEM"):
            read_key(other)


def test_the_hint_is_that_of_the_official_tool_whatever_the_line_ends(world: World) -> None:
    pem = world.ours.public.read_bytes()
    assert read_key(pem).hint == hashlib.sha256(pem).hexdigest()
    assert read_key(pem.replace(b"\n", b"\r\n")) == read_key(pem)


def test_the_official_tool_verifies_what_we_sign(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "unpacked"
    for name, content in entries(world.bundle):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(folder)]
    command += ["--signature", str(folder / mpo_edge.SIGNATURE)]
    command += ["--public_key", str(world.ours.public)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "plan.json").write_text("[]")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with the two programs of a device, and nothing of mpo."""
    folder = tmp_path / "device"
    folder.mkdir()
    for module in (mpo_edge, mpo_signature):
        source = Path(module.__file__ or "")
        (folder / source.name).write_bytes(source.read_bytes())
    return folder


def on_device(programs: Path, *arguments: str | Path) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-E", "-s", str(programs / "mpo_signature.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=programs)
    return done.returncode, json.loads(done.stdout)


def test_a_device_checks_with_the_key_and_two_files_of_the_standard_library(
    world: World, programs: Path, tmp_path: Path
) -> None:
    write_small(tmp_path / "4.mpo", bundle_version=4)
    sign(tmp_path / "4.mpo", tmp_path / "4.mpo", key=world.ours.private)
    asked = ("--key", world.ours.public, "--state", tmp_path / "seen.json")
    code, told = on_device(programs, tmp_path / "4.mpo", *asked)
    assert (code, told["signature"], told["highest_before"]) == (0, "valid", 0)
    code, told = on_device(programs, world.bundle, *asked)
    assert (code, "older than version 4" in told["error"]) == (8, True)
    assert on_device(programs, world.bundle, *asked, "--allow-downgrade")[0] == 0
    code, told = on_device(programs, world.bundle, "--key", world.other.public, *asked[2:])
    assert (code, "another key" in told["error"]) == (8, True)
    code, told = on_device(programs, world.bundle.parent / "plain.mpo", *asked)
    assert (code, "the bundle has none" in told["error"]) == (8, True)
    assert on_device(programs, world.bundle, "--key", tmp_path / "none")[0] == 2
    assert on_device(programs, tmp_path / "none.mpo", *asked)[0] == 2
    raw = bytearray(world.bundle.read_bytes())
    raw[len(raw) // 2] ^= 1
    (tmp_path / "bent.mpo").write_bytes(raw)
    assert on_device(programs, tmp_path / "bent.mpo", *asked)[0] == 8


def test_mpo_verify_holds_a_bundle_to_the_policy(world: World) -> None:
    def verify(path: Path, *options: str | Path) -> tuple[int, str]:
        state = ("--state", str(world.state))
        done = CliRunner().invoke(cli, ["verify", str(path), *state, *map(str, options)])
        return done.exit_code, done.output

    plain = world.bundle.parent / "plain.mpo"
    assert verify(plain)[0] == 0
    assert verify(plain, "--require-signature")[0] == 8
    assert verify(world.bundle, "--require-signature")[0] == 8
    code, said = verify(world.bundle, "--key", world.ours.public, "--json")
    assert (code, json.loads(said)["signature"]) == (0, "valid")
    code, said = verify(world.bundle, "--key", world.other.public)
    assert (code, "another key" in said, "hint: " in said) == (8, True, True)
    assert verify(world.bundle, "--key", world.state)[0] == 2


def test_a_keyless_signature_is_told_apart_and_not_taken_for_one_by_key(world: World) -> None:
    """Sigstore itself needs the network; without it a keyless check fails closed."""
    with pytest.raises(RefusedError, match="Checking the signature failed"):
        world.judge(identity="me@example.org", issuer="https://issuer.invalid")


def test_signing_with_what_is_no_key_is_bad_usage(world: World, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("no key")
    for key in (tmp_path / "none", tmp_path / "key", world.ours.public):
        with pytest.raises(UsageError, match="key"):
            sign(world.bundle, tmp_path / "x.mpo", key=key)
    assert not (tmp_path / "x.mpo").exists()
