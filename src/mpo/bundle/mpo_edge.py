#!/usr/bin/env python3
"""Check and run an mpo edge bundle on a device: the standard library, numpy and onnxruntime.

    verify B [--key KEY.pub] [--require-signature]  is every byte what it must be (0, else 8)
    info B                                 the manifest; does this device fit it (0, else 6)
    selftest B                             known samples through all that may run it (0, else 1)
    run B --input X.npz [--output Y.npz]   the model on an .npz, or an .npy if it has one input
    bench B [--seconds 1] [--processes 3]  latency and peak memory here, in fresh processes
    build-engine B                         a TensorRT engine, proved and kept (0, else 7)

B is the .mpo file. selftest, run and bench take --no-build: build no engine now.
Python 3.8 or newer; no network; answers are a line of JSON. A bundle is a stranger's data: nothing
of it is used before archive, manifest and the sha256 of what is used are checked. One that checks
itself (`python3 model.mpo verify`) finds damage, not malice: that takes a key.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
import importlib
import io
import json
import mmap
import os
import platform
import re
import struct
import sys
import time
import zlib
from collections import namedtuple
from functools import partial
from os import path as paths
from types import SimpleNamespace
from typing import Any, BinaryIO, Iterable, Iterator

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
MANIFEST, SIGNATURE, NPY = "bundle.json", "bundle.sig", b"\x93NUMPY\1\0"
LOCAL, CENTRAL, END = (struct.Struct(text) for text in ("<4s5H3L2H", "<4s6H3L5H2L", "<4s4H2LH"))
VERSION, UTF8, STORED, TIME, DATE = 20, 0x800, 0, 0, 0x21  # 1980-01-01 00:00:00
MEMBERS, NAME, DOCUMENT, CHUNK, LARGEST = 256, 120, 1 << 20, 1 << 20, (1 << 32) - 1
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*){0,3}")
HEADER = rb"{'descr': '([<>|][biufcV]\d{1,2})', 'fortran_order': (\w+), 'shape': \(([\d, ]*)\)"
DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")
Member = namedtuple("Member", "name offset size crc")  # where a file's bytes begin, how many


def headers(name: str, size: int, crc: int, offset: int = 0) -> tuple[bytes, bytes]:
    """The bytes at `offset`, before a member's content, and its entry in the directory."""
    raw, flags = name.encode(), UTF8 * (not name.isascii())  # a bundle's names are ASCII
    both = (VERSION, flags, STORED, TIME, DATE, crc, size, size, len(raw), 0)
    entry = CENTRAL.pack(b"PK\1\2", VERSION, *both, 0, 0, 0, 0, offset) + raw
    return LOCAL.pack(b"PK\3\4", *both) + raw, entry


def end_record(count: int, size: int, offset: int) -> bytes:
    """The last bytes of the archive."""
    return END.pack(b"PK\5\6", 0, 0, count, count, size, offset, 0)


def check_names(names: list[str]) -> None:
    """Refuse names outside of a folder, that are none on some system or that some cannot tell
    apart, and any order but: the manifest, the rest by name, the signature."""
    spelled: dict[str, str] = {}
    for name in names:
        parts = name.split("/")
        odd = [one for one in parts if one.endswith(".") or DEVICES.fullmatch(one.lower())]
        if not PLAIN.fullmatch(name) or len(name) > NAME or odd:
            raise refused("The member name %s is not allowed." % shown(name))
        inside = any(other.startswith(name + "/") for other in names)
        for path in ("/".join(parts[: depth + 1]) for depth in range(len(parts))):
            if spelled.setdefault(path.lower(), path) != path or inside or names.count(name) > 1:
                raise refused("Two members have the name %s." % shown(name))
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
    fits = 1 <= count <= MEMBERS and length <= count * (CENTRAL.size + NAME)
    if not fits or end != end_record(count, length, offset) or size != offset + length + END.size:
        raise refused("The file does not end as a bundle does.")
    members, place, again = [], 0, b""
    directory = left = read_at(file, offset, length)
    for _ in range(count):
        crc, _, size, length = CENTRAL.unpack(left[: CENTRAL.size].ljust(CENTRAL.size))[7:11]
        name, left = left[CENTRAL.size :][:length].decode("latin-1"), left[CENTRAL.size + length :]
        head, entry = headers(name[:NAME], size, crc, place)  # a longer one is refused
        start, place = place, place + len(head) + size
        if place > offset or read_at(file, start, len(head)) != head:
            raise refused("Member %s is not stored as it must be." % shown(name))
        members.append(Member(name, place - size, size, crc))
        again += entry
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
# Shapes beside exact keys, patterns, sets of texts and types: list, map, maybe, int, real.
Of = namedtuple("Of", "kind shape low high", defaults=[None, 0, 2**63 - 1])
Each, Map, Maybe = partial(Of, "list"), partial(Of, "map"), partial(Of, "maybe")
Range, Real = partial(Of, "int", None), partial(Of, "real", None)
SHA, SLUG = re.compile(r"[0-9a-f]{64}"), re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
STAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
INF, ANY, TEXT = float("inf"), Range(), re.compile(r"(?s).{0,2000}")
PART, POSITIVE, SIZES = Real(0, INF), Real(5e-324, INF), Each(Range(-(2**63)))
PROVIDERS = ["CPUExecutionProvider", "CUDAExecutionProvider"]
ROLES = "model weights selftest runtime plan report doc licence sbom provenance evidence"
TENSOR = {"name": TEXT, "dtype": SLUG, "shape": Each((ANY, TEXT))}
TOLERANCE = {"atol": PART, "rtol": PART, "cosine": Real(-1, 1)}
# What a device uses has its exact shape; at what it only shows mpo itself looks closer.
# fmt: off
SHAPE: dict[str, Any] = {
    "schema": {"mpo.bundle/1"}, "bundle_version": Range(1, 2**31 - 1), "name": SLUG,
    "version": SLUG, "created": Maybe(STAMP), "tool": {"name": SLUG, "version": SLUG},
    "files": Map({"sha256": SHA, "size": ANY, "role": set(ROLES.split())}),
    "model": {"format": {"onnx"}, "path": TEXT, "weights": Each(TEXT), "ir_version": ANY,
        "opset": ANY, "precision": SLUG, "params": ANY, "bytes": ANY, "macs": Maybe(ANY)},
    "inputs": Each(TENSOR, 1), "outputs": Each(TENSOR, 1),
    "runtime": {
        "python": SLUG, "onnxruntime": SLUG, "tested_onnxruntime": SLUG,
        "providers": Each(set(PROVIDERS), 1), "batch": Range(1), "fallback": {"allow", "refuse"},
        "session": {"runner": {"onnx"},
            "device": re.compile(r"cpu|cuda:[0-9]{1,2}"), "threads": Range(1, 4096), "arena": bool,
            "spinning": bool, "prepacking": bool, "external_weights": bool,
            "optimization": {"all", "extended", "basic", "none"},
            "mmap_threshold_bytes": Maybe(Range(4096))}},
    "engine": Maybe({
        "backend": {"tensorrt", "tensorrt-rtx"}, "precision": {"onnx", "fp16", "bf16", "int8"},
        "shapes": Map({"min": SIZES, "opt": SIZES, "max": SIZES}), "timeout_s": POSITIVE,
        "workspace_bytes": Maybe(Range(1)), "optimization_level": Maybe(Range(0, 5)),
        "version_compatible": bool, "hardware": {"this", "ampere+", "same-capability"},
        "refit": bool, "compute_capabilities": Each(TEXT), "memory_bytes": Maybe(Range(1))}),
    "selftest": {"inputs": TEXT, "outputs": TEXT, "samples": Range(1, 8), "metric": Maybe(dict),
        "runtime": TOLERANCE, "engine": TOLERANCE},
    "targets": Each(dict), "budgets": Each(dict), "lineage": dict, "license": TEXT,
    "limitations": Each(TEXT)}
# Where an ONNX file may name other files: message -> field -> message, down to a tensor's entries.
TENSORS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"}, "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"}, "function": {7: "node", 11: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "node": {5: "attribute"}, "sparse": {1: "tensor", 2: "tensor"}, "tensor": {13: "entry"},
    "entry": {}}
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
    elif kind == "map" or isinstance(shape, dict):
        good = type(value) is dict and (kind == "map" or set(value) == set(shape))
        for key in value if good else ():
            check(value[key], shape.shape if kind else shape[key], "%s.%s" % (where, key))
    elif kind:
        good = type(value) is int or (kind == "real" and type(value) is float)
        good = good and shape.low <= value <= shape.high and abs(value) < INF
    elif isinstance(shape, (re.Pattern, set)):
        told = shape.fullmatch if isinstance(shape, re.Pattern) else shape.__contains__
        good = type(value) is str and bool(told(value))
    elif type(shape) is tuple:
        good = check(value, shape[type(value) is not int], where)
    else:
        good = type(value) is shape
    if not good:
        raise refused("The manifest's %s is not as it must be." % shown(where[1:] or "top"))
    return True


def parse_manifest(raw: bytes) -> dict[str, Any]:
    """The manifest, when it is JSON in its one spelling and of the one known shape."""
    try:
        if re.search(b"[0-9]{300}", raw):
            raise ValueError("a number that no float holds, or that takes long to read")
        manifest = json.loads(raw.decode("ascii"))
        again = canonical(manifest)
    except (ValueError, RecursionError):
        raise refused("%s is no JSON that a bundle may have." % MANIFEST) from None
    # Of a key that comes twice only the last comes back, so that is another spelling, too.
    if type(manifest) is not dict or manifest.get("schema") != "mpo.bundle/1" or again != raw:
        raise refused("%s is of an unknown schema, or not in its canonical form." % MANIFEST)
    check(manifest, SHAPE, "")
    check_meaning(manifest)
    return manifest


def canonical(value: Any) -> bytes:
    """The one spelling of a JSON value: keys sorted, ASCII, a line end."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=True, allow_nan=False)
    return text.encode("ascii") + b"\n"


def check_meaning(manifest: dict[str, Any]) -> None:
    """Refuse a manifest that contradicts itself."""
    files, model, test = manifest["files"], manifest["model"], manifest["selftest"]
    wanted = [(model["path"], "model"), (test["inputs"], "selftest"), (test["outputs"], "selftest")]
    wanted += [(name, "weights") for name in model["weights"]]
    for name, role in wanted:
        if files.get(name, {}).get("role") != role:
            raise refused("The manifest names no file %s as its %s." % (shown(name), role))
    inside = {paths.dirname(name) for name in model["weights"]} <= {paths.dirname(model["path"])}
    sizes = [files[name]["size"] for name in [model["path"], *model["weights"]]]
    if not inside or not sizes[0] or sum(sizes) != model["bytes"]:
        raise refused("The manifest's model is not the files that it names.")


# ------------------------------------------------------------------ a bundle
class Opened(contextlib.AbstractContextManager):  # type: ignore[type-arg]
    """A bundle whose structure and `manifest` are checked; members are checked as they are read.
    `digest`, the manifest's sha256, names the bundle; `providers`, the best first, may run it."""

    def __init__(self, path: str) -> None:
        """Open a .mpo file; else EdgeError says why it is none."""
        self.path = path
        if paths.exists(path) and not paths.isfile(path):
            raise EdgeError(USAGE, "%s is no file." % shown(path))
        try:
            self.file = open(path, "rb")  # noqa: SIM115
        except OSError as error:
            told = "%s cannot be read: %s." % (shown(path), error.strerror)
            raise EdgeError(USAGE, told) from error
        with contextlib.ExitStack() as stack:
            stack.callback(self.file.close)
            self.members = {member.name: member for member in read_members(self.file)}
            raw = b"".join(self.chunks(MANIFEST, known=False))
            self.digest, self.manifest = hashlib.sha256(raw).hexdigest(), parse_manifest(raw)
            self._agree()
            more = PROVIDERS[: self.manifest["runtime"]["fallback"] == "allow"]
            self.providers = list(dict.fromkeys(self.manifest["runtime"]["providers"] + more))
            stack.pop_all()

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def _agree(self) -> None:
        """Members and manifest name the same files with the same sizes."""
        here = {name: member.size for name, member in self.members.items()}
        told = {name: entry["size"] for name, entry in self.manifest["files"].items()}
        told.update({name: here[name] for name in (MANIFEST, SIGNATURE) if name in here})
        for name, _ in sorted(here.items() ^ told.items()):
            why = "of another size" if name in here and name in told else "added, or is missing"
            raise refused("Member %s is %s." % (shown(name), why))

    def chunks(self, name: str, known: bool = True) -> Iterator[bytes]:
        """A member's bytes, piece by piece; the last piece comes only when all had the manifest's
        sha256. The manifest itself and the signature are not `known` to it."""
        member = self.members[name]
        if not known and member.size > DOCUMENT:
            raise refused("%s has %d bytes; %d are the most." % (name, member.size, DOCUMENT))
        digest, crc, left, held = hashlib.sha256(), 0, member.size, b""
        while left:
            part = read_at(self.file, member.offset + member.size - left, min(left, CHUNK))
            digest.update(part)
            left, crc = left - len(part), zlib.crc32(part, crc)
            if held:
                yield held
            held = part
        if crc != member.crc:
            raise refused("Member %s is damaged." % shown(name))
        if known and digest.hexdigest() != self.manifest["files"][name]["sha256"]:
            raise refused("Member %s has other bytes than the manifest says." % shown(name))
        yield held

    def read(self, name: str) -> bytes:
        """A member's bytes at once."""
        return b"".join(self.chunks(name))

    def signature(self) -> bytes | None:
        """The signature's bytes, unchecked; None when there is none."""
        return b"".join(self.chunks(SIGNATURE, known=False)) if SIGNATURE in self.members else None

    def verify(self) -> None:
        """Read every member; EdgeError when one has other bytes than the manifest says."""
        for name in self.manifest["files"]:
            for _ in self.chunks(name):
                pass
        self.signature()


# ------------------------------------------------------------------ this device
def imported(name: str) -> Any:
    """A library; None where it is not installed."""
    with contextlib.suppress(ImportError):
        return importlib.import_module(name)


def device() -> dict[str, Any]:
    """This device, as far as a manifest asks."""
    about: dict[str, Any] = {"arch": platform.machine(), "os": platform.system(), "gpu": gpu()}
    library = imported("onnxruntime")
    rt = (library.__version__, library.get_available_providers()) if library else ("0", [])
    return {**about, "python": platform.python_version(), "onnxruntime": rt[0], "providers": rt[1]}


def own_folder(kind: str, *more: str) -> str:
    """This user's private "cache" or "config" (with the key), or a path in it."""
    base = os.environ.get("MPO_EDGE_HOME") or os.environ.get("XDG_%s_HOME" % kind.upper())
    folder = paths.join(base or paths.expanduser("~/." + kind), "mpo-edge-" + kind)
    if folder.startswith("~"):
        raise EdgeError(USAGE, "This user has no home.", "Name a folder with MPO_EDGE_HOME.")
    os.makedirs(folder, 0o700, exist_ok=True)
    seen = os.lstat(folder)
    if paths.islink(folder) or seen.st_uid != os.getuid() or seen.st_mode & 0o022:
        told = "%s is not this user's alone: what lies there is not believed." % shown(folder)
        raise EdgeError(REFUSED, told, "Delete it, or name another folder with MPO_EDGE_HOME.")
    return paths.join(folder, *more)


def store(path: str, chunks: Iterable[bytes]) -> None:
    """Write a private file, whole or not at all."""
    new = paths.join(paths.dirname(path), ".%s.%d" % (paths.basename(path), os.getpid()))
    number = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(number, "wb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        os.unlink(new)
        raise


def content(path: str) -> bytes:
    """The bytes of a file."""
    with open(path, "rb") as file:
        return file.read()


def mapped(path: str) -> Any:
    """The bytes of a file, not copied; ValueError when it has none."""
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def same(path: str, sha: str) -> bool:
    """Whether a file is there, no link, and has this sha256."""
    with contextlib.suppress(OSError, ValueError), mapped(path) as raw:
        return hashlib.sha256(raw).hexdigest() == sha and not paths.islink(path)
    return False


def laid_out(bundle: Opened) -> str:
    """The model's path in this user's cache, every byte of it and of its weights checked now."""
    model, files = bundle.manifest["model"], bundle.manifest["files"]
    shas = {name: files[name]["sha256"] for name in [model["path"], *model["weights"]]}
    folder = own_folder("cache", hashlib.sha256(canonical(shas)).hexdigest())
    os.makedirs(folder, 0o700, exist_ok=True)
    places = {name: paths.join(folder, paths.basename(name)) for name in shas}
    for name, place in places.items():
        if not same(place, shas[name]):
            store(place, bundle.chunks(name))
    with mapped(places[model["path"]]) as raw:
        check_weights(raw, {paths.basename(name).encode() for name in model["weights"]})
    return places[model["path"]]


def ready(bundle: Opened) -> str:
    """The model as laid_out has it; while its bytes are hashed, a thread imports what runs it."""
    import threading

    name = "numpy" if bundle.manifest["engine"] else "onnxruntime"
    thread = threading.Thread(target=imported, args=(name,))
    thread.start()
    try:
        return laid_out(bundle)
    finally:
        thread.join()


def check_weights(raw: Any, known: set[bytes]) -> None:
    """Refuse a model that reads weights from any file but those of the bundle, wherever in nested
    graphs, functions and sparse tensors it says so: older runtimes follow links and "../"."""
    pending = [("model", 0, len(raw))]
    while pending:
        (kind, place, end), texts = pending.pop(), []
        while place < end:
            tag, place = varint(raw, place, end)
            field, wire, size = tag >> 3, tag & 7, {1: 8, 5: 4}.get(tag & 7, 0)
            if wire in (0, 2):
                value, place = varint(raw, place, end)
                size = value if wire else 0
            if wire in (3, 4, 6, 7) or place + size > end:
                raise refused("The model is no ONNX file.")
            if wire == 2 and kind == "entry":
                texts.append((field, raw[place : place + size]))
            elif wire == 2 and field in TENSORS[kind]:
                # A look into what is long is faster than a search of all its weights.
                at = place if size > CHUNK >> 4 else raw.find(b"location", place, place + size)
                pending += [(TENSORS[kind][field], place, place + size)] * (at >= 0)
            place += size
        named = [text for field, text in texts if field == 2]
        if (1, b"location") in texts and (len(texts) != 2 or not known & set(named)):
            raise refused("The model reads weights from %s." % shown(named))


def varint(raw: Any, place: int, end: int) -> tuple[int, int]:
    """A protobuf integer, and where it ends."""
    value = 0
    for count, byte in enumerate(raw[place : min(end, place + 10)]):
        value |= (byte & 127) << 7 * count
        if byte < 128:
            return value, place + count + 1
    raise refused("The model is no ONNX file.")


def read_arrays(raw: bytes, only: str = "", call: str = "") -> dict[str, Any]:
    """Arrays by name out of an .npz as numpy.savez writes it, or under the name `only` out of an
    .npy. With a `call` those of other calls are named only: None."""
    try:
        if raw.startswith(NPY):
            return {only: array_of(raw)}
        found, left, end = {}, len(raw), raw.rindex(b"PK\5\6")
        count, _, place = END.unpack_from(raw, end)[4:7]
        for _ in range(count):
            entry = CENTRAL.unpack_from(raw, place)
            method, crc, size, length, offset = (entry[at] for at in (4, 7, 9, 10, 16))
            name = raw[place + CENTRAL.size : place + CENTRAL.size + length].decode()
            place, left = place + CENTRAL.size + sum(entry[10:13]), left - size
            start = offset + LOCAL.size + sum(LOCAL.unpack_from(raw, offset)[9:])
            part = raw[start : start + size]
            if method != STORED or left < 0 or zlib.crc32(part) != crc:
                raise ValueError("compressed or damaged; write it with numpy.savez")
            found[name[: -len(".npy")]] = array_of(part) if name.startswith(call) else None
        return found
    except (ValueError, TypeError, struct.error, MemoryError) as error:
        raise EdgeError(USAGE, "No file of plain arrays: %s" % shown(error)) from error


def array_of(raw: bytes) -> Any:
    """The array of an .npy file, none of objects; numpy.load takes 10 ms more on its first use."""
    import numpy

    end = 10 + int.from_bytes(raw[8:10], "little")
    told = re.match(HEADER, raw[10:end])
    if not raw.startswith(NPY) or told is None:
        raise ValueError("an array without a header that numpy.save writes")
    array: Any = numpy.frombuffer(raw[end:], told[1].decode())
    shape = [int(size) for size in told[3].split(b",") if size.strip()]
    return array.reshape(shape, order="CF"[told[2] == b"True"])


def packed(arrays: dict[str, Any]) -> list[bytes]:
    """The parts of an .npz file; numpy.savez takes 10 ms more on its first use."""
    import numpy

    parts, directory, place = [b""], b"", 0
    for name, array in arrays.items():
        file = io.BytesIO()
        numpy.save(file, array, allow_pickle=False)
        raw = file.getvalue()
        head, entry = headers(name + ".npy", len(raw), zlib.crc32(raw), place)
        parts += [head, raw]
        directory, place = directory + entry, place + len(head) + len(raw)
    return [*parts, directory, end_record(len(arrays), len(directory), place)]


def calls_of(bundle: Opened, most: int) -> list[list[dict[str, Any]]]:
    """The self-test's inputs and expected outputs, a dictionary a call; CALL:NAME is their name."""
    test, both = bundle.manifest["selftest"], []
    for key in ("inputs", "outputs"):
        arrays = read_arrays(bundle.read(test[key]), call="0:" if most == 1 else "")
        names, calls = [one["name"] for one in bundle.manifest[key]], range(test["samples"])
        if set(arrays) != {"%d:%s" % (call, name) for call in calls for name in names}:
            raise refused("The self-test's %s are not those of the model." % key)
        both.append([{name: arrays["%d:%s" % (n, name)] for name in names} for n in calls[:most]])
    return both


def proved(bundle: Opened, backend: Any, calls: Any) -> dict[str, Any]:
    """The outputs of samples beside the expected ones: all near enough, and how near."""
    import numpy

    near = bundle.manifest["selftest"]["runtime" if backend.name in PROVIDERS else "engine"]
    worst, cosine, passed = 0.0, 1.0, 0
    for feeds, expected in zip(*calls):
        got, good = {}, True
        with contextlib.suppress(EdgeError):
            got = backend.run(feeds)
        for name, want in expected.items():
            have = numpy.asarray(got.get(name, numpy.nan))
            one, two = (numpy.asarray(x, numpy.float64).ravel() for x in (have, want))
            if have.shape != want.shape or not numpy.isfinite(one).all():
                good = False
                break
            off = float(numpy.abs(one - two).max(initial=0.0))
            norm = float(numpy.linalg.norm(one) * numpy.linalg.norm(two))
            angle = float(one @ two) / norm if norm else float(off <= near["atol"])
            limit = near["atol"] + near["rtol"] * float(numpy.abs(two).max(initial=0.0))
            worst, cosine = max(worst, off), min(cosine, angle)
            good = good and off <= limit and angle >= near["cosine"]
        passed += good
    about = {"backend": backend.name, "about": backend.about, "max_abs": worst, "cosine": cosine}
    return {**about, "samples": len(calls[0]), "passed": passed, "ok": passed == len(calls[0])}


# ------------------------------------------------------------------ ONNX Runtime
LEVELS = {"all": 99, "extended": 2, "basic": 1, "none": 0}
EMPTY = bytes.fromhex(  # y = x, one number: what memory is measured above
    "08083a370a100a017812017922084964656e746974791201655a0f0a0178120a0a08080112040a020801"
    "620f0a0179120a0a08080112040a02080142040a001011"
)


class Runtime:
    """The model in ONNX Runtime, with the options that its figures were measured with."""

    def __init__(self, manifest: dict[str, Any], provider: str, path: str | None) -> None:
        """Open the model, or without a path the one that does nothing."""
        import onnxruntime

        if provider not in onnxruntime.get_available_providers():
            raise EdgeError(UNFIT, "ONNX Runtime has no %s here." % provider)
        told, options = manifest["runtime"]["session"], onnxruntime.SessionOptions()
        self.name, self.about = provider, "onnxruntime " + onnxruntime.__version__
        if told["mmap_threshold_bytes"] and sys.platform.startswith("linux"):
            with contextlib.suppress(AttributeError):  # not glibc
                ctypes.CDLL(None).mallopt(-3, told["mmap_threshold_bytes"])  # M_MMAP_THRESHOLD
        options.intra_op_num_threads, options.inter_op_num_threads = told["threads"], 1
        options.enable_cpu_mem_arena, options.log_severity_level = told["arena"], 4
        level = onnxruntime.GraphOptimizationLevel(LEVELS[told["optimization"]])
        options.graph_optimization_level = level
        spinning, packing = "01"[told["spinning"]], "10"[told["prepacking"]]
        options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
        options.add_session_config_entry("session.disable_prepacking", packing)
        number = {"device_id": told["device"].partition(":")[2] or "0"}
        asked = (provider, number if provider == PROVIDERS[1] else {})
        try:
            self.session = onnxruntime.InferenceSession(path or EMPTY, options, [asked])
        except Exception as error:  # its errors have no class in common
            raise EdgeError(FAILED, "ONNX Runtime cannot load it: %s" % shown(error)) from error
        if self.session.get_providers()[0] != provider:  # it falls back without a word
            raise EdgeError(UNFIT, "ONNX Runtime cannot use its %s here." % provider)
        self.outputs = [one.name for one in self.session.get_outputs()]

    def run(self, feeds: dict[str, Any]) -> dict[str, Any]:
        """Outputs by name; EdgeError when the inputs do not fit, or the runtime fails."""
        try:
            return dict(zip(self.outputs, self.session.run(None, feeds)))
        except Exception as error:
            raise EdgeError(FAILED, "ONNX Runtime failed: %s" % shown(error)) from error


def ways(bundle: Opened, path: str, state: dict[str, Any], build: bool) -> Iterator[Any]:
    """Everything that may run the model here, opened, the best first: an engine, ONNX Runtime on
    the GPU, ONNX Runtime on the CPU if the manifest allows it. What fails goes to "fallbacks"."""
    state.update(backend=None, engine="none", fallbacks=[])
    for name in ["engine"] * bool(bundle.manifest["engine"]) + bundle.providers:
        try:
            if name == "engine":
                yield engine_of(bundle, path, state, build)
            else:
                yield Runtime(bundle.manifest, name, path)
        except EdgeError as error:
            state["fallbacks"].append("%s: %s" % (name, error))


def start(bundle: Opened, path: str, build: bool) -> tuple[Any, dict[str, Any]]:
    """The best that runs the model here, proved on a sample, and how it came; else EdgeError."""
    state: dict[str, Any] = {}
    sample = calls_of(bundle, 1)  # before a session's threads spin
    for backend in ways(bundle, path, state, build):
        state["selftest"] = proved(bundle, backend, sample)
        if state["selftest"]["ok"]:
            state["backend"] = backend.name
            return backend, state
        state["fallbacks"].append("%s: the first sample came out wrong" % backend.name)
    raise EdgeError(UNFIT, "Nothing allowed runs this model here.", "; ".join(state["fallbacks"]))


# ------------------------------------------------------------------ engines
MODULES, DAY = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}, 86400.0


def gpu() -> dict[str, str]:
    """The first GPU as its driver tells of it; empty where there is none."""
    which, driver = ctypes.c_int(), ctypes.c_int()
    name, uuid = ctypes.create_string_buffer(256), ctypes.create_string_buffer(16)
    with contextlib.suppress(OSError):
        cuda = ctypes.CDLL("libcuda.so.1")
        if not cuda.cuInit(0) and not cuda.cuDeviceGet(ctypes.byref(which), 0):
            cuda.cuDeviceGetName(name, 256, which)
            cuda.cuDeviceGetUuid(uuid, which)
            cuda.cuDriverGetVersion(ctypes.byref(driver))
            told = {"name": name.value.decode("ascii", "replace"), "driver": str(driver.value)}
            return {**told, "uuid": hashlib.sha256(uuid.raw).hexdigest()[:16]}
    return {}


class Engine:
    """An engine on the GPU. It is native code: only what was built here, and signed, comes here."""

    def __init__(self, backend: str, raw: bytes) -> None:
        """Load it; code for the host inside of it is never allowed."""
        self.trt = trt = importlib.import_module(MODULES[backend])
        self.name, self.about = backend, "%s %s" % (MODULES[backend], trt.__version__)
        self.cuda: Any = ctypes.CDLL("libcuda.so.1")
        self.rooms: dict[tuple[str, int], int] = {}
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
        if code := getattr(self.cuda, name)(*arguments):
            raise EdgeError(PARTIAL, "%s failed with CUDA error %d" % (name, code))

    def room(self, name: str, array: Any) -> tuple[Any, Any, Any]:
        """Where a tensor lies on the GPU and here, and its bytes; kept for the next call."""
        key, size = (name, array.nbytes), ctypes.c_size_t(max(array.nbytes, 1))
        if key not in self.rooms:
            address = ctypes.c_uint64()
            self.call("cuMemAlloc_v2", ctypes.byref(address), size)
            self.rooms[key] = address.value
        self.context.set_tensor_address(name, self.rooms[key])
        here, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
        return ctypes.c_uint64(self.rooms[key]), here, size

    def run(self, feeds: dict[str, Any]) -> dict[str, Any]:
        """Outputs by name."""
        import numpy

        engine, outputs = self.engine, {}
        names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
        kinds = {name: self.trt.nptype(engine.get_tensor_dtype(name)) for name in names}
        taken = [n for n in names if engine.get_tensor_mode(n) == self.trt.TensorIOMode.INPUT]
        for name in taken:
            array = numpy.ascontiguousarray(feeds[name], kinds[name])
            if not self.context.set_input_shape(name, array.shape):
                raise EdgeError(PARTIAL, "the engine does not take the shape of %s" % name)
            self.call("cuMemcpyHtoD_v2", *self.room(name, array))
        for name in set(names) - set(taken):
            outputs[name] = numpy.empty(tuple(self.context.get_tensor_shape(name)), kinds[name])
            self.room(name, outputs[name])
        if not self.context.execute_async_v3(0):
            raise EdgeError(PARTIAL, "the engine refused to run")
        self.call("cuCtxSynchronize")
        for name, array in outputs.items():
            there, here, size = self.room(name, array)
            self.call("cuMemcpyDtoH_v2", here, there, size)
        return outputs


def signed(key: str, payload: bytes) -> bytes:
    """The mark of what this user's own key vouches for; made on the first use."""
    import hmac  # here, as others: a start waits for what it needs only

    path = own_folder("config", "key")
    if not paths.exists(path):
        store(path, [os.urandom(32)])
    return hmac.new(content(path), key.encode() + b"\0" + payload, "sha256").digest()


def engine_of(bundle: Opened, path: str, state: dict[str, Any], build: bool) -> Engine:
    """The engine by the manifest's recipe: the one that was built and signed here for this model,
    library, GPU and driver, else a new one. A build that fails is not tried again for a day."""
    told = bundle.manifest["engine"]
    library = imported(MODULES[told["backend"]])
    if library is None:
        raise EdgeError(PARTIAL, "%s is not installed" % MODULES[told["backend"]])
    shas = paths.basename(paths.dirname(path))  # of the model's files
    key = hashlib.sha256(canonical([shas, told, library.__version__, gpu()])).hexdigest()
    entry, failure, new = (own_folder("cache", key + end) for end in (".engine", ".failed", ".new"))
    if paths.isfile(entry):
        raw = content(entry)
        if raw[:32] == signed(key, raw[32:]):
            state["engine"] = "cached"
            return Engine(told["backend"], raw[32:])
        os.unlink(entry)
        state["fallbacks"].append("engine: the cached one was not signed here; it is built again")
    if not build:
        raise EdgeError(PARTIAL, "none is built yet: mpo_edge.py build-engine")
    if paths.isfile(failure) and 0 <= time.time() - paths.getmtime(failure) < DAY:
        why = content(failure).decode("ascii", "replace")[:NAME]
        raise EdgeError(PARTIAL, "the last build failed: " + why)
    try:
        built(bundle, path, new)
    except EdgeError as error:
        store(failure, [error.message.encode("ascii", "replace")])
        raise
    raw = content(new)
    os.unlink(new)
    store(entry, [signed(key, raw), raw])
    state["engine"] = "built"
    return Engine(told["backend"], raw)


INSIDE = ".mpo" + os.sep in __file__  # started out of a bundle
MYSELF = __file__.partition(".mpo" + os.sep)[0] + ".mpo" if INSIDE else __file__


def child(asked: dict[str, Any], *before: str) -> Any:
    """This program again, in a process that does what is asked."""
    import subprocess

    line = [*before, sys.executable, MYSELF, "_child", json.dumps(asked)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def built(bundle: Opened, path: str, output: str) -> None:
    """Build in a child with limits on its time and memory; it runs the engine once, too."""
    told, asked = bundle.manifest["engine"], {"does": "build_here", "bundle": bundle.path}
    process = child({**asked, "model": path, "output": output})
    limit = told["memory_bytes"] or told_by("meminfo", "MemAvailable") * 9 // 10 or 1 << 40
    end = time.monotonic() + told["timeout_s"]
    try:
        while process.poll() is None:
            if time.monotonic() > end:
                raise EdgeError(PARTIAL, "the build took longer than %g s" % told["timeout_s"])
            if told_by("%d/status" % process.pid, "VmRSS") > limit:
                raise EdgeError(PARTIAL, "the build held more than %d bytes" % limit)
            time.sleep(0.05)
    finally:
        process.kill()
        said = process.communicate()[0][-4096:].decode("ascii", "replace").strip().split("\n")[-1]
    if process.returncode:
        why = json.loads(said)["error"] if said.startswith('{"error"') else "no reason is given"
        raise EdgeError(PARTIAL, "the build ended with %d: %s" % (process.returncode, why))


def build_here(bundle: Opened, asked: SimpleNamespace) -> dict[str, Any]:
    """The child's part of a build."""
    told = bundle.manifest["engine"]
    trt = importlib.import_module(MODULES[told["backend"]])
    more = ("version_compatible", "refit", "compute_capabilities", "optimization_level")
    if any(told[key] for key in more) or (told["hardware"], told["precision"]) != ("this", "onnx"):
        raise EdgeError(PARTIAL, "the recipe asks for more than the file's own types on this GPU")
    log, kinds = trt.Logger(trt.Logger.ERROR), trt.NetworkDefinitionCreationFlag
    builder, names = trt.Builder(log), ("EXPLICIT_BATCH", "STRONGLY_TYPED")
    flags = sum(1 << int(getattr(kinds, name)) for name in names if hasattr(kinds, name))
    network, config = builder.create_network(flags), builder.create_builder_config()
    parser, profile = trt.OnnxParser(network, log), builder.create_optimization_profile()
    if not parser.parse_from_file(asked.model):
        raise EdgeError(PARTIAL, "the parser does not take it: %s" % parser.get_error(0).desc())
    if told["workspace_bytes"]:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, told["workspace_bytes"])
    for name, row in told["shapes"].items():
        profile.set_shape(name, *(tuple(row[key]) for key in ("min", "opt", "max")))
    if told["shapes"]:
        config.add_optimization_profile(profile)
    raw = builder.build_serialized_network(network, config)
    if raw is None:
        raise EdgeError(PARTIAL, "the library builds no engine and gives no reason")
    if not gpu():
        raise EdgeError(PARTIAL, "an engine is built, but no GPU is here to prove it on")
    if not proved(bundle, Engine(told["backend"], bytes(raw)), calls_of(bundle, 1))["ok"]:
        raise EdgeError(PARTIAL, "the engine's first sample came out wrong")
    store(asked.output, [bytes(raw)])
    return {}


def told_by(file: str, key: str) -> int:
    """A figure of /proc in bytes (VmHWM is a process's own peak); 0 where there is none."""
    with contextlib.suppress(OSError), open("/proc/" + file) as lines:
        for line in lines:
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    return 0


def measure(bundle: Opened, asked: SimpleNamespace) -> dict[str, Any]:
    """One fresh process: load, first call, warm-up, single calls, the peak."""
    import numpy

    feeds, empty = calls_of(bundle, 1)[0][0], asked.kind == "empty"
    path = None if empty else laid_out(bundle)
    begin = time.perf_counter()
    if path and asked.backend in MODULES:
        backend: Any = engine_of(bundle, path, {"fallbacks": []}, build=False)
    else:
        name = asked.backend if asked.backend in PROVIDERS else PROVIDERS[0]
        backend = Runtime(bundle.manifest, name, path)
    feeds = {"x": numpy.zeros(1, numpy.float32)} if empty else feeds
    loaded, load_peak, times = time.perf_counter(), told_by("self/status", "VmHWM"), [0.0] * 10**5
    backend.run(feeds)
    first, taken = time.perf_counter(), 0
    while not empty and time.perf_counter() - first < 0.3:
        backend.run(feeds)
    last = end = time.perf_counter() + (0 if empty else asked.seconds)
    while taken < (3 if empty else 30) or (last < end and taken < len(times)):
        last = time.perf_counter()
        backend.run(feeds)
        times[taken], taken = (time.perf_counter() - last) * 1e3, taken + 1
    peak, times = told_by("self/status", "VmHWM"), sorted(times[:taken])
    told = {"latency_p50_ms": times[taken // 2], "latency_p90_ms": times[taken * 9 // 10]}
    told.update(load_ms=(loaded - begin) * 1e3, first_ms=(first - loaded) * 1e3)
    return {**told, "load_memory_bytes": load_peak, "peak_memory_bytes": peak, "calls": taken}


def bench(bundle: Opened, asked: SimpleNamespace) -> dict[str, Any]:
    """Latency and peak memory here, in fresh processes."""
    state, told = start(bundle, ready(bundle), not asked.no_build)[1], bundle.manifest["runtime"]
    more = {"does": "measure", "bundle": bundle.path, "backend": state["backend"]}
    rows: dict[str, list[dict[str, float]]] = {"model": [], "empty": []}
    for kind in list(rows) * asked.processes:
        # A small shell between: the kernel hands a parent's peak memory to its child.
        shell = ("/bin/sh", "-c", '"$@"; exit $?', "mpo-edge")
        with child({**more, "kind": kind, "seconds": asked.seconds}, *shell) as process:
            answer = process.communicate()[0].decode("ascii", "replace")
        if process.returncode:
            raise EdgeError(FAILED, "Measuring failed (%d): " % process.returncode + shown(answer))
        rows[kind].append(json.loads(answer))
    mid = asked.processes // 2
    figures, floor = ({k: sorted(x[k] for x in own)[mid] for k in own[0]} for own in rows.values())
    for key in ("load_memory_bytes", "peak_memory_bytes"):
        figures[key] = max(0, figures[key] - floor[key])
    figures.update(threads=told["session"]["threads"], batch=told["batch"])
    here = {"schema": "mpo.edge-bench/1", "digest": bundle.digest, "processes": asked.processes}
    return {**here, "state": state, "device": device(), **figures}


# ------------------------------------------------------------------ the commands
def verify(bundle: Opened, asked: SimpleNamespace) -> dict[str, Any]:
    """Whether every byte of a bundle is what its manifest says (0, else 8), and who signed it."""
    bundle.verify()
    told = "none" if bundle.signature() is None else "not checked"
    if asked.key is not None:
        sys.path += [paths.dirname(paths.abspath(__file__))] * (__name__ == "__main__")  # after -I
        signature = importlib.import_module(".".join(filter(None, (__package__, "mpo_signature"))))
        try:
            signature.vouched(bundle, content(asked.key), own_folder("config", "versions.json"))
        except signature.SignatureError as error:
            raise refused("The signature does not hold: %s." % error) from error
        told = "valid"
    elif asked.require_signature:
        raise EdgeError(REFUSED, "A signature is required; here: %s." % told, "--key KEY.pub")
    facts = {key: bundle.manifest[key] for key in ("name", "version", "bundle_version")}
    return {"ok": True, "digest": bundle.digest, **facts, "signature": told}


def info(bundle: Opened, asked: SimpleNamespace) -> dict[str, Any]:
    """The manifest, and whether this device fits it (0, else 6)."""
    here, told, reasons = device(), bundle.manifest["runtime"], []
    for key in ("python", "onnxruntime"):
        have, need = ([int(n) for n in re.findall("[0-9]+", x[key])[:3]] for x in (here, told))
        if have < need:
            reasons.append("%s is %s; %s is the least." % (key, here[key], told[key]))
    if not set(bundle.providers) & set(here["providers"]):
        reasons.append("onnxruntime has none of %s." % ", ".join(bundle.providers))
    about = {"fits": not reasons, "reasons": reasons, "device": here, "digest": bundle.digest}
    return {**about, "manifest": bundle.manifest, "exit_code": UNFIT if reasons else OK}


def selftest(bundle: Opened, asked: SimpleNamespace) -> dict[str, Any]:
    """Known samples through everything that may run the model here (0, else 1)."""
    bundle.verify()
    state: dict[str, Any] = {}
    found = ways(bundle, ready(bundle), state, not asked.no_build)
    rows = [proved(bundle, one, calls_of(bundle, 8)) for one in found]
    ok = bool(rows) and all(row["ok"] for row in rows)
    told = {"ok": ok, "digest": bundle.digest, "backends": rows, "state": state}
    return {**told, "exit_code": OK if ok else FAILED if rows else UNFIT}


def run(bundle: Opened, asked: SimpleNamespace) -> dict[str, Any]:
    """The model on an .npz, or an .npy when it has one input; --output keeps the outputs."""
    path, tensors = ready(bundle), {one["name"]: one for one in bundle.manifest["inputs"]}
    arrays = read_arrays(content(asked.input), next(iter(tensors)))
    for name, one in tensors.items():
        array, axes = arrays.get(name), one["shape"]
        wrong = array is None or array.dtype != one["dtype"] or array.ndim != len(axes)
        if wrong or set(arrays) != set(tensors):
            asks = "%s %s" % (one["dtype"], "x".join(map(str, axes)))
            raise EdgeError(USAGE, "Input %s must be %s." % (shown(name), asks), "See: info")
    backend, state = start(bundle, path, not asked.no_build)
    outputs, told = backend.run(arrays), {}
    for name, array in outputs.items():
        values = array.tolist() if array.size <= 1000 and not asked.output else None
        told[name] = {"shape": list(array.shape), "values": values}
    if asked.output:
        store(asked.output, packed(outputs))
    return {"state": state, "outputs": told}


def build_engine(bundle: Opened, asked: SimpleNamespace) -> dict[str, Any]:
    """A TensorRT engine by the manifest's recipe, proved on a sample and kept (0, else 7)."""
    state: dict[str, Any] = {"fallbacks": []}
    if not bundle.manifest["engine"]:
        raise EdgeError(PARTIAL, "The manifest has no recipe for an engine.")
    engine = engine_of(bundle, laid_out(bundle), state, build=True)
    return {"state": {**state, "backend": engine.name, "about": engine.about}}


OPTIONS: dict[Any, dict[str, Any]] = {  # of each command, with their defaults; ...: there is none
    verify: {"--require-signature": False, "--key": None},
    info: {},
    selftest: {"--no-build": False},
    run: {"--no-build": False, "--input": ..., "--output": None},
    bench: {"--no-build": False, "--seconds": 1.0, "--processes": 3},
    build_engine: {},
}


def parsed(arguments: list[str]) -> SimpleNamespace:
    """What the command line asks for; argparse would cost every start some 5 ms."""
    if arguments[:1] == ["_child"]:  # of this program: JSON
        asked = SimpleNamespace(**json.loads(arguments[1]))
        asked.does = {"build_here": build_here, "measure": measure}[asked.does]
        return asked
    words = iter([part for one in arguments for part in one.split("=", one.startswith("--"))])
    try:
        does = {one.__name__.replace("_", "-"): one for one in OPTIONS}[next(words)]
        told, bundles = dict(OPTIONS[does]), [MYSELF] * INSIDE
        for word in words:
            kind = type(told[word]) if word.startswith("-") else None
            if kind:
                told[word] = kind is bool or (kind if kind in (int, float) else str)(next(words))
            else:
                bundles.append(word)
        if ... in told.values() or not 0 < len(bundles) < 2 + INSIDE:
            raise ValueError
    except (KeyError, ValueError, StopIteration):
        raise EdgeError(USAGE, "Unknown: %s" % shown(" ".join(arguments)), "See: --help") from None
    options = {key[2:].replace("-", "_"): value for key, value in told.items()}
    return SimpleNamespace(does=does, bundle=bundles[-1], **options)


def main(arguments: list[str] | None = None) -> int:
    """Do one command; its answer goes to stdout as one line of JSON, its exit code back."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(__doc__ or "")
        return OK
    try:
        asked = parsed(arguments)
        with Opened(asked.bundle) as bundle:
            answer = asked.does(bundle, asked)
        code = int(answer.pop("exit_code", OK))
    except (EdgeError, OSError, MemoryError, ImportError, ValueError, struct.error) as error:
        code = getattr(error, "code", FAILED)
        answer = {"error": str(error), "hint": getattr(error, "hint", ""), "exit_code": code}
    sys.stdout.write(json.dumps(answer, ensure_ascii=True) + "\n")
    return code


if __name__ == "__main__":
    gc.disable()  # looking through what a start makes, which stays, takes 8 ms
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy computes nothing here
    sys.exit(main())
