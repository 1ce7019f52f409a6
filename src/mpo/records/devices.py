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


class SessionOptions(Record):
    """How the runtime runs a model; latency and memory hold for these options only.

    Attributes:
        device: "cpu" or "cuda:N".
        threads: of one inference.
        arena: the runtime keeps freed memory for its next call.
        spinning: idle threads wait busily for work.
    """

    device: str = "cpu"
    threads: int = 1
    arena: bool = True
    spinning: bool = True
