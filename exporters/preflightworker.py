"""The child of the pre-flight: looks at one ONNX file, or lets onnxruntime load it, under limits.

One line of JSON in, one object out:
    {"root": folder of the package mpo, "model": path, "job": "look" | "load", "bounds": {...},
     "memory_bytes": n, "seconds": n}
    {"verdict": "sound" | "malformed" | "refused", "why": "...", "facts": {...}}
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import re
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OUTPUT_BYTES = 2**20  # the answer; no file of the child's may be longer
LARGEST = 2**31 - 1  # bytes of a protobuf message
SHARES = 16  # how often the bytes of a weights file may be used, on average
PLAIN = re.compile(r"[^\x00-\x1f\x7f\\:*?\"<>|]+")
KINDS = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\x80", "a Python pickle"),
    (b"<", "HTML or XML"),
    (b"{", "JSON"),
    (b"\x7fELF", "a program"),
    (b"ONNX", "text"),
    (b"version https://git-lfs", "the pointer of a file that git-lfs has not fetched"),
)


def limit(memory_bytes: int, seconds: int) -> None:
    """Bound this process for good: memory, time, no core files, no files of more than an answer."""
    with contextlib.suppress(ImportError):
        import resource

        for what, most, hard in (
            # Twice what the parent allows: what onnxruntime cannot fold it leaves unfolded, and
            # would fold where there is more memory.
            (resource.RLIMIT_DATA, 2 * memory_bytes, 2 * memory_bytes),
            (resource.RLIMIT_CPU, seconds, seconds + 2),
            (resource.RLIMIT_FSIZE, OUTPUT_BYTES, OUTPUT_BYTES),
            (resource.RLIMIT_CORE, 0, 0),
        ):
            with contextlib.suppress(ValueError, OSError):  # a lower limit stands already
                resource.setrlimit(what, (most, hard))


def look_at(request: dict[str, Any]) -> dict[str, Any]:
    """Walk the file's bytes and check the files that it names."""
    from mpo.exporters import onnxrules, wire

    path = Path(request["model"])
    try:
        data = _mapped(path)
        try:
            seen = onnxrules.look(data, onnxrules.Bounds(**request["bounds"]))
        except wire.Malformed as error:
            kind = next((name for start, name in KINDS if data[: len(start)] == start), "")
            raise wire.Malformed(f"it looks like {kind}" if kind else str(error)) from error
        outside = {name: _beside(path.parent, name, at) for name, at in seen.external.items()}
    except wire.Malformed as error:
        return {"verdict": "malformed", "why": str(error)}
    except onnxrules.Refused as error:
        return {"verdict": "refused", "why": str(error)}
    facts = {
        "nodes": seen.nodes,
        "tensors": seen.tensors,
        "bytes": len(data) + sum(outside.values()),
        "external": sorted(outside),
    }
    return {"verdict": "sound", "facts": facts}


def _mapped(path: Path) -> Any:
    """The file's bytes; no FIFO or device is waited for."""
    from mpo.exporters.wire import Malformed

    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise Malformed("it is no regular file")
        if status.st_size > LARGEST:
            raise Malformed(f"a model file of {status.st_size} bytes, more than protobuf can hold")
        return mmap.mmap(handle, 0, access=mmap.ACCESS_READ) if status.st_size else b""
    finally:
        os.close(handle)


def _beside(folder: Path, name: str, ranges: Sequence[tuple[int, int]]) -> int:
    """The size of a weights file that a model names, when it is one and holds these ranges."""
    from mpo.exporters.onnxrules import Refused
    from mpo.exporters.wire import Malformed

    parts = name.split("/")
    if not PLAIN.fullmatch(name) or {"", ".."} & set(parts) or len(name) > 1024:
        raise Refused(f"it reads its weights from {name!r:.100}, outside of its own folder")
    place = folder
    for part in parts:
        place = place / part
        try:
            status = place.lstat()
        except OSError as error:
            raise Malformed(f"its weights file {name!r:.100} is not beside it") from error
        if stat.S_ISLNK(status.st_mode):
            raise Refused(f"its weights file {name!r:.100} is, or lies behind, a link")
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise Refused(f"its weights file {name!r:.100} is no plain file with one name")
    _covered(name, sorted(set(ranges)), status.st_size)
    if sum(length for _, length in ranges) > SHARES * status.st_size:
        raise Malformed(f"it takes more weights from {name!r:.100} than that holds")
    return status.st_size


def _covered(name: str, ranges: Sequence[tuple[int, int]], size: int) -> None:
    from mpo.exporters.wire import Malformed

    end = 0
    for offset, length in ranges:
        if length and offset < end:
            raise Malformed(f"two tensors share a part of {name!r:.100}")
        end = max(end, offset + length)
    if end > size:
        raise Malformed(f"it takes bytes up to {end} from {name!r:.100}, which has {size}")


def load(request: dict[str, Any]) -> dict[str, Any]:
    """Open a session as measuring will; what onnxruntime folds at load, it folds here first."""
    import onnxruntime

    from mpo.exporters.runtimefaults import RUNTIME_ERRORS, first_line

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        onnxruntime.InferenceSession(request["model"], options, providers=["CPUExecutionProvider"])
    except (*RUNTIME_ERRORS, MemoryError, RuntimeError) as error:
        told = first_line(error)
        if isinstance(error, MemoryError) or "alloc" in told.lower():
            return {"verdict": "malformed", "why": f"loading it takes too much memory: {told:.200}"}
        # It may be meant for another device, or runtime: measuring itself says so.
        return {"verdict": "sound", "facts": {"load_error": told}}
    return {"verdict": "sound", "facts": {}}


def main() -> None:
    """Answer the request; whatever a library prints on stdout goes to stderr."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = json.loads(sys.stdin.readline())
    limit(request["memory_bytes"], request["seconds"])
    sys.path.insert(0, request["root"])
    found = {"look": look_at, "load": load}[request["job"]](request)
    answer.write(json.dumps(found) + "\n")
    answer.close()


if __name__ == "__main__":
    main()
