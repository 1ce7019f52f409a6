"""A small bundle, and archives that are none: what the tests of reading and writing start from."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mpo.bundle import mpo_edge
from mpo.bundle.writer import STARTER, STARTER_NAME, Part, listed, write_bundle
from mpo.records import (
    Bundle,
    BundleLineage,
    BundleModel,
    BundleRuntime,
    BundleSelftest,
    BundleTensor,
    BundleTool,
    SessionOptions,
    Tolerance,
)

WEIGHT = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, -0.5]], np.float32)
SAMPLES = np.array([[1.0, 2.0], [3.0, -1.0]], np.float32)


def model() -> bytes:
    """y = x @ WEIGHT, for any number of rows."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    raw: bytes = made.SerializeToString(deterministic=True)
    return raw


def npz(**arrays: Any) -> bytes:
    """Arrays as the bytes of an .npz."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def parts() -> dict[str, Part]:
    """The files of the small bundle."""
    return {
        STARTER_NAME: Part(STARTER, "runtime"),
        "model/model.onnx": Part(model(), "model"),
        "plan.json": Part(b"{}\n", "plan"),
        "report.json": Part(b'{"a": 1}\n', "report"),
        "runtime/mpo_edge.py": Part(Path(mpo_edge.__file__), "runtime"),
        "selftest/inputs.npz": Part(npz(**{"0:x": SAMPLES[:1], "1:x": SAMPLES[1:]}), "selftest"),
        "selftest/outputs.npz": Part(
            npz(**{"0:y": SAMPLES[:1] @ WEIGHT, "1:y": SAMPLES[1:] @ WEIGHT}), "selftest"
        ),
    }


def manifest(files: dict[str, Part], **changes: Any) -> Bundle:
    """The manifest of these files."""
    found = listed(files)
    near = Tolerance(atol=1e-5, rtol=1e-3, cosine=0.9999)
    bundle = Bundle(
        name="small",
        version="1.0.0",
        tool=BundleTool(name="mpo", version="0.1.0"),
        files=found,
        model=BundleModel(
            path="model/model.onnx",
            opset=17,
            ir_version=8,
            precision="fp32",
            params=6,
            bytes=found["model/model.onnx"].size,
            macs=6,
        ),
        inputs=(BundleTensor(name="x", dtype="float32", shape=("batch", 2)),),
        outputs=(BundleTensor(name="y", dtype="float32", shape=("batch", 3)),),
        runtime=BundleRuntime(
            onnxruntime="1.17",
            tested_onnxruntime="1.28.0",
            providers=("CPUExecutionProvider",),
            session=SessionOptions(mmap_threshold_bytes=131072),
            batch=1,
            fallback="allow",
        ),
        selftest=BundleSelftest(
            inputs="selftest/inputs.npz",
            outputs="selftest/outputs.npz",
            samples=2,
            runtime=near,
            engine=near,
        ),
        lineage=BundleLineage(plan=found["plan.json"].sha256, report=found["report.json"].sha256),
        license="NOASSERTION",
    )
    return bundle.model_copy(update=changes)


def write_small(path: Path, **changes: Any) -> str:
    """Write the small bundle; its digest."""
    files = parts()
    return write_bundle(path, manifest(files, **changes), files)


def lean(path: Path) -> str:
    """The small bundle without its program: few bytes, for tests of every one of them."""
    files = {name: part for name, part in parts().items() if part.role != "runtime"}
    return write_bundle(path, manifest(files), files)


Entry = tuple[str, bytes]


def entries(path: Path) -> list[Entry]:
    """The members of a bundle in their order."""
    with path.open("rb") as file:
        return [
            (one.name, mpo_edge.read_at(file, one.offset, one.size))
            for one in mpo_edge.read_members(file)
        ]


def packed(
    members: Iterable[Entry],
    local: Callable[[str, bytes], bytes] = lambda name, head: head,
    central: Callable[[str, bytes], bytes] = lambda name, head: head,
    *,
    before: bytes = b"",
    between: bytes = b"",
    after: bytes = b"",
    end: Callable[[bytes], bytes] = lambda head: head,
) -> bytes:
    """An archive of these members, with its headers changed and bytes put around them."""
    import zlib

    body, directory, count = before, b"", 0
    for name, content in members:
        crc, size = zlib.crc32(content), len(content)
        raw = name.encode("utf-8")
        plain = "x" * len(raw)
        head, entry = mpo_edge.headers(plain, size, crc, len(body))
        head, entry = head[: -len(raw)] + raw if raw else b"", entry[: -len(raw)] + raw
        body += local(name, head) + content + between
        directory += central(name, entry)
        count += 1
    tail = end(mpo_edge.end_record(count, len(directory), len(body)))
    return body + directory + tail + after


def repacked(path: Path, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The bundle with a changed manifest, in its canonical spelling."""
    rows = entries(path)
    told = json.loads(rows[0][1])
    change(told)
    return packed([(mpo_edge.MANIFEST, mpo_edge.canonical(told)), *rows[1:]])
