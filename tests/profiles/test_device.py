"""The description of this machine, and of machines that differ from it."""

from __future__ import annotations

import os
import platform
import socket
from pathlib import Path

import pytest

from mpo.profiles.device import (
    cgroup_cores,
    cpu_model,
    describe_local,
    memory_bytes,
    physical_cores,
    usable_cores,
)


def test_this_machine_is_described_without_its_name() -> None:
    found = describe_local(4, 2, {"arena": "off"})
    assert (found.batch, found.threads, found.options) == (4, 2, {"arena": "off"})
    assert found.cpu
    assert found.memory_bytes > 10**8
    assert found.python == platform.python_version()
    assert {"torch", "onnxruntime"} <= set(found.runtimes)
    assert socket.gethostname() not in found.model_dump_json()


def test_the_default_threads_are_cores_that_this_process_has() -> None:
    assert 1 <= physical_cores() <= usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor : 0\nmodel name : Some CPU @ 2 GHz\n", "Some CPU @ 2 GHz"),
        ("processor : 0\nmodel : 17\nHardware : BCM2835\n", "BCM2835"),
        ("CPU implementer : 0x41\nCPU part : 0xd0c\n", f"{platform.machine()} part 0x41:0xd0c"),
    ],
)
def test_the_cpu_is_named_by_what_the_system_tells(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert cpu_model(tmp_path / "cpuinfo") == name


def test_without_cpuinfo_the_architecture_stands_in(tmp_path: Path) -> None:
    assert cpu_model(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "cores"), [("150000 100000", 1.5), ("max 100000", None), ("nonsense", None)]
)
def test_a_container_s_quota_is_read(tmp_path: Path, text: str, cores: float | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert cgroup_cores(tmp_path) == cores


def test_the_older_quota_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("200000\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert cgroup_cores(tmp_path) == 2
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    assert cgroup_cores(tmp_path) is None
    assert cgroup_cores(tmp_path / "none") is None


def test_half_a_core_is_still_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpo.profiles.device.cgroup_cores", lambda: 0.5)
    assert usable_cores() == physical_cores() == 1


def test_a_container_s_memory_limit_counts_when_it_is_lower(tmp_path: Path) -> None:
    whole = memory_bytes(tmp_path)
    (tmp_path / "memory.max").write_text("1000000\n")
    assert memory_bytes(tmp_path) == 1_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_bytes(tmp_path) == whole
