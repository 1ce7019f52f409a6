"""The description of this machine and of targets, and its fingerprint."""

from __future__ import annotations

import getpass
import os
import platform
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest

from mpo.errors import MpoError
from mpo.profiles.device import (
    describe,
    environment,
    fingerprint,
    observe,
    physical_cores,
)
from mpo.profiles.jobs import Job
from mpo.profiles.local import LocalTarget
from mpo.profiles.ssh import SshTarget
from mpo.records import Device, SessionOptions

if TYPE_CHECKING:
    from tests.profiles.sshd import Server


class Telling:
    """A target that answers every job with the same words."""

    name, device = "ssh://somewhere", "cpu"

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer

    def run(self, job: Job) -> dict[str, Any]:
        """The words."""
        return self.answer

    def close(self) -> None:
        """Nothing to leave."""


@pytest.fixture(scope="module")
def here() -> Device:
    """This machine, described as a target."""
    return describe(LocalTarget())


def changed(device: Device, **facts: Any) -> Device:
    """The device with other facts; those of the CPU by `cpu__name`."""
    cpu = {name[5:]: value for name, value in facts.items() if name.startswith("cpu__")}
    facts = {name: value for name, value in facts.items() if not name.startswith("cpu__")}
    return device.model_copy(update={**facts, "cpu": device.cpu.model_copy(update=cpu)})


def test_this_machine_is_described_without_its_name(here: Device) -> None:
    assert here.cpu.model
    assert here.cpu.cores is not None
    assert 1 <= here.cpu.cores <= (os.cpu_count() or 1)
    assert here.cpu.physical_cores == physical_cores()
    assert here.memory_bytes is not None
    assert here.memory_bytes > 10**8
    assert here.python == platform.python_version()
    assert {"onnxruntime", "numpy"} <= set(here.runtimes)
    assert "CPUExecutionProvider" in here.providers
    written = here.model_dump_json()
    assert socket.gethostname() not in written
    assert f'"{getpass.getuser()}"' not in written


def test_a_device_over_ssh_is_described_as_it_describes_itself(
    server: Server, here: Device
) -> None:
    target = SshTarget(server.name, ssh=server.ssh, python=sys.executable)
    found = describe(target)
    target.close()
    assert fingerprint(found) == fingerprint(here)
    assert found == here
    assert server.left() == []


def test_a_target_tells_how_busy_it_is() -> None:
    device, conditions = observe(LocalTarget())
    assert conditions.busy_cores is not None
    assert 0 <= conditions.busy_cores <= 1.2 * (os.cpu_count() or 1)
    assert conditions.free_memory_bytes is not None
    assert device.memory_bytes is not None
    assert 0 < conditions.free_memory_bytes < 2 * device.memory_bytes


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"arch": "x", "os": "y", "cpu": {"model": "z", "cores": -1}},
        {"arch": "x", "os": "y", "cpu": {"model": "z"}, "surprise": 1},
        {"arch": "x", "os": "y", "cpu": {"model": "z"}, "memory_bytes": float("nan")},
        {"arch": "x" * 100_000, "os": [], "cpu": None},
    ],
)
def test_a_target_that_tells_nonsense_is_refused(answer: dict[str, Any]) -> None:
    with pytest.raises(MpoError, match="says of itself is no description") as caught:
        describe(Telling(answer))
    assert caught.value.exit_code == 1
    assert len(caught.value.message) < 300


def test_the_fingerprint_changes_with_what_changes_figures(here: Device) -> None:
    others = [
        changed(here, cpu__governor="powersave"),
        changed(here, cpu__max_mhz=600.0),
        changed(here, cpu__cgroup_cores=1.5),
        changed(here, memory_bytes=(here.memory_bytes or 0) // 2),
        changed(here, runtimes={**here.runtimes, "onnxruntime": "1.0.0"}),
        changed(here, providers=(*here.providers, "CUDAExecutionProvider")),
        changed(here, kernel="2.6.1"),
    ]
    prints = {fingerprint(device) for device in (here, *others)}
    assert len(prints) == 1 + len(others)
    assert all(len(found) == 64 for found in prints)


def test_the_fingerprint_stays_with_what_does_not(here: Device) -> None:
    release = ".".join((here.kernel or "").split(".")[:2])
    same = changed(
        here,
        kernel=f"{release}.999-other",
        memory_bytes=(here.memory_bytes or 0) + 1000,
        runtimes={**here.runtimes, "torch": "0.0", "mpo-optimizer": "9"},
    )
    assert fingerprint(same) == fingerprint(here)


def test_two_alike_gpus_have_one_fingerprint_and_two_drivers_have_two(here: Device) -> None:
    gpu = {"name": "RTX", "memory_bytes": 10, "sm": "8.9", "driver": "1", "uuid_hash": "aa"}
    found = [
        fingerprint(Device.model_validate({**here.model_dump(), "gpus": [{**gpu, **other}]}))
        for other in ({}, {"uuid_hash": "bb"}, {"driver": "2"})
    ]
    assert found[0] == found[1] != found[2]


def test_the_environment_of_figures_is_the_device_with_batch_and_threads(here: Device) -> None:
    local = environment(here, SessionOptions(threads=2), 4, {"arena": "off"})
    assert (local.batch, local.threads, local.options) == (4, 2, {"arena": "off"})
    assert platform.release() in local.os
    assert socket.gethostname() not in local.model_dump_json()


def test_the_default_threads_are_cores_that_this_process_has() -> None:
    assert 1 <= physical_cores() <= (os.cpu_count() or 1)
