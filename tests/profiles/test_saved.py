"""Profiles as files: what is read back, what is refused, and what no longer holds."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mpo.errors import UsageError
from mpo.profiles import presets
from mpo.profiles.device import fingerprint
from mpo.profiles.saved import differences, read_profile, stale
from mpo.records import Cpu, Device, DeviceProfile

DEVICE = Device(
    arch="aarch64", os="Linux", kernel="6.6.1", cpu=Cpu(model="Cortex-A76 x4", governor="ondemand")
)
MADE = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def profile() -> DeviceProfile:
    """A profile that was made on the first of November."""
    return DeviceProfile(
        target="ssh://pi", created="2026-11-01T00:00:00Z", fingerprint=fingerprint(DEVICE),
        measured=True, device=DEVICE,
    )  # fmt: skip


def test_a_profile_is_read_back_as_it_was_written(tmp_path: Path, profile: DeviceProfile) -> None:
    path = tmp_path / "pi.json"
    path.write_text(profile.model_dump_json())
    assert json.loads(path.read_text())["schema"] == "mpo.device/1"
    assert read_profile(path) == profile


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no JSON"),
        (b"{", "holds no JSON"),
        (b"\xff\xfe\x00", "holds no JSON"),
        (b"[" * 100_000, "holds no JSON"),
        (b"[]", "holds no record, not mpo.device/1"),
        (b'{"schema": "mpo.report/1"}', "holds mpo.report/1 record"),
        (b'{"schema": "mpo.device/1"}', "Field required"),
    ],
)
def test_a_file_that_is_no_profile_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=words) as caught:
        read_profile(path)
    assert "mpo profile -o" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colour": "red"}, "colour"),
        ({"created": "yesterday"}, "created"),
        ({"expires_after_days": 0}, "expires_after_days"),
        ({"device": None}, "device"),
    ],
)
def test_a_profile_with_a_wrong_field_is_refused(
    tmp_path: Path, profile: DeviceProfile, change: dict[str, Any], words: str
) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(json.loads(profile.model_dump_json()) | change))
    with pytest.raises(UsageError, match=words):
        read_profile(path)


def test_a_missing_file_a_folder_and_a_huge_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_profile(tmp_path / "none.json")
    with pytest.raises(UsageError, match="Is a directory"):
        read_profile(tmp_path)
    huge = tmp_path / "huge.json"
    huge.touch()
    os.truncate(huge, 1 << 30)
    with pytest.raises(UsageError, match="1,073,741,824 bytes"):
        read_profile(huge)


def test_a_fresh_profile_of_the_same_device_holds(profile: DeviceProfile) -> None:
    assert stale(profile, DEVICE, MADE) == ()


def test_an_old_profile_has_expired_with_its_age(profile: DeviceProfile) -> None:
    (why,) = stale(profile, DEVICE, datetime(2027, 3, 1, tzinfo=UTC))
    assert "120 days old; it expired after 90" in why


def test_a_profile_of_another_device_says_what_differs(profile: DeviceProfile) -> None:
    cpu = DEVICE.cpu.model_copy(update={"governor": "performance"})
    (why,) = stale(profile, DEVICE.model_copy(update={"cpu": cpu}), MADE)
    assert "cpu.governor was ondemand, is performance" in why


def test_a_preset_never_stands_for_a_measurement() -> None:
    (why,) = stale(presets.load("raspberry-pi-5-8gb"))
    assert "not measured" in why


def test_what_differs_is_told_field_by_field() -> None:
    other = Device.model_validate(
        {**DEVICE.model_dump(), "gpus": [{"name": "X"}], "providers": ["CPUExecutionProvider"]}
    )
    found = "; ".join(differences(DEVICE, other))
    assert "gpus.0.name was None, is X" in found
    assert "providers was , is CPUExecutionProvider" in found
    assert differences(DEVICE, DEVICE) == ()
