"""Snapshots of long work (training, similarity): all that is needed to go on in the middle, to the
last bit.

A snapshot is a folder of two files. The JSON, which is written last, holds the hash of the tensors,
so that a torn or changed snapshot is known as such.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import load_file, save_file
from torch import Tensor

from mpo.errors import MpoError
from mpo.files import sha256, write_atomic

TENSORS, FACTS = "tensors.safetensors", "snapshot.json"
SCHEMA = "mpo.snapshot/1"
KEEP_SECONDS = 30.0  # of a pass over the data that a kill costs


@dataclass(frozen=True)
class Snapshot:
    """Work after `step` steps.

    Attributes:
        step: updates made, or batches taken in.
        tensors: of a training weights, best weights, the optimizer's moments, the generators'
            states; of similarity its sums.
        facts: everything else, JSON-able.
    """

    step: int
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def group(self, name: str) -> dict[str, Tensor]:
        """The tensors whose names start with NAME and a slash, without it."""
        start = f"{name}/"
        found = self.tensors.items()
        return {key.removeprefix(start): one for key, one in found if key.startswith(start)}


class Keeper(Protocol):
    """Where snapshots are kept, the newest last.

    Attributes:
        warnings: what went wrong in reading them, for the record of the work.
    """

    warnings: list[str]

    def newest(self) -> Snapshot | None:
        """The newest whole snapshot; None when there is none."""
        ...

    def keep(self, snapshot: Snapshot) -> None:
        """Keep a snapshot so that it outlives the process."""
        ...


def grouped(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, Tensor]:
    """Groups of named tensors as one flat mapping: GROUP/NAME -> tensor; other values left out."""
    return {
        f"{group}/{name}": value
        for group, values in groups.items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def write_snapshot(folder: Path, snapshot: Snapshot) -> None:
    """Write a snapshot's files into an existing folder."""
    # a copy of each, since tied weights share storage, which the format refuses
    tensors = {
        name: one.detach().to("cpu", copy=True).contiguous()
        for name, one in snapshot.tensors.items()
    }
    save_file(tensors, folder / TENSORS)
    content = {
        "schema": SCHEMA,
        "step": snapshot.step,
        "sha256": sha256(folder / TENSORS),
        "facts": dict(snapshot.facts),
    }
    write_atomic(folder / FACTS, json.dumps(content))


def read_snapshot(folder: Path) -> Snapshot:
    """The snapshot in a folder.

    Raises:
        MpoError: it is not whole, or of another schema.
    """
    try:
        content = json.loads((folder / FACTS).read_text())
        if content["schema"] != SCHEMA or content["sha256"] != sha256(folder / TENSORS):
            raise ValueError("its hash or schema is another")
        tensors = load_file(folder / TENSORS)
        return Snapshot(int(content["step"]), tensors, content["facts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MpoError(
            f"The snapshot {folder.name} is not whole ({error}).",
            hint="An older one is used, or the work starts anew.",
        ) from error
