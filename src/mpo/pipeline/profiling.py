"""Profiles of devices: measured through their targets, read from files, or shipped as presets."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from mpo.errors import UsageError
from mpo.profiles import presets
from mpo.profiles.cautions import cautions
from mpo.profiles.device import fingerprint, observe
from mpo.profiles.jobs import Target
from mpo.profiles.limits import measure_limits
from mpo.profiles.noise import measure_noise
from mpo.profiles.saved import STAMP, read_profile, stale
from mpo.profiles.targets import opened
from mpo.records import DeviceProfile, DeviceWarning

Progress = Callable[[str, int, int], None]
STORED = "profile:"


def profile_targets(targets: Sequence[str], progress: Progress) -> tuple[DeviceProfile, ...]:
    """The profiles of these targets in their order, measured one after the other.

    Args:
        targets: what `profiles.targets.open_target` takes, `profile:FILE`, or a preset's name.

    Raises:
        UsageError: a name that is none of these, a file that is no profile, or what is missing on a
            target.
        MpoError: a measurement failed.
    """
    known = {text: stored(text) for text in targets}
    unknown = [text for text, profile in known.items() if profile is None]
    with opened(unknown) as devices:  # a wrong name ends the command before minutes are spent
        for text, device in zip(unknown, devices, strict=True):
            known[text] = measure_profile(device, progress)
    return tuple(profile for profile in known.values() if profile is not None)


def stored(text: str) -> DeviceProfile | None:
    """The profile that a file or a preset holds; None for a name of a device to measure.

    Raises:
        UsageError: a file that is no profile.
    """
    name = text.removeprefix(STORED)
    if name in presets.names():
        return presets.load(name)
    if text.startswith(STORED):
        profile = read_profile(Path(name))
        doubts = stale(profile) if profile.measured else ()
        again = f"mpo profile --target {profile.target} -o {name}"
        aged = tuple(DeviceWarning(code="expired", detail=why, remedy=again) for why in doubts)
        return profile.model_copy(update={"warnings": profile.warnings + aged})
    if text != "local" and ":" not in text:
        presets.load(text)  # says which names there are
    return None


def measure_profile(target: Target, progress: Progress) -> DeviceProfile:
    """Describe and measure the device behind an open target.

    Raises:
        UsageError: what is missing on the target, with the command that installs it.
        MpoError: a measurement failed.
    """
    progress(f"describing {target.name}", 0, 1)
    device, conditions = observe(target)
    threads = device.cpu.physical_cores
    limits = measure_limits(
        target, threads=threads, progress=partial(progress, f"limits of {target.name}")
    )
    noise = measure_noise(
        target, threads=threads, progress=partial(progress, f"noise of {target.name}")
    )
    return DeviceProfile(
        target=target.name,
        created=datetime.now(UTC).strftime(STAMP),
        fingerprint=fingerprint(device),
        measured=True,
        device=device,
        conditions=conditions,
        limits=limits,
        noise=noise,
        warnings=cautions(device, conditions, noise),
    )


def check_output(path: Path, targets: Sequence[str]) -> None:
    """Refuse an output file that cannot hold the answer, before anything is measured.

    Raises:
        UsageError: several targets for one file, or a folder that cannot be written.
    """
    if len(set(targets)) > 1:
        raise UsageError(
            f"One file holds one device, and {len(set(targets))} targets are given.",
            hint="Profile them one by one, or print them all with --json.",
        )
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise UsageError(
            f"Cannot write to {path}.", hint="Name a file in a folder that is there and writable."
        )


def to_json(profiles: Sequence[DeviceProfile]) -> str:
    """One profile as its record; several as a list of records."""
    texts = [profile.model_dump_json(indent=1) for profile in profiles]
    return texts[0] if len(texts) == 1 else "[\n" + ",\n".join(texts) + "\n]"
