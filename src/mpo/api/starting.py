"""A folder to start from."""

from __future__ import annotations

import re
from pathlib import Path

from mpo.errors import UsageError
from mpo.files import writable, write_atomic
from mpo.render.starter import starter

SUBJECT, RECIPE = "subject.py", "mpo.toml"
FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def start(folder: Path, factory: str | None = None) -> tuple[Path, ...]:
    """Write a subject file and a recipe into a folder; nothing that is there is touched.

    Args:
        factory: PACKAGE.MODULE:FACTORY of the network.

    Returns:
        The files written.

    Raises:
        UsageError: one of them is there already, or `factory` is no such name.
    """
    if factory is not None and not FACTORY.fullmatch(factory):
        raise UsageError(
            f"{factory!r} names no function.", hint="Write --model your_package.models:build."
        )
    texts = starter(SUBJECT, RECIPE, factory)
    there = [name for name in texts if (folder / name).exists()]
    if there:
        raise UsageError(
            f"{folder / there[0]} exists; nothing was written.",
            hint="Name another folder: mpo init FOLDER.",
        )
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_atomic(folder / name, text)
    return tuple(folder / name for name in texts)
