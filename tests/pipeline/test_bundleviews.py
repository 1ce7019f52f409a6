"""Other layouts of a bundle's model: what their own readers ask for, and nothing more."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import onnxruntime
import pytest

from mpo.errors import RefusedError, UsageError
from mpo.pipeline.bundle.views import triton_config, write_view
from mpo.records import BundleTensor
from tests.bundle.small import manifest, model, parts, write_small


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The small bundle."""
    write_small(tmp_path / "small.mpo")
    return tmp_path / "small.mpo"


def test_the_triton_view_is_a_model_repository(small: Path, tmp_path: Path) -> None:
    write_view(small, tmp_path / "triton", "triton")
    home = tmp_path / "triton" / "small"
    assert (home / "1" / "model.onnx").read_bytes() == model()
    config = (home / "config.pbtxt").read_text()
    assert 'name: "small"' in config
    assert "max_batch_size: 32" in config
    assert 'input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]' in config
    assert 'output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] } ]' in config


def test_a_model_of_a_fixed_batch_keeps_all_its_axes_for_triton() -> None:
    told = manifest(parts(), inputs=(BundleTensor(name="x", dtype="int64", shape=(1, 2)),))
    config = triton_config(told)
    assert "max_batch_size: 0" in config
    assert "TYPE_INT64 dims: [ 1, 2 ]" in config
    assert "dynamic_batching" not in config


def test_a_name_cannot_break_out_of_triton_s_text() -> None:
    name = 'x" } ] parameters { key: "a'
    told = manifest(parts(), inputs=(BundleTensor(name=name, dtype="float32", shape=("n", 2)),))
    (line,) = [row for row in triton_config(told).splitlines() if row.startswith("input")]
    assert re.search(r'name: "(?:[^"\\]|\\[0-7]{3})*" data_type', line)
    assert line.count('"') == 2


def test_a_type_that_triton_has_not_is_refused() -> None:
    told = manifest(parts(), inputs=(BundleTensor(name="x", dtype="complex64", shape=("n", 2)),))
    with pytest.raises(UsageError, match="complex64"):
        triton_config(told)


def test_the_oci_view_is_addressed_by_its_content(small: Path, tmp_path: Path) -> None:
    write_view(small, tmp_path / "oci", "oci")
    folder = tmp_path / "oci"
    assert json.loads((folder / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    for blob in (folder / "blobs" / "sha256").iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    (top,) = json.loads((folder / "index.json").read_text())["manifests"]
    image = json.loads((folder / "blobs" / "sha256" / top["digest"].split(":")[1]).read_text())
    assert image["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    kinds = {
        layer["annotations"]["org.cncf.model.filepath"]: layer["mediaType"]
        for layer in image["layers"]
    }
    assert kinds["model/model.onnx"] == "application/vnd.cncf.model.weight.v1.raw"
    assert kinds["runtime/mpo_edge.py"] == "application/vnd.cncf.model.code.v1.raw"
    assert kinds["bundle.json"] == "application/vnd.cncf.model.weight.config.v1.raw"
    config = json.loads(
        (folder / "blobs" / "sha256" / image["config"]["digest"].split(":")[1]).read_text()
    )
    assert config["modelfs"]["diffIds"] == [layer["digest"] for layer in image["layers"]]


def test_the_onnx_runtime_view_opens_in_onnx_runtime(small: Path, tmp_path: Path) -> None:
    write_view(small, tmp_path / "ort", "ort")
    top = json.loads((tmp_path / "ort" / "manifest.json").read_text())
    home = tmp_path / "ort" / top["components"]["small"]
    component = json.loads((home / "component.json").read_text())
    (variant,) = component["variants"].values()
    path = home / variant["variant_directory"] / variant["executor_info"]["ort"]["model_file"]
    onnxruntime.InferenceSession(str(path), providers=[variant["ep"]])


@pytest.mark.parametrize("view", ["triton", "oci", "ort"])
def test_a_view_is_the_same_bytes_each_time_and_is_never_written_over(
    view: str, small: Path, tmp_path: Path
) -> None:
    seen = []
    for name in ("a", "b"):
        write_view(small, tmp_path / name, view)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        inside = [str(path.relative_to(tmp_path / name)) for path in files]
        seen.append(list(zip(inside, [path.read_bytes() for path in files], strict=True)))
    assert seen[0] == seen[1]
    with pytest.raises(UsageError, match="exists"):
        write_view(small, tmp_path / "a", view)


def test_no_view_is_made_of_a_bundle_that_is_not_whole(small: Path, tmp_path: Path) -> None:
    raw = bytearray(small.read_bytes())
    raw[-200] ^= 1
    small.write_bytes(bytes(raw))
    with pytest.raises(RefusedError):
        write_view(small, tmp_path / "view", "triton")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.mpo"]
