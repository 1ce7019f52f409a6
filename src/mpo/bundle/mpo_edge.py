#!/usr/bin/env python3
"""Check and run an mpo edge bundle on a device: the standard library, numpy and onnxruntime.

    python3 mpo_edge.py verify model.mpo          is every byte what the manifest says (0, else 8)
    python3 mpo_edge.py info model.mpo            the manifest, and whether this device fits (0 / 6)

This file is the whole runtime and is meant to be read. It needs Python 3.8 or newer and opens no
network connection. Everything goes to stdout as one JSON object. A bundle is data from a stranger
until it is verified: nothing of it is used before the archive's structure, the manifest and the
sha256 of the bytes in use are checked, and no code in it is ever run.

A bundle checks itself with `python3 model.mpo verify`, too. That finds damage, not malice: whoever
changed the bundle may have changed the checker in it. Against malice use a copy of this file that
came another way, and a signature.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import stat
import struct
import sys
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

# ------------------------------------------------------------------ how it ends
OK, FAILED, USAGE, UNFIT, PARTIAL, REFUSED = 0, 1, 2, 6, 7, 8


class EdgeError(Exception):
    """What went wrong in one sentence, what to do about it, and the exit code that tells."""

    def __init__(self, code: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.hint = code, message, hint


def refused(message: str) -> EdgeError:
    """The error for a bundle that is not what its manifest says."""
    hint = "Do not use it: copy it again from where it was made."
    return EdgeError(REFUSED, message, hint)


# ------------------------------------------------------------------ the archive
# A bundle is a zip in one canonical form: bundle.json first, the other members by name, at last
# bundle.sig if there is one; all stored, none with extra fields, comments or attributes; no byte
# before, between or after them. What the form leaves open (names, sizes, checksums) stands in the
# central directory and again in the local headers, which are compared byte by byte.
MANIFEST, SIGNATURE = "bundle.json", "bundle.sig"
LOCAL, CENTRAL, END = (struct.Struct(text) for text in ("<4s5H3L2H", "<4s6H3L5H2L", "<4s4H2LH"))
VERSION, FLAGS, STORED, TIME, DATE = 20, 0, 0, 0, 0x21  # 1980-01-01 00:00:00
MEMBERS, NAME, DOCUMENT, LARGEST = 256, 120, 1 << 20, (1 << 32) - 1
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*){0,3}")
DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")
CHUNK = 1 << 20


class Member(NamedTuple):
    """A file in the archive: where its bytes begin, how many they are, their CRC-32."""

    name: str
    offset: int
    size: int
    crc: int


def local_header(name: str, size: int, crc: int) -> bytes:
    """The bytes before a member's content."""
    raw = name.encode("ascii")
    head = (b"PK\3\4", VERSION, FLAGS, STORED, TIME, DATE, crc, size, size, len(raw), 0)
    return LOCAL.pack(*head) + raw


def central_header(name: str, size: int, crc: int, offset: int) -> bytes:
    """A member's entry in the central directory; `offset` is that of its local header."""
    raw = name.encode("ascii")
    head = (b"PK\1\2", VERSION, VERSION, FLAGS, STORED, TIME, DATE, crc, size, size, len(raw))
    return CENTRAL.pack(*head, 0, 0, 0, 0, 0, offset) + raw


def end_record(count: int, size: int, offset: int) -> bytes:
    """The last bytes of the archive."""
    return END.pack(b"PK\5\6", 0, 0, count, count, size, offset, 0)


def check_name(name: str) -> None:
    """Refuse names that could lie outside of a folder, or that are no names on some system."""
    parts = name.lower().split("/")
    plain = PLAIN.fullmatch(name) and len(name) <= NAME
    if not plain or any(part.endswith(".") or DEVICES.fullmatch(part) for part in parts):
        raise refused("The member name %s is not allowed." % shown(name))


def check_names(names: List[str]) -> None:
    """Refuse an order, or names that some systems cannot tell apart.

    bundle.json comes first, the rest by name; a signature comes last.
    """
    if not names or names[0] != MANIFEST:
        raise refused("The first member is not %s." % MANIFEST)
    rest = names[1:-1] if names[-1] == SIGNATURE else names[1:]
    seen: Dict[str, str] = {}
    for name in names:
        check_name(name)
        parts = name.split("/")
        for end in range(1, len(parts) + 1):
            spelled = "/".join(parts[:end]) + ("/" if end < len(parts) else "")
            path = "/".join(parts[:end]).lower()
            # A folder may come again in the same spelling; a file may not come again at all.
            if path in seen and (seen[path] != spelled or end == len(parts)):
                raise refused("Two members have the name %s." % shown(name))
            seen[path] = spelled
    if rest != sorted(rest) or SIGNATURE in rest:
        raise refused("The members are not in the order of their names.")


def shown(text: object) -> str:
    """Text of a stranger, short and plain."""
    return json.dumps(str(text)[:NAME])


def read_members(file: BinaryIO) -> List[Member]:
    """The archive's members, when every byte of the file is accounted for.

    Raises:
        EdgeError: no canonical bundle; says why.
    """
    size = file.seek(0, os.SEEK_END)
    if size < END.size or size > LARGEST:
        raise refused("A file of %d bytes is no bundle." % size)
    end = read_at(file, size - END.size, END.size)
    count, length, offset = END.unpack(end)[4:7]
    if end != end_record(count, length, offset):
        raise refused("The file does not end as a bundle does.")
    if not 1 <= count <= MEMBERS or length > count * (CENTRAL.size + NAME):
        raise refused("A directory of %d members in %d bytes is no bundle's." % (count, length))
    if offset + length + END.size != size:
        raise refused("The central directory does not end where the file's last bytes begin.")
    members, place = [], 0
    directory = read_at(file, offset, length)
    for _ in range(count):
        member, directory = next_member(directory, place)
        head = local_header(member.name, member.size, member.crc)
        if member.offset + member.size > offset:
            raise refused("Member %s reaches into the directory." % shown(member.name))
        if read_at(file, place, len(head)) != head:
            raise refused("The two headers of member %s differ." % shown(member.name))
        members.append(member)
        place = member.offset + member.size
    if directory or place != offset:
        raise refused("The file has bytes that belong to no member.")
    check_names([member.name for member in members])
    return members


def next_member(directory: bytes, place: int) -> Tuple[Member, bytes]:
    """The first entry of a directory, whose local header must lie at `place`; and the rest."""
    if len(directory) < CENTRAL.size:
        raise refused("The central directory ends early.")
    fields = CENTRAL.unpack(directory[: CENTRAL.size])
    flags, method, crc, packed, size, length = (fields[i] for i in (3, 4, 7, 8, 9, 10))
    raw = directory[CENTRAL.size : CENTRAL.size + length]
    name = raw.decode("ascii", "replace")
    if flags & 1:
        raise refused("Member %s is encrypted." % shown(name))
    if method != STORED or packed != size:
        raise refused("Member %s is compressed; a bundle's members are stored." % shown(name))
    if fields[11] or fields[12]:
        raise refused("Member %s has extra fields or a comment." % shown(name))
    if fields[15]:
        raise refused("Member %s has attributes: a link, or rights." % shown(name))
    if fields[16] != place:
        raise refused("Member %s does not begin where the one before it ends." % shown(name))
    if not name.isascii() or len(raw) != length or not raw:
        raise refused("The member name %s is not allowed." % shown(name))
    head = central_header(name, size, crc, place)
    if directory[: len(head)] != head:
        raise refused("The directory's entry of member %s is not as it must be." % shown(name))
    return Member(name, place + LOCAL.size + length, size, crc), directory[len(head) :]


def read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    """Exactly these bytes of a file."""
    file.seek(offset)
    raw = file.read(size)
    if len(raw) != size:
        raise refused("The file ends early.")
    return raw


# ------------------------------------------------------------------ the manifest
class Each(NamedTuple):
    """A list of one shape, with at least so many."""

    shape: Any
    least: int = 0


class Map(NamedTuple):
    """An object with any keys and values of one shape."""

    shape: Any


class Maybe(NamedTuple):
    """The shape, or null."""

    shape: Any


class Range(NamedTuple):
    """A whole number from `low` to `high`, or any finite number when `real`."""

    low: float = 0
    high: float = 2**63 - 1
    real: bool = False


SHA, SLUG = re.compile(r"[0-9a-f]{64}"), re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
STAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
TEXT = re.compile(r".{0,2000}", re.DOTALL)
ANY, INF = Range(), math.inf
REAL, PART, POSITIVE = Range(-INF, INF, True), Range(0, INF, True), Range(5e-324, INF, True)
PROVIDERS = ("CPUExecutionProvider", "CUDAExecutionProvider")
ROLES = "model weights selftest runtime plan report doc licence sbom provenance evidence"
METRICS = ("size_bytes", "memory_bytes", "params", "macs", "latency_p50_ms", "latency_p90_ms")
TENSOR = {"name": TEXT, "dtype": SLUG, "shape": Each((ANY, TEXT))}
TOLERANCE = {"atol": PART, "rtol": PART, "cosine": Range(-1, 1, True)}
SIZES = Each(Range(-(2**63)))
# fmt: off
SESSION = {
    "device": re.compile(r"cpu|cuda:[0-9]{1,2}"), "threads": Range(1, 4096), "arena": bool,
    "spinning": bool, "prepacking": bool, "optimization": {"all", "extended", "basic", "none"},
    "mmap_threshold_bytes": Maybe(Range(4096)), "external_weights": bool,
}
ENGINE = {
    "backend": {"tensorrt", "tensorrt-rtx"}, "precision": {"onnx", "fp16", "bf16", "int8"},
    "shapes": Map({"min": SIZES, "opt": SIZES, "max": SIZES}), "workspace_bytes": Maybe(Range(1)),
    "optimization_level": Maybe(Range(0, 5)), "version_compatible": bool, "refit": bool,
    "hardware": {"this", "ampere+", "same-capability"}, "compute_capabilities": Each(TEXT),
    "timeout_s": POSITIVE, "memory_bytes": Maybe(Range(1)),
}
TARGET = {
    "name": TEXT, "status": {"tested", "expected"}, "arch": TEXT, "os": TEXT, "cpu": TEXT,
    "device": SLUG, "runtimes": Map(TEXT), "threads": Maybe(Range(1)), "evidence": Maybe(TEXT),
    "latency_p50_ms": Maybe(POSITIVE), "latency_p90_ms": Maybe(POSITIVE),
    "peak_memory_bytes": Maybe(ANY), "load_memory_bytes": Maybe(ANY),
}
SHAPE: Dict[str, Any] = {
    "schema": {"mpo.bundle/1"}, "bundle_version": Range(1, 2**31 - 1), "name": SLUG,
    "version": SLUG, "created": Maybe(STAMP), "tool": {"name": SLUG, "version": SLUG},
    "files": Map({"sha256": SHA, "size": ANY, "role": set(ROLES.split())}),
    "model": {
        "format": {"onnx"}, "path": TEXT, "weights": Each(TEXT), "opset": ANY, "ir_version": ANY,
        "precision": SLUG, "params": ANY, "bytes": ANY, "macs": Maybe(ANY),
    },
    "inputs": Each(TENSOR, 1), "outputs": Each(TENSOR, 1),
    "runtime": {
        "python": SLUG, "onnxruntime": SLUG, "tested_onnxruntime": SLUG, "session": SESSION,
        "providers": Each(set(PROVIDERS), 1), "batch": Range(1), "fallback": {"allow", "refuse"},
    },
    "engine": Maybe(ENGINE),
    "selftest": {
        "inputs": TEXT, "outputs": TEXT, "samples": Range(1, 8), "runtime": TOLERANCE,
        "engine": TOLERANCE,
        "metric": Maybe({"name": TEXT, "value": REAL, "samples": ANY, "lower_is_better": bool}),
    },
    "targets": Each(TARGET),
    "budgets": Each({
        "text": TEXT, "target": TEXT, "metric": set(METRICS), "limit": REAL, "measured": REAL,
        "met": bool,
    }),
    "lineage": {"original": Maybe(SHA), "plan": SHA, "report": SHA, "parent": Maybe(SHA)},
    "license": TEXT, "limitations": Each(TEXT),
}
# fmt: on


def check(value: Any, shape: Any, where: str) -> None:
    """Refuse a value that has another shape: an unknown key, another type, a number out of range.

    A shape is an object's exact keys, a pattern, a set of texts, a type, or one of the classes
    above; a tuple of two means either.
    """
    if isinstance(shape, Maybe):
        good = value is None
        if not good:
            check(value, shape.shape, where)
            return
    elif isinstance(shape, Each):
        good = type(value) is list and len(value) >= shape.least
        for place, one in enumerate(value if good else ()):
            check(one, shape.shape, "%s[%d]" % (where, place))
    elif isinstance(shape, Map) or type(shape) is dict:
        good = type(value) is dict and (isinstance(shape, Map) or set(value) == set(shape))
        for key in value if good else ():
            inner = shape.shape if isinstance(shape, Map) else shape[key]
            check(value[key], inner, "%s.%s" % (where, key) if where else key)
    elif isinstance(shape, Range):
        good = type(value) in ((int, float) if shape.real else (int,))
        good = good and shape.low <= value <= shape.high and abs(value) < INF
    elif isinstance(shape, re.Pattern):
        good = type(value) is str and shape.fullmatch(value) is not None
    elif isinstance(shape, set):
        good = type(value) is str and value in shape
    elif type(shape) is tuple:
        check(value, shape[0] if type(value) is int else shape[1], where)
        return
    else:
        good = type(value) is shape
    if not good:
        raise refused("The manifest's %s is not as it must be." % shown(where or "top"))


def parse_manifest(raw: bytes) -> Dict[str, Any]:
    """The manifest, when it is JSON in its one canonical spelling and of the one known shape.

    Raises:
        EdgeError: something else; says where.
    """
    try:
        manifest = json.loads(
            raw.decode("ascii"), parse_constant=no_number, parse_int=whole, parse_float=finite
        )
        again = canonical(manifest)
    except (ValueError, RecursionError):
        raise refused("%s is no JSON that a bundle may have." % MANIFEST) from None
    if type(manifest) is not dict or manifest.get("schema") != "mpo.bundle/1":
        raise refused("%s has a schema that this program does not know." % MANIFEST)
    if again != raw:  # keys twice, too: only the last of them comes back
        raise refused("%s is not written in its canonical form." % MANIFEST)
    check(manifest, SHAPE, "")
    check_meaning(manifest)
    return manifest


def canonical(value: Any) -> bytes:
    """The one spelling of a JSON value: keys sorted, ASCII, a line end."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=True, allow_nan=False)
    return text.encode("ascii") + b"\n"


def no_number(text: str) -> float:
    """NaN and infinities stand for nothing."""
    raise ValueError(text)


def whole(text: str) -> int:
    """A number of a sane length: longer ones take a quadratic time to read."""
    return int(text) if len(text) <= 20 else int(no_number(text))


def finite(text: str) -> float:
    """A number that is one."""
    value = float(text) if len(text) <= 40 else no_number(text)
    return value if abs(value) < INF else no_number(text)


def check_meaning(manifest: Dict[str, Any]) -> None:
    """Refuse a manifest that contradicts itself."""
    files, model, test = manifest["files"], manifest["model"], manifest["selftest"]
    folder = model["path"].rpartition("/")[0]
    wanted = [(model["path"], "model"), (test["inputs"], "selftest"), (test["outputs"], "selftest")]
    wanted += [(name, "weights") for name in model["weights"]]
    for name, role in wanted:
        if files.get(name, {}).get("role") != role:
            raise refused("The manifest names no file %s as its %s." % (shown(name), role))
    inside = [name.rpartition("/")[0] == folder for name in model["weights"]]
    total = sum(files[name]["size"] for name in [model["path"], *model["weights"]])
    if not all(inside) or total != model["bytes"]:
        raise refused("The manifest's model is not the files that it names.")
    for target in manifest["targets"]:
        figures = [target[key] for key in ("latency_p50_ms", "latency_p90_ms", "peak_memory_bytes")]
        proof = target["evidence"]
        known = proof is not None and proof.partition("#")[0] in files
        if target["status"] == "tested" and (None in figures or not known):
            raise refused("The tested target %s has no evidence." % shown(target["name"]))
        if target["status"] == "expected" and (proof or figures != [None] * 3):
            raise refused("The expected target %s has figures." % shown(target["name"]))


# ------------------------------------------------------------------ a bundle, archive or folder
class Opened:
    """A bundle whose structure and manifest are checked; members are checked as they are read.

    Attributes:
        path: of the archive or folder.
        manifest: bundle.json.
        digest: its sha256, which names the bundle.
        members: by name; without offsets where the bundle is a folder.
    """

    def __init__(self, path: str) -> None:
        """Open a bundle, a .mpo file or the folder that it was unpacked into.

        Raises:
            EdgeError: there is none, or it is not as it must be.
        """
        self.path = Path(path)
        self.file: Optional[BinaryIO] = None
        try:
            self.members = self._folder() if self.path.is_dir() else self._archive()
            raw = b"".join(self.chunks(MANIFEST, known=False))
        except OSError as error:
            self.close()
            told = "%s cannot be read: %s." % (shown(path), error.strerror)
            raise EdgeError(USAGE, told) from error
        except EdgeError:
            self.close()
            raise
        self.digest = hashlib.sha256(raw).hexdigest()
        try:
            self.manifest = parse_manifest(raw)
            self._agree()
        except EdgeError:
            self.close()
            raise

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        if self.file is not None:
            self.file.close()

    def _archive(self) -> Dict[str, Member]:
        if self.path.exists() and not self.path.is_file():
            raise EdgeError(USAGE, "%s is no file." % shown(self.path))
        self.file = self.path.open("rb")
        return {member.name: member for member in read_members(self.file)}

    def _folder(self) -> Dict[str, Member]:
        names: Dict[str, Member] = {}
        for folder, folders, files in os.walk(str(self.path)):
            for name in folders + files:
                path = Path(folder, name)
                seen = path.lstat()
                inside = path.relative_to(self.path).as_posix()
                kind = stat.S_IFREG if name in files else stat.S_IFDIR
                if stat.S_IFMT(seen.st_mode) != kind:
                    raise refused("%s is a link or no file." % shown(inside))
                if name in files:
                    names[inside] = Member(inside, 0, seen.st_size, 0)
            if len(names) > MEMBERS:
                raise refused("The folder holds more than %d files." % MEMBERS)
        if MANIFEST not in names:
            raise EdgeError(USAGE, "%s holds no %s." % (shown(self.path), MANIFEST))
        order = sorted(set(names) - {MANIFEST, SIGNATURE})
        check_names([MANIFEST, *order, *({SIGNATURE} & set(names))])
        return names

    def _agree(self) -> None:
        """Members and manifest name the same files with the same sizes."""
        files = self.manifest["files"]
        here = set(self.members) - {MANIFEST, SIGNATURE}
        for name in sorted(here ^ set(files)):
            what = "is not in the manifest" if name in here else "is missing"
            raise refused("Member %s %s." % (shown(name), what))
        for name in sorted(here):
            if self.members[name].size != files[name]["size"]:
                raise refused("Member %s has another size than the manifest says." % shown(name))

    def chunks(self, name: str, known: bool = True) -> Iterator[bytes]:
        """A member's bytes, piece by piece; the last piece comes only when all were as they must.

        Args:
            known: it is in the manifest, whose sha256 it must have.

        Raises:
            EdgeError: other bytes than the manifest says.
        """
        member = self.members[name]
        if not known and member.size > DOCUMENT:
            raise refused("%s has %d bytes; %d are the most." % (name, member.size, DOCUMENT))
        file = self.file or (self.path / name).open("rb")
        digest, crc, left, held = hashlib.sha256(), 0, member.size, b""
        try:
            while left:
                file.seek(member.offset + member.size - left)
                part = file.read(min(left, CHUNK))
                if not part:
                    raise refused("Member %s ends early." % shown(name))
                left -= len(part)
                digest.update(part)
                crc = zlib.crc32(part, crc)
                if held:
                    yield held
                held = part
        finally:
            if self.file is None:
                file.close()
        if self.file is not None and crc != member.crc:
            raise refused("Member %s is damaged." % shown(name))
        if known and digest.hexdigest() != self.manifest["files"][name]["sha256"]:
            raise refused("Member %s has other bytes than the manifest says." % shown(name))
        yield held

    def read(self, name: str) -> bytes:
        """A member's bytes at once."""
        return b"".join(self.chunks(name))

    def signature(self) -> Optional[bytes]:
        """The signature's bytes, unchecked; None when there is none."""
        if SIGNATURE not in self.members:
            return None
        return b"".join(self.chunks(SIGNATURE, known=False))

    def verify(self) -> None:
        """Read every member.

        Raises:
            EdgeError: one has other bytes than the manifest says.
        """
        for name in self.manifest["files"]:
            for _ in self.chunks(name):
                pass
        self.signature()


def verify(asked: argparse.Namespace) -> Dict[str, Any]:
    """Whether every byte of a bundle is what its manifest says."""
    with Opened(asked.bundle) as bundle:
        bundle.verify()
        manifest, signed = bundle.manifest, bundle.signature() is not None
        if asked.require_signature:
            raise EdgeError(
                REFUSED,
                "A signature is required, and this program cannot check one."
                if signed
                else "A signature is required, and the bundle has none.",
                "Check it where mpo is installed: mpo verify --key KEY.pub.",
            )
        return {
            "ok": True,
            "digest": bundle.digest,
            "name": manifest["name"],
            "version": manifest["version"],
            "bundle_version": manifest["bundle_version"],
            "files": len(manifest["files"]),
            "bytes": sum(entry["size"] for entry in manifest["files"].values()),
            "signature": "not checked" if signed else "none",
        }


def info(asked: argparse.Namespace) -> Dict[str, Any]:
    """The manifest."""
    with Opened(asked.bundle) as bundle:
        return {"digest": bundle.digest, "manifest": bundle.manifest}


COMMANDS: Dict[str, Callable[[argparse.Namespace], Dict[str, Any]]] = {
    "verify": verify,
    "info": info,
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    line = argparse.ArgumentParser(prog="mpo_edge.py", description=(__doc__ or "").split("\n")[0])
    commands = line.add_subparsers(dest="command", required=True)
    for name, does in COMMANDS.items():
        one = commands.add_parser(name, help=(does.__doc__ or "").split("\n")[0])
        one.add_argument("bundle", help="a .mpo file, or the folder that it was unpacked into")
        if name == "verify":
            one.add_argument("--require-signature", action="store_true", help="refuse without one")
    return line


def main(arguments: Optional[List[str]] = None) -> int:
    """Do one command; its answer goes to stdout as JSON, its exit code back."""
    asked = parser().parse_args(arguments)
    try:
        answer, code = COMMANDS[asked.command](asked), OK
        code = int(answer.pop("exit_code", OK))
    except EdgeError as error:
        code = error.code
        answer = {"error": error.message, "hint": error.hint, "exit_code": code}
    sys.stdout.write(json.dumps(answer, ensure_ascii=True) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
