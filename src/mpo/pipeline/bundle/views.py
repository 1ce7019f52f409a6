"""Other layouts of a bundle's model, for those who serve models: made from the bundle on request.

A view holds what its own reader asks for and nothing else; the bundle stays what is verified.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mpo.bundle import mpo_edge
from mpo.bundle.reader import OpenBundle, open_bundle
from mpo.errors import UsageError
from mpo.files import writable
from mpo.records import Bundle, BundleTensor

TRITON = {
    "float32": "FP32", "float16": "FP16", "float64": "FP64", "bool": "BOOL", "int8": "INT8",
    "int16": "INT16", "int32": "INT32", "int64": "INT64", "uint8": "UINT8", "uint16": "UINT16",
    "uint32": "UINT32", "uint64": "UINT64", "bfloat16": "BF16",
}  # fmt: skip
LARGEST_BATCH = 32
MODEL = "application/vnd.cncf.model"
KINDS = {"model": "weight", "weights": "weight", "runtime": "code", "selftest": "dataset"}


def write_view(bundle: Path, folder: Path, view: str) -> None:
    """Write a view of a bundle into a new folder, whole or not at all.

    Args:
        view: "triton", a model repository; "oci", an image layout by the ModelPack specification;
            "ort", an ONNX Runtime model package.

    Raises:
        UsageError: the folder is there already, or cannot be written; a type that Triton has not.
        RefusedError: the bundle is not whole.
    """
    makers = {"triton": _triton, "oci": _oci, "ort": _ort}
    check_folders([folder])
    with writable(folder), open_bundle(bundle) as opened:
        opened.verify()
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".mpo-view-") as name:
            made = Path(name) / "view"
            made.mkdir()
            makers[view](opened, made)
            made.chmod(0o755)
            made.replace(folder)


def check_folders(folders: Sequence[Path]) -> None:
    """Refuse places for views before anything is done.

    Raises:
        UsageError: something is there already, or the folder around it is not there.
    """
    for folder in folders:
        if folder.exists() or not folder.parent.is_dir():
            why = "exists" if folder.exists() else "lies in a folder that is not there"
            raise UsageError(f"{folder} {why}.", hint="Name a folder that is not there yet.")


def _copy(bundle: OpenBundle, member: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.writelines(bundle.chunks(member))


def _model_files(bundle: Bundle) -> list[str]:
    return [bundle.model.path, *bundle.model.weights]


def _triton(bundle: OpenBundle, folder: Path) -> None:
    """NAME/config.pbtxt and NAME/1/model.onnx."""
    manifest = bundle.manifest
    home = folder / manifest.name
    for member in _model_files(manifest):
        _copy(bundle, member, home / "1" / Path(member).name)
    (home / "config.pbtxt").write_text(triton_config(manifest), encoding="utf-8")


def triton_config(manifest: Bundle) -> str:
    """Triton's config.pbtxt (protobuf text of inference.ModelConfig, model_config.proto).

    Raises:
        UsageError: a type of the model that Triton has not.
    """
    tensors = (*manifest.inputs, *manifest.outputs)
    batched = all(one.shape and isinstance(one.shape[0], str) for one in tensors)
    kind = "KIND_CPU" if manifest.runtime.session.device == "cpu" else "KIND_GPU"
    threads = str(manifest.runtime.session.threads)
    lines = [
        f"name: {_quoted(manifest.name)}",
        'backend: "onnxruntime"',
        'default_model_filename: "model.onnx"',
        f"max_batch_size: {max(LARGEST_BATCH, manifest.runtime.batch) if batched else 0}",
        *(_tensor("input", one, batched) for one in manifest.inputs),
        *(_tensor("output", one, batched) for one in manifest.outputs),
        f"instance_group [ {{ count: 1 kind: {kind} }} ]",
        *(_parameter(key, value) for key, value in (("intra_op_thread_count", threads),)),
    ]
    if batched:
        lines.append("dynamic_batching { }")
    return "\n".join(lines) + "\n"


def _tensor(field: str, one: BundleTensor, batched: bool) -> str:
    if one.dtype not in TRITON:
        raise UsageError(f"Triton has no type for {one.name!r}, which is {one.dtype}.")
    axes = one.shape[1:] if batched else one.shape
    sizes = ", ".join(str(axis if isinstance(axis, int) else -1) for axis in axes)
    # A tensor without axes beside the batch's is one number a sample.
    dims = f"dims: [ {sizes} ]" if axes else "dims: [ 1 ] reshape: { shape: [ ] }"
    return f"{field} [ {{ name: {_quoted(one.name)} data_type: TYPE_{TRITON[one.dtype]} {dims} }} ]"


def _parameter(key: str, value: str) -> str:
    return f"parameters {{ key: {_quoted(key)} value: {{ string_value: {_quoted(value)} }} }}"


def _quoted(text: str) -> str:
    """A protobuf text string: every byte beyond plain ASCII escaped."""
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}"
             for byte in text.encode("utf-8"))  # fmt: skip
    return f'"{"".join(plain)}"'


def _oci(bundle: OpenBundle, folder: Path) -> None:
    """An OCI image layout whose layers are the bundle's files as they are (ModelPack 0.0.7)."""
    manifest = bundle.manifest
    layers = []
    for name, entry in {mpo_edge.MANIFEST: None, **manifest.files}.items():
        kind = KINDS.get(entry.role, "doc") if entry else "weight.config"
        media = f"{MODEL}.{kind}.v1.raw"
        chunks = bundle.chunks(name) if entry else iter([bundle.manifest_bytes()])
        layers.append(_blob(folder, chunks, media) | _titled(name))
    figures = {
        "modelfs": {"type": "layers", "diffIds": [layer["digest"] for layer in layers]},
        "config": {"format": "onnx", "precision": manifest.model.precision},
        "descriptor": {"name": manifest.name, "version": manifest.version,
                       "licenses": [manifest.license]},
    }  # fmt: skip
    config = _blob(folder, iter([_json(figures)]), f"{MODEL}.config.v1+json")
    image = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": f"{MODEL}.manifest.v1+json",
        "config": config,
        "layers": layers,
    }
    top = _blob(folder, iter([_json(image)]), str(image["mediaType"]))
    top["annotations"] = {"org.opencontainers.image.ref.name": manifest.version}
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json"}
    (folder / "index.json").write_bytes(_json({**index, "manifests": [top]}))
    (folder / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))


def _titled(name: str) -> dict[str, Any]:
    keys = ("org.cncf.model.filepath", "org.opencontainers.image.title")
    return {"annotations": dict.fromkeys(keys, name)}


def _blob(folder: Path, chunks: Iterator[bytes], media: str) -> dict[str, Any]:
    """Store content by its digest; its descriptor."""
    place = folder / "blobs" / "sha256"
    place.mkdir(parents=True, exist_ok=True)
    digest, size, draft = hashlib.sha256(), 0, place / "draft"
    with draft.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    draft.replace(place / digest.hexdigest())
    return {"mediaType": media, "digest": f"sha256:{digest.hexdigest()}", "size": size}


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"


def _ort(bundle: OpenBundle, folder: Path) -> None:
    """manifest.json, NAME/component.json, and the model in one variant a provider."""
    manifest = bundle.manifest
    place = folder / manifest.name
    variants = {}
    for provider in manifest.runtime.providers:
        name = "cpu" if provider.startswith("CPU") else "gpu"
        for member in _model_files(manifest):
            _copy(bundle, member, place / name / Path(member).name)
        variants[name] = {
            "variant_directory": name,
            "ep": provider,
            "device": name,
            "executor_info": {
                "ort": {
                    "model_file": Path(manifest.model.path).name,
                    "session_options": {
                        "session.intra_op_thread_count": str(manifest.runtime.session.threads)
                    },
                }
            },
        }
    component = {"component_name": manifest.name, "variants": variants}
    top = {
        "schema_version": "1.0",
        "package_name": manifest.name,
        "package_version": manifest.version,
        "layout": "portable",
        "components": {manifest.name: manifest.name},
        "additional_metadata": {"mpo.bundle.digest": bundle.digest},
    }
    (place / "component.json").write_bytes(_json(component))
    (folder / "manifest.json").write_bytes(_json(top))
