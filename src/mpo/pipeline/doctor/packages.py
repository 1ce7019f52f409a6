"""Which packages mpo takes, which are installed, and what is known against them. No network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from mpo.records import Advisory, Package

DISTRIBUTION = "mpo-optimizer"
TABLE = Path(__file__).with_name("advisories.json")
CORE = "core"
HIDDEN = {"dev", "bench"}  # extras of those who work on mpo itself
# Distributions that bring the same module under another name.
SAME = {"onnxruntime": ("onnxruntime-gpu", "onnxruntime-openvino")}


def packages(wanted: list[str] | None = None) -> tuple[Package, ...]:
    """Every package that mpo takes, the core ones first, as its own metadata names them.

    Args:
        wanted: requirements to judge in the place of mpo's own.
    """
    rows = (requires(DISTRIBUTION) or []) if wanted is None else wanted
    found = [_package(requirement, part) for requirement, part in map(_parsed, rows) if part]
    return tuple(sorted(found, key=lambda row: row.part != CORE))


def advisories(installed: Mapping[str, str], table: Path = TABLE) -> tuple[Advisory, ...]:
    """The published vulnerabilities of these versions, from the table that mpo ships.

    Args:
        installed: version by name of distribution, in lower case.
    """
    found = []
    for row in json.loads(table.read_text(encoding="utf-8"))["advisories"]:
        here = installed.get(row["package"], "")
        if not here or not _affected(here, row):
            continue
        kept = {name: row[name] for name in ("package", "fixed_in", "text", "source", "published")}
        line = f"pip install '{row['package']}>={row['fixed_in']}'"
        found.append(Advisory(**kept, ids=tuple(row["ids"]), installed=here, install=line))
    return tuple(found)


def advisories_date(table: Path = TABLE) -> str:
    """The day the table was made."""
    return str(json.loads(table.read_text(encoding="utf-8"))["date"])


def _affected(here: str, row: Mapping[str, Any]) -> bool:
    try:
        return Version(row.get("affected_from", "0")) <= Version(here) < Version(row["fixed_in"])
    except InvalidVersion:
        return False


def _parsed(text: str) -> tuple[Requirement, str]:
    """A requirement and the part of mpo that asks for it; "" when it is not to be shown."""
    requirement = Requirement(text)
    if requirement.name == DISTRIBUTION:
        return requirement, ""
    if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
        return requirement, CORE
    # The marker reads: extra == "hf", possibly with more.
    extra = str(requirement.marker).partition("extra == ")[2].split('"')[1:2]
    return requirement, extra[0] if extra and extra[0] not in HIDDEN else ""


def _package(requirement: Requirement, part: str) -> Package:
    installed = _version(requirement.name)
    line = f"pip install '{DISTRIBUTION}[{part}]'"
    if part == CORE or installed:
        line = f"pip install '{requirement.name}{requirement.specifier}'"
    known = {"name": requirement.name, "part": part, "wanted": str(requirement.specifier)}
    if not installed:
        return Package(**known, state="missing", install=line)
    if not requirement.specifier.contains(installed, prereleases=True):
        return Package(**known, installed=installed, state="old", install=line)
    return Package(**known, installed=installed, state="ok")


def _version(name: str) -> str:
    for candidate in (name, *SAME.get(name, ())):
        try:
            return version(candidate)
        except PackageNotFoundError:
            continue
    return ""
