"""Facts about a model inside its ONNX file: version, plan, labels, preprocessing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto

from mpo.errors import UsageError
from mpo.exporters.runtimefaults import first_line
from mpo.files import sha256, writable, write_atomic

VERSION, PLAN, LABELS, PREPROCESSING = (
    "mpo.version",
    "mpo.plan_sha256",
    "mpo.labels",
    "mpo.preprocessing",
)


def facts(
    version: str,
    *,
    plan_sha256: str = "",
    labels: Sequence[str] = (),
    preprocessing: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What mpo writes into the files it hands out; what is not known is left out.

    Args:
        version: of mpo.
        plan_sha256: of plan.json.
        labels: of the classes, in the order of the outputs.
        preprocessing: what was done to the inputs, JSON-able: mean, deviation, size, layout.
    """
    found = {
        VERSION: version,
        PLAN: plan_sha256,
        LABELS: list(labels),
        PREPROCESSING: dict(preprocessing or {}),
    }
    return {key: value for key, value in found.items() if value}


def add_facts(graph: ModelProto, values: Mapping[str, Any]) -> None:
    """Write values into a graph's metadata_props, sorted; keys that are there stay.

    Raises:
        UsageError: a value that is not JSON-able.
    """
    for key in sorted(values):
        text = values[key] if isinstance(values[key], str) else _json(key, values[key])
        graph.metadata_props.add(key=key, value=text)


def stamp(path: Path, values: Mapping[str, Any]) -> str:
    """Write values into the file's metadata_props, atomically; other keys stay as they are.

    External data is not touched. Keys are sorted, so equal facts give equal bytes.

    Args:
        values: texts as they are, anything else as JSON; None takes a key away.

    Returns:
        The file's new sha256.

    Raises:
        UsageError: no ONNX file, a value that is not JSON-able, a file that cannot be written.
    """
    model = _read(path)
    texts = {prop.key: prop.value for prop in model.metadata_props}
    for key, value in values.items():
        texts[key] = value if isinstance(value, str) else _json(key, value)
    gone = {key for key, value in values.items() if value is None}
    del model.metadata_props[:]
    for key in sorted(texts.keys() - gone):
        model.metadata_props.add(key=key, value=texts[key])
    with writable(path):
        write_atomic(path, model.SerializeToString(deterministic=True))
    return sha256(path)


def read_stamp(path: Path) -> dict[str, Any]:
    """The file's metadata_props; values under `mpo.` that are JSON lists or objects, as such.

    Raises:
        UsageError: no ONNX file.
    """
    return {prop.key: _value(prop.key, prop.value) for prop in _read(path).metadata_props}


def _read(path: Path) -> ModelProto:
    try:
        return onnx.load(str(path), load_external_data=False)
    except (OSError, DecodeError) as error:
        raise UsageError(f"Cannot read {path} as an ONNX model: {first_line(error)}") from error


def _json(key: str, value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"The metadata {key!r} cannot be written: {first_line(error)}",
            hint="Give texts, numbers, lists and dicts of them.",
        ) from error


def _value(key: str, text: str) -> Any:
    if not key.startswith("mpo.") or text[:1] not in ("[", "{"):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
