"""Profiles as files: read them back, and tell whether they still hold."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mpo.errors import UsageError
from mpo.profiles.device import fingerprint
from mpo.records import Device, DeviceProfile

SCHEMA = "mpo.device/1"
LARGEST = 4 << 20  # bytes of a profile: a few kB are usual
MAKE = "Make one with: mpo profile -o FILE"
STAMP = "%Y-%m-%dT%H:%M:%SZ"


def read_profile(path: Path) -> DeviceProfile:
    """A profile from its file, whatever its age (`stale` tells).

    Raises:
        UsageError: no such file, or none that holds an `mpo.device/1` record.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise UsageError(f"{path} is {size:,} bytes long: no device profile.", hint=MAKE)
        record = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror or error}.", hint=MAKE) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} holds no JSON: {error}.", hint=MAKE) from error
    found = record.get("schema") if isinstance(record, dict) else None
    if found != SCHEMA:
        raise UsageError(f"{path} holds {found or 'no'} record, not {SCHEMA}.", hint=MAKE)
    try:
        profile = DeviceProfile.model_validate(record)
        datetime.strptime(profile.created, STAMP)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(f"{path}: {where}: {first['msg']}.", hint=MAKE) from error
    except ValueError as error:
        raise UsageError(f"{path}: created: {error}.", hint=MAKE) from error
    return profile


def stale(
    profile: DeviceProfile, device: Device | None = None, now: datetime | None = None
) -> tuple[str, ...]:
    """Why a profile does not hold (any more), a sentence each; none when it does.

    Args:
        device: as described now; without it only the profile itself is looked at.
        now: the present by default.
    """
    if not profile.measured:
        return (f"{profile.target} is described from published facts, not measured.",)
    found = []
    created = datetime.strptime(profile.created, STAMP).replace(tzinfo=UTC)
    age = (now or datetime.now(UTC)) - created
    if age > timedelta(days=profile.expires_after_days):
        found.append(
            f"The profile of {profile.target} is {age.days} days old; it expired after "
            f"{profile.expires_after_days}."
        )
    if device is not None and fingerprint(device) != profile.fingerprint:
        changes = differences(profile.device, device)
        found.append(
            f"{profile.target} is not the device that was profiled: "
            f"{'; '.join(changes) or 'its fingerprint differs'}."
        )
    return tuple(found)


def differences(before: Device, after: Device) -> tuple[str, ...]:
    """What differs between two descriptions: "cpu.governor was powersave, is performance"."""
    old, new = _flat(before.model_dump(mode="json")), _flat(after.model_dump(mode="json"))
    return tuple(
        f"{name} was {old.get(name)}, is {new.get(name)}"
        for name in {**old, **new}
        if old.get(name) != new.get(name) and not name.endswith("uuid_hash")
    )


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {name: ", ".join(value) if isinstance(value, list) else value}
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= _flat(item, f"{name}.{key}" if name else str(key))
    return found
