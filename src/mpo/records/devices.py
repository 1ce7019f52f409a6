"""What figures were measured on."""

from __future__ import annotations

from pydantic import Field

from mpo.records.base import Record


class Environment(Record):
    """The machine and runtime that the figures were measured on."""

    cpu: str
    cores: int
    memory_bytes: int
    os: str
    python: str
    runtimes: dict[str, str]
    batch: int
    threads: int
    options: dict[str, str] = Field(default_factory=dict)
