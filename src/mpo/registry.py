"""Exporters and runners by name, each loaded when it is used and not before.

An exporter turns an ONNX file into another format, a runner executes a file of that format (see
exporters/backends.py for what both promise). Those of mpo stand in the table below; another package
adds its own with an entry point, and a name that mpo has cannot be taken over:

    [project.entry-points."mpo.exporters"]
    myformat = "my_package.module:export"
    [project.entry-points."mpo.runners"]
    myformat = "my_package.module:Runner"
"""

from __future__ import annotations

import difflib
import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from mpo.errors import UsageError

Group = Literal["mpo.exporters", "mpo.runners"]
EXPORTERS: Group = "mpo.exporters"
RUNNERS: Group = "mpo.runners"

# Names and places only: nothing is imported here, so that this floor knows no higher one.
OWN: dict[Group, dict[str, str]] = {
    EXPORTERS: {
        "onnx": "mpo.exporters.backends:export_copy",
        "openvino": "mpo.exporters.openvino:export_openvino",
        "tensorrt": "mpo.exporters.backends:export_tensorrt",
        "tensorrt-rtx": "mpo.exporters.backends:export_tensorrt_rtx",
    },
    RUNNERS: {
        "onnx": "mpo.exporters.backends:OnnxRunner",
        "openvino": "mpo.exporters.openvino:OpenVinoRunner",
        "tensorrt": "mpo.exporters.backends:TensorRtRunner",
        "tensorrt-rtx": "mpo.exporters.backends:TensorRtRtxRunner",
    },
}
KINDS: dict[Group, str] = {EXPORTERS: "exporter", RUNNERS: "runner"}


def names(group: Group) -> tuple[str, ...]:
    """All names of a group, mpo's own first; nothing is imported."""
    own = OWN[group]
    return (*own, *sorted({point.name for point in _foreign(group)} - set(own)))


def load(group: Group, name: str) -> Any:
    """The exporter or runner of this name; its module is imported now.

    Raises:
        UsageError: an unknown name, one that two packages offer, or a plugin that cannot be
            imported.
    """
    if name in OWN[group]:
        module, _, attribute = OWN[group][name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    found = [point for point in _foreign(group) if point.name == name]
    if not found:
        raise _unknown(group, name)
    if len({point.value for point in found}) > 1:
        offers = ", ".join(sorted(_package(point) for point in found))
        raise UsageError(
            f"The {KINDS[group]} {name} is offered by {len(found)} packages: {offers}.",
            hint="Uninstall all but one of them.",
        )
    try:
        return found[0].load()
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"The {KINDS[group]} {name} of {_package(found[0])} cannot be loaded: {error}",
            hint=f"Install that package anew, or leave {name} out.",
        ) from error


def _foreign(group: Group) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


def _unknown(group: Group, name: str) -> UsageError:
    known = names(group)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}? " if near else ""
    return UsageError(
        f"There is no {KINDS[group]} {name!r}.", hint=f"{hint}There are: {', '.join(known)}."
    )
