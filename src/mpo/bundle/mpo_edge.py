#!/usr/bin/env python3
"""Check and run an mpo edge bundle on a device: the standard library, numpy and onnxruntime.

    verify        is every byte of the bundle what its manifest says (exit code 0, else 8)
    info          the manifest, and whether this device fits it (0, else 6)
    selftest      known samples through everything that may run the model here (0, else 1)
    run           the model on an .npz, or an .npy when it has one input
    bench         latency and peak memory here, in fresh processes
    build-engine  a TensorRT engine by the manifest's recipe, proved and kept (0, else 7)

This file is the whole runtime and is meant to be read. It needs Python 3.8 or newer and opens no
network connection. Each command prints one JSON object on one line. A bundle is data from a
stranger: nothing of it is used before the archive's structure, the manifest and the sha256 of the
bytes in use are checked, and no code in it is ever run.

A bundle can be asked directly: `python3 model.mpo verify`. That finds damage, not malice: whoever
changed a bundle may have changed the checker in it. Against malice take a copy of this file that
came another way, and a signature.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import hmac
import importlib.util
import io
import json
import math
import mmap
import os
import platform
import re
import stat
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Callable, Iterable, Iterator, NamedTuple

# ------------------------------------------------------------------ how it ends
OK, FAILED, USAGE, UNFIT, PARTIAL, REFUSED = 0, 1, 2, 6, 7, 8


class EdgeError(Exception):
    """What went wrong in one sentence, what to do about it, and the exit code that tells."""

    def __init__(self, code: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.hint = code, message, hint


def refused(message: str) -> EdgeError:
    """The error for a bundle that is not what its manifest says."""
    return EdgeError(REFUSED, message, "Do not use it: copy it again from where it was made.")


def shown(text: object) -> str:
    """Text of a stranger, short and plain."""
    return json.dumps(str(text)[:NAME])


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


def check_names(names: list[str]) -> None:
    """Refuse names that could lie outside of a folder, that are no names on some system, or that
    some systems cannot tell apart; and another order than: the manifest, the rest by name, and
    last the signature."""
    seen: dict[str, str] = {}
    for name in names:
        parts = name.split("/")
        odd = [one for one in parts if one.endswith(".") or DEVICES.fullmatch(one.lower())]
        if not PLAIN.fullmatch(name) or len(name) > NAME or odd:
            raise refused("The member name %s is not allowed." % shown(name))
        for end in range(1, len(parts) + 1):
            spelled = "/".join(parts[:end]) + ("/" if end < len(parts) else "")
            path = "/".join(parts[:end]).lower()
            # A folder may come again in the same spelling; a file may not come again at all.
            if path in seen and (seen[path] != spelled or end == len(parts)):
                raise refused("Two members have the name %s." % shown(name))
            seen[path] = spelled
    rest = names[1:-1] if names[-1] == SIGNATURE else names[1:]
    if names[0] != MANIFEST or rest != sorted(rest) or SIGNATURE in rest:
        raise refused("The members are not in their order: %s, then by name." % MANIFEST)


def read_members(file: BinaryIO) -> list[Member]:
    """The archive's members, when every byte of the file is accounted for; else EdgeError."""
    size = file.seek(0, os.SEEK_END)
    if not END.size <= size <= LARGEST:
        raise refused("A file of %d bytes is no bundle." % size)
    end = read_at(file, size - END.size, END.size)
    count, length, offset = END.unpack(end)[4:7]
    if end != end_record(count, length, offset) or offset + length + END.size != size:
        raise refused("The file does not end as a bundle does.")
    if not 1 <= count <= MEMBERS or length > count * (CENTRAL.size + NAME):
        raise refused("A directory of %d members in %d bytes is no bundle's." % (count, length))
    members, place, again = [], 0, b""
    directory = left = read_at(file, offset, length)
    for _ in range(count):
        if len(left) < CENTRAL.size:
            raise refused("The central directory ends early.")
        crc, _, size, length = CENTRAL.unpack(left[: CENTRAL.size])[7:11]
        raw, left = left[CENTRAL.size :][:length], left[CENTRAL.size + length :]
        name = raw.decode("ascii", "replace")
        if not raw.isascii():
            raise refused("The member name %s is not allowed." % shown(name))
        head, start = local_header(name, size, crc), place
        place += len(head) + size
        if place > offset or read_at(file, start, len(head)) != head:
            raise refused("Member %s is not stored as it must be." % shown(name))
        members.append(Member(name, place - size, size, crc))
        again += central_header(name, size, crc, start)
    if left or again != directory or place != offset:
        raise refused("The directory tells of compression, encryption, links, or other bytes.")
    check_names([member.name for member in members])
    return members


def read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    """Exactly these bytes of a file."""
    file.seek(offset)
    raw = file.read(size)
    if len(raw) != size:
        raise refused("The file ends early.")
    return raw


# ------------------------------------------------------------------ the manifest
class Of(NamedTuple):
    """A shape beside the plain ones (an object's exact keys, a pattern, a set of texts, a type): a
    list, an object with any keys, a value or null, a whole number, any finite number."""

    kind: str
    shape: Any = None
    low: float = 0
    high: float = 2**63 - 1


Each, Map, Maybe = partial(Of, "list"), partial(Of, "map"), partial(Of, "maybe")
Range, Real = partial(Of, "int", None), partial(Of, "real", None)
SHA, SLUG = re.compile(r"[0-9a-f]{64}"), re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
STAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
TEXT = re.compile(r".{0,2000}", re.DOTALL)
ANY, INF = Range(), math.inf
REAL, PART, POSITIVE = Real(-INF, INF), Real(0, INF), Real(5e-324, INF)
PROVIDERS = ("CPUExecutionProvider", "CUDAExecutionProvider")
ROLES = "model weights selftest runtime plan report doc licence sbom provenance evidence"
METRICS = ("size_bytes", "memory_bytes", "params", "macs", "latency_p50_ms", "latency_p90_ms")
TENSOR = {"name": TEXT, "dtype": SLUG, "shape": Each((ANY, TEXT))}
TOLERANCE = {"atol": PART, "rtol": PART, "cosine": Real(-1, 1)}
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
SHAPE: dict[str, Any] = {
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


def check(value: Any, shape: Any, where: str) -> bool:
    """Refuse a value of another shape: unknown keys, another type, a number out of range."""
    kind = shape.kind if isinstance(shape, Of) else ""
    if kind == "maybe":
        good = value is None or check(value, shape.shape, where)
    elif kind == "list":
        good = type(value) is list and len(value) >= shape.low
        for place, one in enumerate(value if good else ()):
            check(one, shape.shape, "%s[%d]" % (where, place))
    elif kind == "map" or type(shape) is dict:
        good = type(value) is dict and (kind == "map" or set(value) == set(shape))
        for key in value if good else ():
            check(value[key], shape.shape if kind else shape[key], "%s.%s" % (where, key))
    elif kind:
        good = type(value) is int or (kind == "real" and type(value) is float)
        good = good and shape.low <= value <= shape.high and abs(value) < INF
    elif isinstance(shape, re.Pattern):
        good = type(value) is str and shape.fullmatch(value) is not None
    elif isinstance(shape, set):
        good = type(value) is str and value in shape
    elif type(shape) is tuple:
        good = check(value, shape[type(value) is not int], where)
    else:
        good = type(value) is shape
    if not good:
        raise refused("The manifest's %s is not as it must be." % shown(where[1:] or "top"))
    return True


def parse_manifest(raw: bytes) -> dict[str, Any]:
    """The manifest, when it is JSON in its one spelling and of the one known shape; else EdgeError
    says where it is not."""
    try:
        hooks: Any = dict.fromkeys(("parse_constant", "parse_int", "parse_float"), number)
        manifest = json.loads(raw.decode("ascii"), **hooks)
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


def number(text: str) -> float:
    """A number that is one, of a sane length: very long ones take a quadratic time to read."""
    value = float(text) if len(text) <= 40 else INF
    if not abs(value) < INF:
        raise ValueError(text)
    return value if re.search("[.eE]", text) else int(text)


def check_meaning(manifest: dict[str, Any]) -> None:
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


# ------------------------------------------------------------------ a bundle, archive or folder
class Opened(contextlib.AbstractContextManager):  # type: ignore[type-arg]
    """A bundle whose structure and manifest are checked; members are checked as they are read.

    Attributes:
        path: of the archive or folder.
        manifest: bundle.json.
        digest: its sha256, which names the bundle.
        members: by name; without offsets where the bundle is a folder.
    """

    def __init__(self, path: str) -> None:
        """Open a .mpo file, or the folder that it was unpacked into; else EdgeError says why."""
        self.path = Path(path)
        self.file: BinaryIO | None = None
        try:
            self.members = self._folder() if self.path.is_dir() else self._archive()
            raw = b"".join(self.chunks(MANIFEST, known=False))
            self.digest, self.manifest = hashlib.sha256(raw).hexdigest(), parse_manifest(raw)
            self._agree()
        except OSError as error:
            self.__exit__()
            told = "%s cannot be read: %s." % (shown(path), error.strerror)
            raise EdgeError(USAGE, told) from error
        except EdgeError:
            self.__exit__()
            raise

    def __exit__(self, *error: object) -> None:
        if self.file is not None:
            self.file.close()

    def _archive(self) -> dict[str, Member]:
        if self.path.exists() and not self.path.is_file():
            raise EdgeError(USAGE, "%s is no file." % shown(self.path))
        self.file = self.path.open("rb")
        return {member.name: member for member in read_members(self.file)}

    def _folder(self) -> dict[str, Member]:
        names: dict[str, Member] = {}
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
        """A member's bytes, piece by piece; the last piece comes only when all had the manifest's
        sha256. The manifest itself and the signature are not `known` to it."""
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

    def signature(self) -> bytes | None:
        """The signature's bytes, unchecked; None when there is none."""
        if SIGNATURE not in self.members:
            return None
        return b"".join(self.chunks(SIGNATURE, known=False))

    def verify(self) -> None:
        """Read every member; EdgeError when one has other bytes than the manifest says."""
        for name in self.manifest["files"]:
            for _ in self.chunks(name):
                pass
        self.signature()


# ------------------------------------------------------------------ this device
def device() -> dict[str, Any]:
    """This device, as far as a manifest asks."""
    about: dict[str, Any] = {"arch": platform.machine(), "os": platform.system(), "gpu": gpu()}
    about.update(python=platform.python_version(), onnxruntime="0", providers=[])
    try:
        import onnxruntime

        about["onnxruntime"] = onnxruntime.__version__
        about["providers"] = onnxruntime.get_available_providers()
    except ImportError as error:
        about["error"] = str(error)
    return about


def unfit(manifest: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """Why this device cannot run the bundle as it is meant; empty when it can."""
    told = manifest["runtime"]
    digits = {key: re.findall(r"[0-9]+", here[key])[:3] for key in ("python", "onnxruntime")}
    least = {key: re.findall(r"[0-9]+", told[key])[:3] for key in digits}
    reasons = [
        "%s is %s; %s is the least." % (key, here[key], told[key])
        for key in digits
        if [int(one) for one in digits[key]] < [int(one) for one in least[key]]
    ]
    if not set(allowed(manifest)) & set(here["providers"]):
        reasons.append("onnxruntime has none of %s." % ", ".join(allowed(manifest)))
    return reasons


def allowed(manifest: dict[str, Any]) -> list[str]:
    """The providers that may run the model, the best first."""
    told = manifest["runtime"]
    cpu = ["CPUExecutionProvider"] if told["fallback"] == "allow" else []
    return list(dict.fromkeys(told["providers"] + cpu))


def own_folder(kind: str) -> Path:
    """This user's private folder: "cache" for what can be made again, "config" for the key."""
    base = os.environ.get("MPO_EDGE_HOME") or os.environ.get("XDG_%s_HOME" % kind.upper())
    folder = Path(base or Path.home() / ("." + kind)) / ("mpo-edge-" + kind)
    folder.mkdir(0o700, parents=True, exist_ok=True)
    seen = folder.lstat()
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.getuid() or seen.st_mode & 0o022:
        told = "%s is not this user's alone: what lies there is not believed." % shown(folder)
        raise EdgeError(REFUSED, told, "Delete it, or name another folder with MPO_EDGE_HOME.")
    return folder


def store(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a private file, whole or not at all."""
    temporary = path.with_name("%s.%d.tmp" % (path.name, os.getpid()))
    handle = os.open(str(temporary), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(handle, "wb") as file:  # noqa: PTH123
            for part in chunks:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def same(path: Path, sha: str) -> bool:
    """Whether a file is there, no link, and has this sha256."""
    if path.is_symlink() or not path.is_file():
        return False
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for part in iter(lambda: file.read(CHUNK), b""):
            digest.update(part)
    return digest.hexdigest() == sha


def laid_out(bundle: Opened) -> Path:
    """The model's path on disk, every byte of it and of its weights checked now; from an archive
    they are copied once into this user's cache."""
    model, files = bundle.manifest["model"], bundle.manifest["files"]
    shas = {name: files[name]["sha256"] for name in [model["path"], *model["weights"]]}
    folder = bundle.path / Path(model["path"]).parent
    if bundle.file is not None:
        folder = own_folder("cache") / hashlib.sha256(canonical(shas)).hexdigest()
        folder.mkdir(0o700, exist_ok=True)
    for name, sha in shas.items():
        if not same(folder / Path(name).name, sha):
            if bundle.file is None:
                raise refused("%s has other bytes than the manifest says." % shown(name))
            store(folder / Path(name).name, bundle.chunks(name))
    path = folder / Path(model["path"]).name
    known = {Path(name).name.encode() for name in model["weights"]}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        check_weights(raw, known)
    return path


# Where an ONNX file may name other files: message -> field -> message, down to a tensor's entries.
TENSORS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {},
}


def check_weights(raw: Any, known: set[bytes]) -> None:
    """Refuse a model that reads weights from any file but those of the bundle, wherever in nested
    graphs, functions and sparse tensors it says so: older runtimes follow links and "../"."""
    pending = [("model", 0, len(raw))]
    while pending:
        kind, place, end = pending.pop()
        texts = []
        for field, start, stop in fields(raw, place, end):
            if field in TENSORS[kind]:
                pending.append((TENSORS[kind][field], start, stop))
            elif kind == "entry":
                texts.append((field, raw[start:stop]))
        named = [text for field, text in texts if field == 2]
        if (1, b"location") in texts and (len(texts) != 2 or named[0] not in known):
            raise refused("The model reads weights from %s." % shown(named))


def fields(raw: Any, place: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The length-delimited fields of a protobuf message: number, start and end of each."""
    while place < end:
        numbers: list[int] = []  # the tag, and the value or length after it
        while len(numbers) < 2:
            value = shift = 0
            while True:
                if place >= end or shift > 63:
                    raise refused("The model is no ONNX file.")
                byte, place = raw[place], place + 1
                value, shift = value | (byte & 127) << shift, shift + 7
                if byte < 128:
                    break
            numbers.append(value)
            if value & 7 not in (0, 2) and len(numbers) == 1:
                break
        kind = numbers[0] & 7
        start, place = place, place + {0: 0, 1: 8, 2: numbers[-1], 5: 4}.get(kind, end + 1)
        if place > end:
            raise refused("The model is no ONNX file.")
        if kind == 2:
            yield numbers[0] >> 3, start, place


# ------------------------------------------------------------------ arrays
def read_arrays(raw: bytes, only: str = "") -> dict[str, Any]:
    """Arrays by name out of an .npz, or under the name `only` out of an .npy; no array of objects,
    and none larger than the file."""
    import numpy

    try:
        found = numpy.load(io.BytesIO(raw), allow_pickle=False)
        if isinstance(found, numpy.ndarray):
            return {only: found}
        if any(one.compress_type or one.file_size > len(raw) for one in found.zip.infolist()):
            raise ValueError("compressed; write it with numpy.savez")
        return {name: found[name] for name in found.files}
    except (ValueError, OSError, EOFError, KeyError, MemoryError, RuntimeError) as error:
        raise EdgeError(USAGE, "No file of plain arrays: %s" % shown(error)) from error


def calls_of(bundle: Opened) -> list[list[dict[str, Any]]]:
    """The self-test's inputs and expected outputs: a dictionary a call, named CALL:NAME there."""
    test, both = bundle.manifest["selftest"], []
    for key in ("inputs", "outputs"):
        arrays = read_arrays(bundle.read(test[key]))
        names = [one["name"] for one in bundle.manifest[key]]
        calls = range(test["samples"])
        if set(arrays) != {"%d:%s" % (call, name) for call in calls for name in names}:
            raise refused("The self-test's %s are not those of the model." % key)
        both.append([{name: arrays["%d:%s" % (n, name)] for name in names} for n in calls])
    return both


def compared(got: dict[str, Any], wanted: dict[str, Any], near: dict[str, Any]) -> dict[str, Any]:
    """How far outputs are from the expected ones, and whether that is near enough."""
    import numpy

    worst, cosine, good = 0.0, 1.0, True
    for name, want in wanted.items():
        one, two = (numpy.asarray(array, numpy.float64).ravel() for array in (got[name], want))
        if got[name].shape != want.shape or not numpy.isfinite(one).all():
            return {"ok": False, "max_abs": None, "cosine": None}
        off = float(numpy.abs(one - two).max(initial=0.0))
        norm = float(numpy.linalg.norm(one) * numpy.linalg.norm(two))
        angle = float(one @ two) / norm if norm else float(off <= near["atol"])
        limit = near["atol"] + near["rtol"] * float(numpy.abs(two).max(initial=0.0))
        worst, cosine = max(worst, off), min(cosine, angle)
        good = good and off <= limit and angle >= near["cosine"]
    return {"ok": good, "max_abs": worst, "cosine": cosine}


# ------------------------------------------------------------------ ONNX Runtime
LEVELS = {"all": 99, "extended": 2, "basic": 1, "none": 0}
EMPTY = bytes.fromhex(  # y = x, one number: what memory is measured above
    "08083a360a100a017812017922084964656e7469747912005a0f0a0178120a0a08080112040a02080162"
    "0f0a0179120a0a08080112040a02080142040a001011"
)


class Runtime:
    """The model in ONNX Runtime, with the options that its figures were measured with."""

    near = "runtime"

    def __init__(self, manifest: dict[str, Any], provider: str, path: Path | None) -> None:
        """Open the model, or without a path the one that does nothing."""
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as states

        told, options = manifest["runtime"]["session"], onnxruntime.SessionOptions()
        kinds = [one for one in vars(states).values() if isinstance(one, type)]
        self.errors: Any = (
            *(k for k in kinds if issubclass(k, Exception)),
            RuntimeError,
            ValueError,
        )
        self.name, self.about = provider, "onnxruntime " + onnxruntime.__version__
        if told["mmap_threshold_bytes"] and sys.platform.startswith("linux"):
            with contextlib.suppress(AttributeError):  # not glibc
                ctypes.CDLL(None).mallopt(-3, told["mmap_threshold_bytes"])  # M_MMAP_THRESHOLD
        options.intra_op_num_threads, options.inter_op_num_threads = told["threads"], 1
        options.enable_cpu_mem_arena, options.log_severity_level = told["arena"], 4
        level = onnxruntime.GraphOptimizationLevel(LEVELS[told["optimization"]])
        options.graph_optimization_level = level
        spinning, packing = told["spinning"], told["prepacking"]
        options.add_session_config_entry("session.intra_op.allow_spinning", "01"[spinning])
        options.add_session_config_entry("session.disable_prepacking", "10"[packing])
        number = told["device"].partition(":")[2] or "0"
        asked = (provider, {"device_id": number} if provider == PROVIDERS[1] else {})
        try:
            model = EMPTY if path is None else str(path)
            self.session = onnxruntime.InferenceSession(model, options, [asked])
        except self.errors as error:
            raise EdgeError(FAILED, "ONNX Runtime cannot load it: %s" % shown(error)) from error
        if self.session.get_providers()[0] != provider:  # it falls back without a word
            raise EdgeError(UNFIT, "ONNX Runtime has no %s here." % provider)
        self.outputs = [one.name for one in self.session.get_outputs()]

    def run(self, feeds: dict[str, Any]) -> dict[str, Any]:
        """Outputs by name; EdgeError when the inputs do not fit, or the runtime fails."""
        try:
            return dict(zip(self.outputs, self.session.run(None, feeds)))
        except self.errors as error:
            raise EdgeError(FAILED, "ONNX Runtime failed: %s" % shown(error)) from error


def ways(bundle: Opened, state: dict[str, Any], build: bool) -> Iterator[Any]:
    """Everything that may run the model here, opened, the best first: an engine, ONNX Runtime on
    the GPU, ONNX Runtime on the CPU if the manifest allows it. What fails goes to "fallbacks"."""
    path = laid_out(bundle)
    if bundle.manifest["engine"]:
        try:
            yield engine_of(bundle, path, state, build)
        except EdgeError as error:
            state["fallbacks"].append("engine: " + error.message)
    for provider in allowed(bundle.manifest):
        try:
            yield Runtime(bundle.manifest, provider, path)
        except EdgeError as error:
            state["fallbacks"].append("%s: %s" % (provider, error.message))


def start(bundle: Opened, build: bool = True) -> tuple[Any, dict[str, Any]]:
    """The best that runs the model here, proved on the first sample, and the state that tells how
    it came; EdgeError (exit code 6) when nothing that the manifest allows does."""
    state: dict[str, Any] = {"backend": None, "engine": "none", "fallbacks": []}
    inputs, wanted = calls_of(bundle)
    for backend in ways(bundle, state, build):
        try:
            near = bundle.manifest["selftest"][backend.near]
            state["selftest"] = compared(backend.run(inputs[0]), wanted[0], near)
            if state["selftest"]["ok"]:
                state.update(backend=backend.name, about=backend.about)
                return backend, state
            state["fallbacks"].append("%s: the first sample came out wrong" % backend.name)
        except EdgeError as error:
            state["fallbacks"].append("%s: %s" % (backend.name, error.message))
    why = "; ".join(state["fallbacks"])
    raise EdgeError(UNFIT, "Nothing that the manifest allows runs this model here.", why)


# ------------------------------------------------------------------ engines
MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
DAY = 86400.0


def gpu() -> dict[str, str]:
    """The first GPU as its driver tells of it; empty where there is none."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return {}
    count, which, driver = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name, uuid = ctypes.create_string_buffer(256), ctypes.create_string_buffer(16)
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return {}
    cuda.cuDeviceGet(ctypes.byref(which), 0)
    cuda.cuDeviceGetName(name, 256, which)
    cuda.cuDeviceGetUuid(uuid, which)
    cuda.cuDriverGetVersion(ctypes.byref(driver))
    told = {"name": name.value.decode("ascii", "replace"), "driver": str(driver.value)}
    return {**told, "uuid": hashlib.sha256(uuid.raw).hexdigest()[:16]}


class Engine:
    """An engine on the GPU. It is native code: only what was built here, and signed, comes here."""

    near = "engine"

    def __init__(self, backend: str, raw: bytes) -> None:
        """Load it; code for the host inside of it is never allowed."""
        self.trt = trt = importlib.import_module(MODULES[backend])
        self.name, self.about = backend, "%s %s" % (MODULES[backend], trt.__version__)
        self.cuda, self.rooms = ctypes.CDLL("libcuda.so.1"), {}  # type: Any, dict[Any, int]
        which, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(which), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), which)
        self.call("cuCtxSetCurrent", context)
        runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        if hasattr(runtime, "engine_host_code_allowed"):
            runtime.engine_host_code_allowed = False
        self.engine = runtime.deserialize_cuda_engine(raw)
        if self.engine is None:
            raise EdgeError(PARTIAL, "the runtime does not take the engine on this GPU")
        self.context = self.engine.create_execution_context()

    def call(self, name: str, *arguments: Any) -> None:
        """One call of the driver."""
        code = getattr(self.cuda, name)(*arguments)
        if code:
            raise EdgeError(PARTIAL, "%s failed with CUDA error %d" % (name, code))

    def room(self, name: str, size: int) -> int:
        """The address of so many bytes for a tensor, kept for the next call."""
        if (name, size) not in self.rooms:
            address = ctypes.c_uint64()
            self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
            self.rooms[name, size] = address.value
        self.context.set_tensor_address(name, self.rooms[name, size])
        return self.rooms[name, size]

    def run(self, feeds: dict[str, Any]) -> dict[str, Any]:
        """Outputs by name."""
        import numpy

        engine, outputs = self.engine, {}
        names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
        taken = [n for n in names if engine.get_tensor_mode(n) == self.trt.TensorIOMode.INPUT]
        for name in taken + [one for one in names if one not in taken]:
            kind = self.trt.nptype(engine.get_tensor_dtype(name))
            if name in taken:
                array = numpy.ascontiguousarray(feeds[name], kind)
                if not self.context.set_input_shape(name, array.shape):
                    raise EdgeError(PARTIAL, "the engine does not take the shape of %s" % name)
            else:
                array = outputs[name] = numpy.empty(
                    tuple(self.context.get_tensor_shape(name)), kind
                )
            address, size = ctypes.c_uint64(self.room(name, array.nbytes)), array.nbytes
            if name in taken:
                host = ctypes.c_void_p(array.ctypes.data)
                self.call("cuMemcpyHtoD_v2", address, host, ctypes.c_size_t(size))
        if not self.context.execute_async_v3(0):
            raise EdgeError(PARTIAL, "the engine refused to run")
        self.call("cuCtxSynchronize")
        for name, array in outputs.items():
            host, size = ctypes.c_void_p(array.ctypes.data), array.nbytes
            address = ctypes.c_uint64(self.rooms[name, size])
            self.call("cuMemcpyDtoH_v2", host, address, ctypes.c_size_t(size))
        return outputs


def signed(key: str, payload: bytes) -> bytes:
    """The mark of what this user's own key vouches for; made on the first use."""
    path = own_folder("config") / "key"
    if not path.exists():
        store(path, [os.urandom(32)])
    return hmac.new(path.read_bytes(), key.encode() + b"\0" + payload, "sha256").digest()


def engine_of(bundle: Opened, path: Path, state: dict[str, Any], build: bool) -> Engine:
    """The engine by the manifest's recipe: the one that was built and signed here for this model,
    library, GPU and driver, else a new one. A build that fails is not tried again for a day."""
    told, here = bundle.manifest["engine"], gpu()
    files = bundle.manifest["files"]
    if importlib.util.find_spec(MODULES[told["backend"]]) is None:
        raise EdgeError(PARTIAL, "%s is not installed" % MODULES[told["backend"]])
    version = importlib.import_module(MODULES[told["backend"]]).__version__
    model = [files[name]["sha256"] for name in [bundle.manifest["model"]["path"]]]
    model += [files[name]["sha256"] for name in bundle.manifest["model"]["weights"]]
    key = hashlib.sha256(canonical([model, told, str(version), here])).hexdigest()
    entry, failure = (own_folder("cache") / (key + end) for end in (".engine", ".failed"))
    if entry.is_file():
        raw = entry.read_bytes()
        if hmac.compare_digest(raw[:32], signed(key, raw[32:])):
            state["engine"] = "cached"
            return Engine(told["backend"], raw[32:])
        entry.unlink()
        state["fallbacks"].append("engine: the cached one was not signed here; built again")
    if not build:
        raise EdgeError(PARTIAL, "none is built yet: mpo_edge.py build-engine")
    if failure.is_file() and 0 <= time.time() - failure.stat().st_mtime < DAY:
        raise EdgeError(PARTIAL, "the last build failed: %s" % shown(failure.read_text()))
    with tempfile.TemporaryDirectory(prefix="mpo-edge-") as folder:
        output = Path(folder) / "engine"
        try:
            built(bundle, path, output)
        except EdgeError as error:
            store(failure, [error.message.encode("ascii", "replace")[:NAME]])
            raise
        raw = output.read_bytes()
    store(entry, [signed(key, raw), raw])
    state["engine"] = "built"
    return Engine(told["backend"], raw)


def built(bundle: Opened, path: Path, output: Path) -> None:
    """Build in a child with limits on its time and memory; it runs the engine once, too."""
    told = bundle.manifest["engine"]
    child = subprocess.Popen(
        [sys.executable, *MYSELF, "_build", str(bundle.path), str(path), str(output)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    end, limit = (
        time.monotonic() + told["timeout_s"],
        told["memory_bytes"] or free_bytes() * 9 // 10,
    )
    try:
        while child.poll() is None:
            if time.monotonic() > end:
                raise EdgeError(PARTIAL, "the build took longer than %g s" % told["timeout_s"])
            if resident(child.pid, "VmRSS") > limit:
                raise EdgeError(PARTIAL, "the build held more than %d bytes" % limit)
            time.sleep(0.05)
    finally:
        child.kill()
        said = child.communicate()[0][-4096:].decode("ascii", "replace").strip().split("\n")[-1]
    if child.returncode:
        told = said if child.returncode == PARTIAL else "the build ended with %d" % child.returncode
        raise EdgeError(PARTIAL, told)


def build_here(asked: argparse.Namespace) -> dict[str, Any]:
    """The child's part of a build."""
    with Opened(asked.bundle) as bundle:
        told = bundle.manifest["engine"]
        trt = importlib.import_module(MODULES[told["backend"]])
        plain = {"version_compatible": False, "refit": False, "hardware": "this"}
        if any(told[key] != value for key, value in plain.items()) or told["compute_capabilities"]:
            raise EdgeError(PARTIAL, "the recipe asks for more than an engine for this GPU")
        log, kinds = trt.Logger(trt.Logger.ERROR), trt.NetworkDefinitionCreationFlag
        builder, weak = trt.Builder(log), told["precision"] != "onnx"
        names = ["EXPLICIT_BATCH"] if weak else ["EXPLICIT_BATCH", "STRONGLY_TYPED"]
        flags = sum(1 << int(getattr(kinds, name)) for name in names if hasattr(kinds, name))
        network = builder.create_network(flags)
        parser, config = trt.OnnxParser(network, log), builder.create_builder_config()
        if not parser.parse_from_file(asked.model):
            raise EdgeError(PARTIAL, "the parser does not take it: %s" % parser.get_error(0).desc())
        if weak:
            config.set_flag(getattr(trt.BuilderFlag, told["precision"].upper()))
        if told["workspace_bytes"]:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, told["workspace_bytes"])
        if told["optimization_level"] is not None:
            config.builder_optimization_level = told["optimization_level"]
        profile = builder.create_optimization_profile()
        for name, row in told["shapes"].items():
            profile.set_shape(name, *(tuple(row[key]) for key in ("min", "opt", "max")))
        if told["shapes"]:
            config.add_optimization_profile(profile)
        raw = builder.build_serialized_network(network, config)
        if raw is None:
            raise EdgeError(PARTIAL, "the library builds no engine and gives no reason")
        if not gpu():
            raise EdgeError(PARTIAL, "an engine is built, but no GPU is here to prove it on")
        inputs, wanted = calls_of(bundle)
        proof = compared(
            Engine(told["backend"], bytes(raw)).run(inputs[0]), wanted[0],
            bundle.manifest["selftest"]["engine"],
        )  # fmt: skip
        if not proof["ok"]:
            raise EdgeError(PARTIAL, "the engine's first sample came out wrong")
        Path(asked.output).write_bytes(bytes(raw))
        return {}


# ------------------------------------------------------------------ figures
def resident(process: object, key: str) -> int:
    """A figure of /proc/PROCESS/status in bytes: VmRSS, or VmHWM, a process's own peak; 0 where
    there is none."""
    with contextlib.suppress(OSError), open("/proc/%s/status" % process) as file:  # noqa: PTH123
        for line in file:
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    return 0


def free_bytes() -> int:
    """Memory that a new process may take."""
    with contextlib.suppress(OSError), open("/proc/meminfo") as file:  # noqa: PTH123
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 1 << 40


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """One fresh process: load, first call, warm-up, single calls, the peak."""
    with Opened(asked.bundle) as bundle:
        feeds, none = calls_of(bundle)[0][0], asked.empty
        path = None if none else laid_out(bundle)
        begin, state = time.perf_counter(), {"engine": "none", "fallbacks": []}
        if path and asked.backend in MODULES:
            backend: Any = engine_of(bundle, path, state, build=False)
        else:
            backend = Runtime(bundle.manifest, asked.backend, path)
        if none:
            import numpy

            feeds = {"x": numpy.zeros(1, numpy.float32)}
        loaded, load_peak, times = time.perf_counter(), resident("self", "VmHWM"), [0.0] * 10**5
        backend.run(feeds)
        first, taken = time.perf_counter(), 0
        while not none and time.perf_counter() - first < 0.3:
            backend.run(feeds)
        start, end = time.perf_counter(), time.perf_counter() + asked.seconds
        while taken < (3 if none else 30) or (not none and start < end and taken < len(times)):
            start = time.perf_counter()
            backend.run(feeds)
            times[taken], taken = (time.perf_counter() - start) * 1e3, taken + 1
        told: dict[str, float] = {"load_peak": load_peak, "peak": resident("self", "VmHWM")}
        told["calls"] = taken
        times = sorted(times[:taken])
        told.update(latency_p50_ms=times[taken // 2], latency_p90_ms=times[taken * 9 // 10])
        return {**told, "load_ms": (loaded - begin) * 1e3, "first_ms": (first - loaded) * 1e3}


def bench(asked: argparse.Namespace) -> dict[str, Any]:
    """Latency and peak memory here, in fresh processes."""
    with Opened(asked.bundle) as bundle:
        _, state = start(bundle, build=not asked.no_build)
        told = bundle.manifest["runtime"]
        runs: dict[str, list[dict[str, Any]]] = {"model": [], "empty": []}
        for kind in ["model", "empty"] * asked.processes:
            # A small shell between: the kernel hands a parent's peak memory to its child.
            line = ["/bin/sh", "-c", '"$@"; exit $?', "mpo-edge", sys.executable, *MYSELF]
            line += ["_measure", str(bundle.path), state["backend"], str(asked.seconds), kind]
            done = subprocess.run(line, stdout=subprocess.PIPE, check=False)
            if done.returncode:
                raise EdgeError(FAILED, "A measuring process ended with %d." % done.returncode)
            runs[kind].append(json.loads(done.stdout.decode()))
    middle = {
        kind: {key: sorted(row[key] for row in own)[len(own) // 2] for key in own[0]}
        for kind, own in runs.items()
    }
    figures, floor = middle["model"], middle["empty"]
    for name, key in (("load_memory_bytes", "load_peak"), ("peak_memory_bytes", "peak")):
        figures[name] = max(0, figures.pop(key) - floor[key])
    here = {"state": state, "device": device(), "threads": told["session"]["threads"]}
    here.update(schema="mpo.edge-bench/1", digest=bundle.digest, batch=told["batch"])
    return {**here, **figures, "processes": asked.processes}


# ------------------------------------------------------------------ the commands
def verify(asked: argparse.Namespace) -> dict[str, Any]:
    """Whether every byte of a bundle is what its manifest says (0, else 8)."""
    with Opened(asked.bundle) as bundle:
        bundle.verify()
        signature = "none" if bundle.signature() is None else "not checked"
        if asked.require_signature:
            why = "A signature is required; this program checks none, and the bundle's is: %s."
            hint = "Check it where mpo is installed: mpo verify FILE --key KEY."
            raise EdgeError(REFUSED, why % signature, hint)
        files, keys = bundle.manifest["files"], ("name", "version", "bundle_version")
        told = {key: bundle.manifest[key] for key in keys}
        size = sum(entry["size"] for entry in files.values())
        return {"ok": True, "digest": bundle.digest, **told, "files": len(files), "bytes": size,
                "signature": signature}  # fmt: skip


def info(asked: argparse.Namespace) -> dict[str, Any]:
    """The manifest, and whether this device fits it (0, else 6)."""
    with Opened(asked.bundle) as bundle:
        here = device()
        reasons = unfit(bundle.manifest, here)
        told = {"fits": not reasons, "reasons": reasons, "device": here, "digest": bundle.digest}
        return {**told, "manifest": bundle.manifest, "exit_code": UNFIT if reasons else OK}


def selftest(asked: argparse.Namespace) -> dict[str, Any]:
    """Known samples through everything that may run the model here (0, else 1)."""
    with Opened(asked.bundle) as bundle:
        bundle.verify()
        inputs, wanted = calls_of(bundle)
        state: dict[str, Any] = {"engine": "none", "fallbacks": []}
        rows = []
        for backend in ways(bundle, state, not asked.no_build):
            near = bundle.manifest["selftest"][backend.near]
            both = zip(inputs, wanted)
            proofs = [compared(backend.run(feeds), want, near) for feeds, want in both]
            good = sum(proof["ok"] for proof in proofs)
            worst = max((proof["max_abs"] or 0.0 for proof in proofs), default=0.0)
            rows.append({"backend": backend.name, "about": backend.about, "passed": good,
                         "samples": len(proofs), "max_abs": worst})  # fmt: skip
        ok = bool(rows) and all(row["passed"] == row["samples"] for row in rows)
        told = {"ok": ok, "digest": bundle.digest, "backends": rows, "state": state}
        return {**told, "exit_code": OK if ok else FAILED if rows else UNFIT}


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """The model on an .npz, or an .npy when it has one input; --output keeps the outputs."""
    import numpy

    with Opened(asked.bundle) as bundle:
        tensors = {one["name"]: one for one in bundle.manifest["inputs"]}
        arrays = read_arrays(Path(asked.input).read_bytes(), next(iter(tensors)))
        for name, one in tensors.items():
            array = arrays.get(name)
            wrong = array is None or array.dtype != one["dtype"] or array.ndim != len(one["shape"])
            if wrong or set(arrays) != set(tensors):
                shape = "x".join(str(size) for size in one["shape"])
                why = "Input %s must be %s %s." % (shown(name), one["dtype"], shape)
                raise EdgeError(USAGE, why, "Arrays are named as the model's inputs: info.")
        backend, state = start(bundle, build=not asked.no_build)
        outputs = backend.run(arrays)
        if asked.output:
            file = io.BytesIO()
            numpy.savez(file, **outputs)
            store(Path(asked.output), [file.getvalue()])
        told: dict[str, Any] = {
            name: {"shape": list(array.shape)} for name, array in outputs.items()
        }
        for name, array in outputs.items():
            if array.size <= 1000 and not asked.output:
                told[name]["values"] = array.tolist()
        return {"state": state, "outputs": told}


def build_engine(asked: argparse.Namespace) -> dict[str, Any]:
    """A TensorRT engine by the manifest's recipe, proved on the samples and kept (0, else 7)."""
    with Opened(asked.bundle) as bundle:
        state: dict[str, Any] = {"engine": "none", "fallbacks": []}
        if not bundle.manifest["engine"]:
            raise EdgeError(PARTIAL, "The manifest has no recipe for an engine.")
        engine = engine_of(bundle, laid_out(bundle), state, build=True)
        return {"state": {**state, "backend": engine.name, "about": engine.about}}


MYSELF = (
    [__file__.partition(".mpo" + os.sep)[0] + ".mpo"] if ".mpo" + os.sep in __file__ else [__file__]
)
PUBLIC: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "verify": verify, "info": info, "selftest": selftest, "run": run, "bench": bench,
    "build-engine": build_engine,
}  # fmt: skip
CHILDREN = {"_build": build_here, "_measure": measure}


def parsed(arguments: list[str]) -> argparse.Namespace:
    """The command line; children of this program have one of their own."""
    if arguments[:1] == ["_build"]:
        return argparse.Namespace(**dict(zip(("command", "bundle", "model", "output"), arguments)))
    if arguments[:1] == ["_measure"]:
        found = argparse.Namespace(**dict(zip(("command", "bundle", "backend"), arguments)))
        found.seconds, found.empty = float(arguments[3]), arguments[4] == "empty"
        return found
    text, own = (__doc__ or "").split("\n"), not MYSELF[0].endswith(".py")
    line = argparse.ArgumentParser(prog="mpo_edge.py", description=text[0])
    commands = line.add_subparsers(dest="command", required=True)
    for name, does in PUBLIC.items():
        one = commands.add_parser(name, help=(does.__doc__ or "").split("\n")[0])
        one.add_argument(
            "bundle",
            nargs="?" if own else None,
            default=MYSELF[0],
            help="a .mpo file, or the folder that it was unpacked into",
        )
        if name == "verify":
            one.add_argument("--require-signature", action="store_true", help="refuse without one")
        elif name not in ("info", "build-engine"):
            one.add_argument("--no-build", action="store_true", help="build no engine now")
        if name == "run":
            one.add_argument("--input", required=True, help="an .npz, or an .npy")
            one.add_argument("--output", help="write the outputs to this .npz")
        if name == "bench":
            one.add_argument("--seconds", type=float, default=1.0, help="of sampling a process")
            one.add_argument("--processes", type=int, default=3, help="fresh ones")
    return line.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Do one command; its answer goes to stdout as one line of JSON, its exit code back."""
    asked = parsed(sys.argv[1:] if arguments is None else arguments)
    try:
        answer = {**PUBLIC, **CHILDREN}[asked.command](asked)
        code = int(answer.pop("exit_code", OK))
    except (EdgeError, OSError, MemoryError) as error:
        code = getattr(error, "code", FAILED)
        answer = {"error": str(error), "hint": getattr(error, "hint", ""), "exit_code": code}
    sys.stdout.write(json.dumps(answer, ensure_ascii=True) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
