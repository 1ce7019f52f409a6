"""What `mpo doctor` finds on a machine."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mpo.records.base import Document, Record


class Package(Record):
    """A package that mpo can use.

    Attributes:
        name: of the distribution.
        part: "core", or the extra that asks for it.
        wanted: the versions that mpo takes, such as ">=2.10".
        installed: its version; empty when it is not there.
        state: "ok", "missing" or "old".
        install: the line that mends it; empty when nothing is to mend.
    """

    name: str
    part: str
    wanted: str
    installed: str = ""
    state: Literal["ok", "missing", "old"]
    install: str = ""


class Trial(Record):
    """A tiny model really put through a backend, in a process of its own.

    Attributes:
        backend: such as "onnxruntime CPUExecutionProvider".
        core: mpo cannot do without it.
        state: "works", "builds" (made, but nothing here can run it), "fails" or "missing".
        told: what was seen: versions, figures, or what went wrong.
        install: the line that brings what is missing.
        seconds: the trial took.
    """

    backend: str
    core: bool
    state: Literal["works", "builds", "fails", "missing"]
    told: str = ""
    install: str = ""
    seconds: float = 0.0


class Advisory(Record):
    """A published vulnerability of an installed version.

    Attributes:
        package, installed: which, and its version here.
        ids: CVE or GHSA numbers.
        fixed_in: the first version without it.
        text: what an attacker could do, in one sentence.
        source: where it is published.
        published: the day (ISO 8601).
        install: the line that mends it.
    """

    package: str
    installed: str
    ids: tuple[str, ...]
    fixed_in: str
    text: str
    source: str
    published: str
    install: str


class Place(Record):
    """The current folder: whether files can be written there, and how much room there is."""

    folder: str
    writable: bool
    free_bytes: int
    reason: str = ""


class Doctor(Document):
    """What is installed, what works, what is missing and how to get it.

    `ok` says whether the core works; `advisories_date` is the day the shipped table was made.
    """

    schema_: Literal["mpo.doctor/1"] = Field("mpo.doctor/1", alias="schema")
    tool: dict[str, str]
    ok: bool
    python: str
    os: str
    cores: int
    memory_bytes: int
    gpu: str
    place: Place
    packages: tuple[Package, ...]
    trials: tuple[Trial, ...]
    advisories: tuple[Advisory, ...]
    advisories_date: str
    seconds: float
