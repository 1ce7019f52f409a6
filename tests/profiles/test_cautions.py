"""What makes a device's figures doubtful: each with its numbers and a remedy."""

from __future__ import annotations

from typing import Any

import pytest

from mpo.profiles.cautions import cautions
from mpo.profiles.noise import Alone, judge
from mpo.records import Conditions, Cpu, Device, Jetson

CALM = Conditions(
    load_1min=0.1, busy_cores=0.02, stolen_cores=0.0, free_memory_bytes=10**9, temperature_c=50.0
)
DEVICE = Device(
    arch="aarch64", os="Linux", memory_bytes=2 * 10**9,
    cpu=Cpu(model="x", cores=4, physical_cores=4, governor="performance"),
)  # fmt: skip


def test_a_calm_device_with_a_fixed_clock_raises_no_doubt() -> None:
    assert cautions(DEVICE, CALM) == ()
    assert cautions(Device(arch="x86_64", os="Linux", cpu=Cpu(model="x")), Conditions()) == ()


@pytest.mark.parametrize(
    ("cpu", "code", "words"),
    [
        ({"governor": "ondemand"}, "governor", "ondemand"),
        ({"cgroup_cores": 1.5}, "cpu-quota", "1.5 cores"),
        ({"cgroup_memory_bytes": 5 * 10**8}, "memory-limit", "500 MB"),
    ],
)
@pytest.mark.case(35)
def test_a_setting_that_changes_figures_is_named(
    cpu: dict[str, Any], code: str, words: str
) -> None:
    device = DEVICE.model_copy(update={"cpu": DEVICE.cpu.model_copy(update=cpu)})
    (found,) = cautions(device, CALM)
    assert (found.code, words in found.detail, bool(found.remedy)) == (code, True, True)


@pytest.mark.parametrize(
    ("state", "code", "words"),
    [
        ({"busy_cores": 2.0}, "busy", "2.0 of 4 cores"),
        ({"stolen_cores": 0.2}, "stolen-time", "0.20 cores"),
        ({"free_memory_bytes": 10**8}, "memory", "100 MB of 2 GB"),
        ({"throttled": ("under-voltage",)}, "throttled", "under-voltage"),
        ({"temperature_c": 91.0}, "hot", "91 degrees"),
        ({"on_battery": True}, "battery", "A battery feeds"),
    ],
)
@pytest.mark.case(33)
@pytest.mark.case(34)
@pytest.mark.case(35)
def test_a_state_that_changes_figures_is_named(
    state: dict[str, Any], code: str, words: str
) -> None:
    (found,) = cautions(DEVICE, CALM.model_copy(update=state))
    assert (found.code, words in found.detail, bool(found.remedy)) == (code, True, True)


def test_a_jetson_that_hides_its_power_mode_is_doubtful() -> None:
    (found,) = cautions(DEVICE.model_copy(update={"jetson": Jetson(module="Orin")}), CALM)
    assert "nvpmodel" in found.remedy
    known = Jetson(module="Orin", power_mode="15W")
    assert cautions(DEVICE.model_copy(update={"jetson": known}), CALM) == ()


@pytest.mark.case(33)
def test_a_noisy_device_is_named_with_its_numbers() -> None:
    noise = judge([0.1, -0.1, 0.05, 0.2, -0.2, 0.1, 0.0, 0.1], [Alone(1, 1, 1, True)], 1)
    (found,) = cautions(DEVICE, CALM, noise)
    assert found.code == "too-noisy"
    assert "would be confirmed" in found.detail
