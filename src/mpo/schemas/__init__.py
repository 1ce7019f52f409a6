"""The JSON Schemas (2020-12) of what mpo writes, made from the records and shipped here.

`python -m mpo.schemas` writes them anew after a record changed; a test fails until that is done.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from mpo.records import (
    Bench,
    Bundle,
    Contract,
    CostTable,
    DeviceProfile,
    Doctor,
    Export,
    HistoryEntry,
    Plan,
    Record,
    Report,
)

Name = Literal[
    "bench",
    "bundle",
    "history",
    "report",
    "plan",
    "device",
    "costs",
    "doctor",
    "contract",
    "export",
]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_RECORDS: dict[Name, tuple[type[Record], int]] = {
    "bench": (Bench, 1),
    "bundle": (Bundle, 1),
    "history": (HistoryEntry, 1),
    "report": (Report, 1),
    "plan": (Plan, 1),
    "device": (DeviceProfile, 1),
    "costs": (CostTable, 1),
    "doctor": (Doctor, 1),
    "contract": (Contract, 1),
    "export": (Export, 1),
}


def path_of(name: Name) -> Path:
    """Where the shipped schema `name` lies."""
    return Path(__file__).with_name(f"{name}.json")


def build(name: Name) -> dict[str, Any]:
    """The schema of what the record `name` serialises to, made from the record as it is now."""
    record, version = _RECORDS[name]
    head = {"$schema": DIALECT, "$id": f"urn:mpo:schema:{name}:{version}"}
    body = head | record.model_json_schema(by_alias=True, mode="serialization")
    flowed: dict[str, Any] = _flow(body)
    return flowed


def _flow(node: Any) -> Any:
    """Take line breaks out of descriptions: a re-wrapped docstring changes no schema."""
    if isinstance(node, list):
        return [_flow(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: " ".join(value.split())
        if key == "description" and isinstance(value, str)
        else _flow(value)
        for key, value in node.items()
    }


def load(name: Name) -> dict[str, Any]:
    """The schema as shipped."""
    schema: dict[str, Any] = json.loads(path_of(name).read_text(encoding="utf-8"))
    return schema


def dump(name: Name) -> str:
    """The text of the schema file: what `write` stores."""
    return json.dumps(build(name), indent=2, ensure_ascii=False) + "\n"


def write() -> tuple[Path, ...]:
    """Write every schema beside this file.

    Raises:
        OSError: the folder cannot be written.
    """
    for name in _RECORDS:
        path_of(name).write_text(dump(name), encoding="utf-8")
    return tuple(path_of(name) for name in _RECORDS)
