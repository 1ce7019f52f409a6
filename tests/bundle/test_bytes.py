"""Every byte of a bundle is accounted for, and the same content gives the same bytes."""

from __future__ import annotations

import functools
import io
import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from mpo.bundle import mpo_edge
from mpo.bundle.reader import open_bundle
from mpo.bundle.writer import Part, amend_bundle, sign_bundle, write_bundle
from mpo.errors import RefusedError, UsageError
from mpo.files import sha256
from mpo.records import Bundle
from tests.bundle.small import lean, manifest, parts, write_small

REBUILD = """
import sys
from pathlib import Path
from typing import Any
sys.path.insert(0, sys.argv[1])
from tests.bundle.small import write_small
write_small(Path("small.mpo"))
"""


def test_a_bundle_verifies_and_its_manifest_comes_back(tmp_path: Path) -> None:
    digest = write_small(tmp_path / "small.mpo")
    with open_bundle(tmp_path / "small.mpo") as bundle:
        bundle.verify()
        assert bundle.digest == digest
        assert bundle.manifest == manifest(parts())
        assert bundle.read("plan.json") == b"{}\n"
        assert bundle.signature() is None


@pytest.fixture
def _parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest of the same bytes is parsed once: most of the time of thousands of openings."""
    monkeypatch.setattr(mpo_edge, "parse_manifest", functools.lru_cache(4)(mpo_edge.parse_manifest))


@pytest.mark.usefixtures("_parsed_once")
def test_a_flip_of_any_byte_is_detected(tmp_path: Path) -> None:
    """One bit of each; benchmarks/bundle_flips.py tries all values of all bytes."""
    lean(tmp_path / "lean.mpo")
    raw, dice = bytearray((tmp_path / "lean.mpo").read_bytes()), random.Random(0)
    passed = []
    for place in range(len(raw)):
        flip = 1 << dice.randrange(8)
        raw[place] ^= flip
        if found_whole(bytes(raw)):
            passed.append(place)
        raw[place] ^= flip
    assert not passed
    assert found_whole(bytes(raw))


def found_whole(raw: bytes) -> bool:
    """Whether the reader takes these bytes for a bundle."""
    bundle: Any = mpo_edge.Opened.__new__(mpo_edge.Opened)
    bundle.file = io.BytesIO(raw)
    try:
        bundle.members = {one.name: one for one in mpo_edge.read_members(bundle.file)}
        told = b"".join(bundle.chunks(mpo_edge.MANIFEST, known=False))
        bundle.manifest = mpo_edge.parse_manifest(told)
        bundle._agree()
        bundle.verify()
    except mpo_edge.EdgeError:
        return False
    return True


@pytest.mark.usefixtures("_parsed_once")
def test_a_cut_at_any_byte_is_detected(tmp_path: Path) -> None:
    lean(tmp_path / "lean.mpo")
    raw = (tmp_path / "lean.mpo").read_bytes()
    assert not [end for end in range(len(raw)) if found_whole(raw[:end])]


def test_a_rebuild_elsewhere_gives_the_same_bytes(tmp_path: Path, root: Path) -> None:
    """In another folder, locale, time zone, and with other rights of new files."""
    write_small(tmp_path / "here.mpo")
    folder = tmp_path / "another folder"
    folder.mkdir()
    locale = {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8", "TZ": "Asia/Kolkata"}
    environment = {**os.environ, **locale, "PYTHONHASHSEED": "7"}
    command = 'umask 077; exec "$@"'
    line = ["/bin/sh", "-c", command, "sh", sys.executable, "-c", REBUILD, str(root)]
    subprocess.run(line, cwd=folder, env=environment, check=True, timeout=60)
    assert (folder / "small.mpo").read_bytes() == (tmp_path / "here.mpo").read_bytes()


def test_the_order_of_the_parts_does_not_matter(tmp_path: Path) -> None:
    files = parts()
    write_bundle(tmp_path / "a.mpo", manifest(files), files)
    other = dict(reversed(files.items()))
    write_bundle(tmp_path / "b.mpo", manifest(other), other)
    assert sha256(tmp_path / "a.mpo") == sha256(tmp_path / "b.mpo")


def test_any_zip_program_reads_a_bundle(tmp_path: Path) -> None:
    write_small(tmp_path / "small.mpo")
    with zipfile.ZipFile(tmp_path / "small.mpo") as archive:
        assert archive.testzip() is None
        assert archive.namelist()[0] == "bundle.json"
        assert archive.read("model/model.onnx") == parts()["model/model.onnx"].content


def test_a_signature_is_the_last_member_and_changes_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "small.mpo"
    digest = write_small(path)
    plain = path.read_bytes()
    assert sign_bundle(path, path, b"signed") == digest
    with open_bundle(path) as bundle:
        bundle.verify()
        assert bundle.signature() == b"signed"
        assert list(bundle.raw.members)[-1] == "bundle.sig"
    assert sign_bundle(path, path, b"again") == digest
    with open_bundle(path) as bundle:
        assert bundle.signature() == b"again"
    assert plain[:1000] == path.read_bytes()[:1000]


def test_amending_a_bundle_drops_its_signature(tmp_path: Path) -> None:
    path = tmp_path / "small.mpo"
    write_small(path)
    sign_bundle(path, path, b"signed")

    def change(told: Bundle) -> Bundle:
        return told.model_copy(update={"bundle_version": 2})

    amend_bundle(path, path, change, {"sbom.cdx.json": Part(b"{}", "sbom")})
    with open_bundle(path) as bundle:
        bundle.verify()
        assert bundle.manifest.bundle_version == 2
        assert bundle.read("sbom.cdx.json") == b"{}"
        assert bundle.signature() is None


def test_a_manifest_of_other_files_is_not_written(tmp_path: Path) -> None:
    files = parts()
    told = manifest(files)
    files["plan.json"] = Part(b"[]\n", "plan")
    with pytest.raises(RefusedError, match=r"plan\.json"):
        write_bundle(tmp_path / "bad.mpo", told, files)
    assert not list(tmp_path.iterdir())


def test_a_name_that_no_bundle_may_have_is_not_written(tmp_path: Path) -> None:
    files = {**parts(), "../plan.json": Part(b"{}", "plan")}
    with pytest.raises(RefusedError, match="not allowed"):
        write_bundle(tmp_path / "bad.mpo", manifest(files), files)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Cannot write"):
        write_small(tmp_path / "none" / "small.mpo")


def test_memory_stays_small_for_large_weights(tmp_path: Path) -> None:
    """A bundle is streamed: its largest member need not fit into memory."""
    import tracemalloc

    big = tmp_path / "big.bin"
    with big.open("wb") as file:
        file.truncate(64 << 20)
    tracemalloc.start()
    files = {**parts(), "zeros.bin": Part(big, "doc")}
    write_bundle(tmp_path / "big.mpo", manifest(files), files)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 << 20
