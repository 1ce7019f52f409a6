"""Common devices as their makers describe them: published facts with their sources, nothing
measured. They tell what to expect of a device that is not at hand; budgets need a real one."""

from __future__ import annotations

import difflib
import functools
import json
from pathlib import Path
from typing import Any

from mpo.errors import UsageError
from mpo.profiles.device import fingerprint
from mpo.records import Device, DeviceProfile

FILE = Path(__file__).with_name("presets.json")


def names() -> tuple[str, ...]:
    """The presets that are shipped."""
    return tuple(sorted(_read()))


def load(name: str) -> DeviceProfile:
    """A preset: `measured` is False, and every figure in it is backed by one of its sources.

    Raises:
        UsageError: no preset of this name.
    """
    try:
        told = _read()[name]
    except KeyError as error:
        near = difflib.get_close_matches(name, names(), 1)
        hint = f"Did you mean {near[0]}?" if near else f"Presets: {', '.join(names())}."
        raise UsageError(f"There is no preset {name!r}.", hint=hint) from error
    device = Device.model_validate(told["device"])
    return DeviceProfile.model_validate(
        {**told, "target": name, "measured": False, "fingerprint": fingerprint(device)}
    )


@functools.cache
def _read() -> dict[str, dict[str, Any]]:
    presets: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return presets
