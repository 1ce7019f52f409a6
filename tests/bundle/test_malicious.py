"""Archives and manifests of strangers: each is refused with its exit code, quickly, in little
memory, and nothing is written."""

from __future__ import annotations

import io
import json
import os
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpo.bundle import mpo_edge
from mpo.bundle.reader import open_bundle
from mpo.errors import RefusedError, UsageError
from tests.bundle.small import entries, lean, packed, repacked

SECONDS, BYTES = 5.0, 16 << 20
Made = Callable[[Path], bytes]


def zipped(path: Path, compression: int, size: int) -> bytes:
    """The members by Python's own zip writer, plan.json blown up to `size` zeros."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in entries(path):
            archive.writestr(name, bytes(size) if name == "plan.json" else content)
    return file.getvalue()


def renamed(old: str, new: str) -> Made:
    """A member under another name, in the place that the order of names gives it."""

    def make(path: Path) -> bytes:
        rows = [(new if name == old else name, content) for name, content in entries(path)]
        return packed([rows[0], *sorted(rows[1:])])

    return make


def added(*names: str) -> Made:
    """More members, which the manifest does not name."""

    def make(path: Path) -> bytes:
        rows = entries(path)
        return packed([rows[0], *sorted([*rows[1:], *((name, b"x") for name in names)])])

    return make


def patched(name: str, place: int, value: bytes, *, both: bool = False) -> Made:
    """Bytes of a member's central header changed; of its local header too, two bytes earlier."""

    def local(this: str, head: bytes) -> bytes:
        at = place - 2
        return head[:at] + value + head[at + len(value) :] if both and this == name else head

    def central(this: str, head: bytes) -> bytes:
        return head[:place] + value + head[place + len(value) :] if this == name else head

    return lambda path: packed(entries(path), local, central)


def ending(place: int, value: bytes) -> Made:
    """Bytes of the end record changed."""

    def end(head: bytes) -> bytes:
        return head[:place] + value + head[place + len(value) :]

    return lambda path: packed(entries(path), end=end)


def extra_field(path: Path) -> bytes:
    """A field after a member's name, with its length told in both headers."""

    def longer(at: int) -> Callable[[str, bytes], bytes]:
        def change(name: str, head: bytes) -> bytes:
            told = head[:at] + struct.pack("<H", 4) + head[at + 2 :]
            return told + b"up\0\0" if name == "plan.json" else head

        return change

    return packed(entries(path), longer(28), longer(30))


def zip64(path: Path) -> bytes:
    """A member whose true sizes stand in a zip64 field."""

    def huge(sizes: int, at: int) -> Callable[[str, bytes], bytes]:
        def change(name: str, head: bytes) -> bytes:
            if name != "plan.json":
                return head
            told = head[:sizes] + b"\xff" * 8 + head[sizes + 8 :]
            told = told[:at] + struct.pack("<H", 20) + told[at + 2 :]
            return told + struct.pack("<HHQQ", 1, 16, 3, 3)

        return change

    return packed(entries(path), huge(18, 28), huge(20, 30))


def zip64_end(path: Path) -> bytes:
    """A zip64 end record and its locator before the end record."""
    raw = path.read_bytes()
    more = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 6, 6, 1, 1)
    more += struct.pack("<4sLQL", b"PK\6\7", 0, len(raw) - 22, 1)
    return raw[:-22] + more + raw[-22:]


def overlapping(path: Path) -> bytes:
    """Two directory entries that share one member's bytes."""
    return packed(entries(path), central=lambda name, head: head[:42] + bytes(4) + head[46:])


def removed(name: str) -> Made:
    """One member gone."""
    return lambda path: packed([row for row in entries(path) if row[0] != name])


def swapped(path: Path) -> bytes:
    """Two members in the other order."""
    rows = entries(path)
    return packed([rows[0], rows[2], rows[1], *rows[3:]])


def manifest_last(path: Path) -> bytes:
    """The manifest behind everything else."""
    rows = entries(path)
    return packed([*rows[1:], rows[0]])


def doubled(path: Path) -> bytes:
    """One name twice, each with its own content."""
    rows = entries(path)
    return packed([*rows[:3], rows[2], *rows[3:]])


def told(change: Callable[[dict[str, Any]], object]) -> Made:
    """The manifest changed and spelled as it must be."""
    return lambda path: repacked(path, change)


def written(change: Callable[[str], str | bytes]) -> Made:
    """The manifest's text changed."""

    def make(path: Path) -> bytes:
        rows = entries(path)
        text = change(rows[0][1].decode())
        raw = text if isinstance(text, bytes) else text.encode()
        return packed([(mpo_edge.MANIFEST, raw), *rows[1:]])

    return make


def target(**facts: Any) -> dict[str, Any]:
    """A target that claims too much."""
    plain: dict[str, Any] = {"name": "d", "status": "expected"}
    return {**plain, **facts}


FIGURES = {"latency_p50_ms": 1.0, "latency_p90_ms": 1.0, "peak_memory_bytes": 1}
CLAIMS = {
    "a tested target without evidence": target(status="tested", **FIGURES),
    "evidence that is no member": target(status="tested", evidence="no.json", **FIGURES),
    "an expected target with figures": target(**FIGURES),
}
ARCHIVES: dict[str, Made] = {
    "an empty file": lambda path: b"",
    "a page of HTML": lambda path: b"<!DOCTYPE html>" + b" " * 4000,
    "a file cut short": lambda path: path.read_bytes()[:-200],
    "a file cut in the middle": lambda path: path.read_bytes()[:500],
    "a directory cut out": lambda path: path.read_bytes()[:900] + path.read_bytes()[-22:],
    "bytes before the first member": lambda path: packed(entries(path), before=b"#!/bin/sh\n"),
    "bytes after the end": lambda path: path.read_bytes() + b"\0",
    "bytes between members": lambda path: packed(entries(path), between=b"\0"),
    "two archives in one file": lambda path: path.read_bytes() * 2,
    "an archive comment": lambda path: path.read_bytes()[:-2] + b"\3\0abc",
    "a longer count of members": ending(10, b"\7\0"),
    "a count of no members": ending(8, bytes(4)),
    "several disks": ending(4, b"\1\0"),
    "a directory of four gigabytes": ending(12, b"\xff\xff\xff\xff"),
    "a directory beyond the end": ending(16, b"\xff\xff\xff\x7f"),
    "a deflated bomb": lambda path: zipped(path, zipfile.ZIP_DEFLATED, 100 << 20),
    "an LZMA member": lambda path: zipped(path, zipfile.ZIP_LZMA, 4000),
    "Python's own zip with times and rights": lambda path: zipped(path, zipfile.ZIP_STORED, 3),
    "an encrypted member": patched("plan.json", 8, b"\1\0", both=True),
    "sizes in a data descriptor": patched("plan.json", 8, b"\10\0", both=True),
    "another time": patched("plan.json", 12, b"\1\0", both=True),
    "a symbolic link": patched("plan.json", 38, struct.pack("<L", 0o120777 << 16)),
    "an executable": patched("plan.json", 38, struct.pack("<L", 0o100755 << 16)),
    "a member's comment": patched("plan.json", 32, b"\4\0"),
    "a length that only the directory tells": patched("plan.json", 24, b"\377\0\0\0"),
    "a member longer than the file": patched("plan.json", 20, b"\377\377\377\177" * 2, both=True),
    "an extra field": extra_field,
    "a zip64 field": zip64,
    "a zip64 end": zip64_end,
    "overlapping members": overlapping,
    "another name in the local header": lambda path: packed(
        entries(path), lambda name, head: head.replace(b"plan.json", b"plam.json")
    ),
    "a checksum that is wrong in both headers": lambda path: packed(
        entries(path),
        lambda name, head: head[:14] + b"abcd" + head[18:] if name == "plan.json" else head,
        lambda name, head: head[:16] + b"abcd" + head[20:] if name == "plan.json" else head,
    ),
    "a path to the parent": renamed("plan.json", "../plan.json"),
    "a path to the parent inside": renamed("plan.json", "model/../../plan.json"),
    "an absolute path": renamed("plan.json", "/tmp/plan.json"),
    "a drive": renamed("plan.json", "C:/plan.json"),
    "a backslash": renamed("plan.json", "model\\plan.json"),
    "a hidden file": renamed("plan.json", ".bashrc"),
    "a leading dash": renamed("plan.json", "-rf"),
    "an empty folder name": renamed("plan.json", "model//plan.json"),
    "a folder of its own": added("model/"),
    "a name of Windows' devices": renamed("plan.json", "NUL.json"),
    "a name that ends with a dot": renamed("plan.json", "plan."),
    "an over-long name": renamed("plan.json", "p" * 121),
    "a deep path": renamed("plan.json", "a/b/c/d/e"),
    "a name beyond ASCII": renamed("plan.json", "pl\u0430n.json"),
    "terminal codes in a name": renamed("plan.json", "plan\x1b[2J.json"),
    "a zero byte in a name": renamed("plan.json", "plan\0.json"),
    "a line end in a name": renamed("plan.json", "plan\n::error::x"),
    "an empty name": renamed("plan.json", ""),
    "one name twice": doubled,
    "two manifests": added(mpo_edge.MANIFEST),
    "names that differ in case": added("Plan.json"),
    "folders that differ in case": added("Model/x"),
    "a file that is a folder too": added("plan.json/x"),
    "members in another order": swapped,
    "the manifest at the end": manifest_last,
    "too many members": added(*(f"z{place:03}" for place in range(256))),
    "an added member": added("readme.txt"),
    "a removed member": removed("model/model.onnx"),
    "no manifest": removed(mpo_edge.MANIFEST),
    "a renamed member": renamed("plan.json", "plane.json"),
}
MANIFESTS: dict[str, Made] = {
    "no JSON": written(lambda text: "{"),
    "no text": written(lambda text: b"\xff\xfe" + text.encode("utf-16-le")),
    "a list": written(lambda text: "[]\n"),
    "a hundred thousand brackets": written(lambda text: "[" * 100_000),
    "a hundred thousand objects": written(lambda text: '{"a":' * 100_000),
    "a number of a million digits": written(lambda text: text.replace(": 17", ": " + "1" * 10**6)),
    "NaN": written(lambda text: text.replace('"macs": 6', '"macs": NaN')),
    "infinity": written(lambda text: text.replace('"atol": 1e-05', '"atol": Infinity')),
    "a number beyond all numbers": written(
        lambda text: text.replace('"atol": 1e-05', '"atol": 1e999')
    ),
    "a key twice": written(lambda text: text.replace('"macs": 6', '"macs": 7,\n  "macs": 6')),
    "another spelling": written(lambda text: json.dumps(json.loads(text))),
    "a byte order mark": written(lambda text: "\ufeff" + text),
    "over a megabyte": written(lambda text: text + " " * (1 << 20)),
    "a future schema": told(lambda told: told.update(schema="mpo.bundle/2")),
    "a schema that is a list": told(lambda told: told.update(schema=["mpo.bundle/1"])),
    "an unknown key": told(lambda told: told.update(run="rm -rf /")),
    "a missing key": told(lambda told: told.pop("license")),
    "another type": told(lambda told: told.update(bundle_version="1")),
    "true for one": told(lambda told: told.update(bundle_version=True)),
    "a version below one": told(lambda told: told.update(bundle_version=0)),
    "a name with a slash": told(lambda told: told.update(name="../small")),
    "a lie about a size": told(lambda told: told["files"]["plan.json"].update(size=4)),
    "a lie about a hash": told(lambda told: told["files"]["plan.json"].update(sha256="0" * 64)),
    "an unknown role": told(lambda told: told["files"]["plan.json"].update(role="engine")),
    "a file that is not there": told(
        lambda told: told["files"].update(x=told["files"]["plan.json"])
    ),
    "a model that is no member": told(lambda told: told["model"].update(path="/etc/passwd")),
    "a model of another role": told(lambda told: told["model"].update(path="plan.json")),
    "weights that are no weights": told(lambda told: told["model"].update(weights=["plan.json"])),
    "a lie about the model's bytes": told(lambda told: told["model"].update(bytes=1)),
    "a session option that writes files": told(
        lambda told: told["runtime"]["session"].update(optimized_model_filepath="/tmp/x")
    ),
    "an unknown provider": told(
        lambda told: told["runtime"].update(providers=["QNNExecutionProvider"])
    ),
    "no provider": told(lambda told: told["runtime"].update(providers=[])),
    "a device that is a path": told(
        lambda told: told["runtime"]["session"].update(device="cpu/../x")
    ),
    "an engine flag for host code": told(
        lambda told: told.update(engine={"engine_host_code_allowed": True})
    ),
    "nine samples": told(lambda told: told["selftest"].update(samples=9)),
    "a negative tolerance": told(lambda told: told["selftest"]["runtime"].update(atol=-1.0)),
    "text without end": told(lambda told: told.update(license="x" * 2001)),
}


def assert_refused(path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The device's program and mpo both refuse it, in time and memory, and leave nothing."""
    before = sorted(folder.rglob("*"))
    start = time.perf_counter()
    tracemalloc.start()
    try:
        code = mpo_edge.main(["verify", str(path)])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    answer = json.loads(capsys.readouterr().out)
    assert code in (mpo_edge.REFUSED, mpo_edge.USAGE), answer
    assert answer["exit_code"] == code
    assert answer["error"].isprintable()
    assert "\x1b" not in answer["error"]
    with pytest.raises((RefusedError, UsageError)), open_bundle(path) as bundle:
        bundle.verify()
    assert time.perf_counter() - start < SECONDS
    assert peak < BYTES
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("case", [*ARCHIVES, *MANIFESTS])
def test_a_bundle_is_refused_that_has(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lean(tmp_path / "good.mpo")
    raw = (ARCHIVES | MANIFESTS)[case](tmp_path / "good.mpo")
    assert raw != (tmp_path / "good.mpo").read_bytes()
    (tmp_path / "bad.mpo").write_bytes(raw)
    assert_refused(tmp_path / "bad.mpo", tmp_path, capsys)


@pytest.mark.parametrize("case", CLAIMS)
def test_mpo_refuses_what_a_manifest_claims_of_devices(case: str, tmp_path: Path) -> None:
    lean(tmp_path / "good.mpo")
    raw = repacked(tmp_path / "good.mpo", lambda told: told.update(targets=[CLAIMS[case]]))
    (tmp_path / "bad.mpo").write_bytes(raw)
    with pytest.raises(RefusedError, match="target"), open_bundle(tmp_path / "bad.mpo"):
        pass


def test_a_folder_is_no_bundle(tmp_path: Path) -> None:
    assert mpo_edge.main(["verify", str(tmp_path)]) == mpo_edge.USAGE


def test_a_pipe_in_the_place_of_a_bundle_is_no_bundle(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mpo")
    assert mpo_edge.main(["verify", str(tmp_path / "pipe.mpo")]) == mpo_edge.USAGE


def test_a_missing_bundle_is_a_usage_error(tmp_path: Path) -> None:
    assert mpo_edge.main(["verify", str(tmp_path / "none.mpo")]) == mpo_edge.USAGE
