"""What is fuzzed: each target takes any bytes and ends with a result or with one of the errors that
it promises; anything else is a finding.

The corpus (tests/fuzz/corpus/TARGET/) runs with the other tests; `make fuzz` runs longer.
"""

from __future__ import annotations

import base64
import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from mpo.bundle import mpo_edge, mpo_signature
from mpo.errors import MpoError, RefusedError, UsageError
from mpo.exporters.onnxrules import Bounds, Refused, look
from mpo.exporters.wire import Malformed
from mpo.profiles.address import parse_address
from mpo.profiles.jobs import parse_json, plain
from mpo.recipe import parse_budget
from mpo.render.names import clean
from mpo.rules import parse_rules

CORPUS = Path(__file__).with_name("corpus")
# The public half of a pair whose private half was thrown away.
KEY = b"""-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAECunJm4qN7KT1BwscGoNW2DcE2aSA
+INOAwskdRNzQKiEAFhcjsvXkxXE79+GHyn60IPG9c7ZT/BB4dZnsqs4JQ==
-----END PUBLIC KEY-----
"""


def onnx(data: bytes) -> None:
    """The pre-flight of an ONNX file."""
    with contextlib.suppress(Malformed, Refused):
        look(data, Bounds())


def manifest(data: bytes) -> None:
    """A bundle's manifest: what is taken is spelled as the writer spells it."""
    try:
        told = mpo_edge.parse_manifest(data)
    except mpo_edge.EdgeError as error:
        require(error.code in (2, 8), f"exit {error.code}")
        return
    require(mpo_edge.canonical(told) == data, "two spellings of one manifest")


def bundle(data: bytes) -> None:
    """A bundle file: what is taken can be read whole."""
    with tempfile.NamedTemporaryFile(suffix=".mpo") as file:
        file.write(data)
        file.flush()
        try:
            with mpo_edge.Opened(file.name) as opened:
                opened.verify()
        except mpo_edge.EdgeError as error:
            require(error.code in (2, 8), f"exit {error.code}")


def arrays(data: bytes) -> None:
    """An .npz or .npy file: what is taken is not larger than what came."""
    try:
        found = mpo_edge.read_arrays(data, "x")
    except mpo_edge.EdgeError as error:
        require(error.code in (2, 8), f"exit {error.code}")
        return
    require(sum(one.nbytes for one in found.values()) <= len(data), "more than there was")


def signature(data: bytes) -> None:
    """A signature file: none that a fuzzer writes is by our key."""
    try:
        mpo_signature.check(data, KEY, {"a": "0" * 64})
    except mpo_signature.SignatureError:
        return
    require(False, "a forged signature")


def der(data: bytes) -> None:
    """The numbers of a signature: one spelling each."""
    with contextlib.suppress(mpo_signature.SignatureError):
        r, s = mpo_signature.signature_numbers(data)
        require(r >= 0 and s >= 0, "negative")


def fail_on(data: bytes) -> None:
    """--fail-on."""
    with told():
        for rule in parse_rules(text(data)):
            require(rule.value == rule.value, "no number")
            require(parse_rules(rule.text) == (rule,), "a rule reads otherwise the second time")


def budget(data: bytes) -> None:
    """--budget."""
    with told():
        for one in parse_budget(text(data)):
            require(0 < (one.limit or one.factor or 0) < float("inf"), "no bound")


def address(data: bytes) -> None:
    """ssh://…: no part of a target can be an option or a second command."""
    with told():
        found = parse_address(text(data))
        words = found.arguments
        require(words[-2] == "--" and not found.host.startswith("-"), "an option")
        require(not found.user.startswith("-"), "an option")
        require(
            not set(" \t\n;|&$`'\"\\<>()") & set("".join((found.host, found.user))), "a command"
        )


def answer(data: bytes) -> None:
    """What a device says."""
    with contextlib.suppress(ValueError, RefusedError):
        parse_json(data)
    require(plain(text(data)).isprintable(), "a control character")


def name(data: bytes) -> None:
    """A name on its way to a screen."""
    shown = clean(text(data))
    require(clean(shown) == shown, "cleaned twice is cleaner")
    require(not any(ord(one) < 32 or 127 <= ord(one) < 160 for one in shown), "a control character")


_FORMATS = (onnx, manifest, bundle, arrays, signature, der)
_TEXTS = (fail_on, budget, address, answer, name)
TARGETS: dict[str, Callable[[bytes], None]] = {one.__name__: one for one in _FORMATS + _TEXTS}


def text(data: bytes) -> str:
    """The bytes as an option's text would be."""
    return data.decode("utf-8", "replace")


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Bad input has a message and a hint, and exit code 2 or 8."""
    try:
        yield
    except (UsageError, RefusedError) as error:
        require(bool(error.message), "no message")
    except MpoError as error:
        require(False, f"exit {error.exit_code}: {error.message}")


class Finding(Exception):
    """Something that must not happen did."""


def require(right: bool, what: str) -> None:
    """Make a finding of what is wrong."""
    if not right:
        raise Finding(what)


def corpus(target: str) -> Iterator[bytes]:
    """The inputs of a target that are kept: seeds, and whatever once went wrong."""
    folder = CORPUS / target
    for path in sorted(folder.glob("*.json")):
        for entry in json.loads(path.read_text()):
            yield base64.b64decode(entry)
