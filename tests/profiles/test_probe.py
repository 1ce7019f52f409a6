"""What the describing scripts read from a system: trees of files as devices have them."""

from __future__ import annotations

import ast
import os
import platform
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mpo.profiles import probe, probe_state

SCRIPTS = ("probe.py", "probe_state.py", "probe_limits.py")
ALLOWED = {"numpy", "onnxruntime", "pynvml"}
ORIN = "processor : {}\nCPU implementer : 0x41\nCPU part : 0xd42\nFeatures : fp asimd asimddp\n"


def tree(root: Path, files: dict[str, str]) -> Path:
    """A system's root with these files."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_scripts_for_devices_stand_alone_and_are_python_3_8(root: Path, name: str) -> None:
    parsed = ast.parse((root / "profiles" / name).read_text(), feature_version=(3, 8))
    imported = set()
    for node in ast.walk(parsed):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).split(".")[0])
    assert imported - ALLOWED <= sys.stdlib_module_names
    later = {"removeprefix", "removesuffix", "is_relative_to", "strict"}
    used = {node.attr for node in ast.walk(parsed) if isinstance(node, ast.Attribute)}
    words = {node.arg for node in ast.walk(parsed) if isinstance(node, ast.keyword)}
    assert not later & (used | words)


def test_a_raspberry_pi_is_named_by_its_cores(tmp_path: Path) -> None:
    core = "CPU implementer : 0x41\nCPU part : 0xd0b\nFeatures : fp asimd asimdhp asimddp\n"
    text = "\n".join(f"processor : {at}\n{core}" for at in range(4)) + "\nModel : Raspberry Pi 5\n"
    found = tree(tmp_path, {"proc/cpuinfo": text})
    assert probe.cpu_model(found) == "Cortex-A76 x4"
    assert probe.isa(found) == ["dotprod", "fp16", "neon"]


def test_big_and_little_cores_are_told_apart_and_only_common_extensions_count(
    tmp_path: Path,
) -> None:
    little = "processor : 0\nCPU implementer : 0x41\nCPU part : 0xd05\nFeatures : asimd\n"
    big = "processor : 1\nCPU implementer : 0x41\nCPU part : 0xd41\nFeatures : asimd sve\n"
    found = tree(tmp_path, {"proc/cpuinfo": f"{little}\n{big}"})
    assert probe.cpu_model(found) == "Cortex-A55 x1 + Cortex-A78 x1"
    assert probe.isa(found) == ["neon"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor : 0\nmodel name : Some CPU @ 2 GHz\n", "Some CPU @ 2 GHz"),
        ("CPU implementer : 0x99\nCPU part : 0x123\n", f"{platform.machine()} part 99:123 x1"),
    ],
)
def test_the_cpu_is_named_by_what_the_system_tells(tmp_path: Path, text: str, name: str) -> None:
    assert probe.cpu_model(tree(tmp_path, {"proc/cpuinfo": text})) == name


def test_without_cpuinfo_the_architecture_stands_in(tmp_path: Path) -> None:
    assert probe.cpu_model(tmp_path)
    assert probe.isa(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "cores"), [("150000 100000", 1.5), ("max 100000", None), ("nonsense", None)]
)
@pytest.mark.case(35)
def test_a_container_s_quota_is_read(tmp_path: Path, text: str, cores: float | None) -> None:
    assert probe.cgroup_cores(tree(tmp_path, {"sys/fs/cgroup/cpu.max": text})) == cores


def test_the_tightest_of_nested_quotas_counts(tmp_path: Path) -> None:
    found = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/system.slice/app.service\n",
            "sys/fs/cgroup/system.slice/app.service/cpu.max": "max 100000",
            "sys/fs/cgroup/system.slice/cpu.max": "200000 100000",
            "sys/fs/cgroup/system.slice/app.service/memory.max": "1000000",
            "proc/meminfo": "MemTotal:        8000000 kB\n",
        },
    )
    assert probe.cgroup_cores(found) == 2
    assert probe.cgroup_memory(found) == probe.memory(found) == 1_000_000


def test_the_older_control_groups_are_read_too(tmp_path: Path) -> None:
    found = tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab\n0::/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/docker/ab/memory.limit_in_bytes": "9223372036854771712\n",
            "proc/meminfo": "MemTotal:        1000 kB\n",
        },
    )
    assert probe.cgroup_cores(found) is None
    assert probe.cgroup_memory(found) is None
    assert probe.memory(found) == 1_024_000
    (tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_quota_us").write_text("200000\n")
    assert probe.cgroup_cores(found) == 2


@pytest.mark.case(35)
def test_half_a_core_is_still_one_thread(tmp_path: Path) -> None:
    found = tree(tmp_path, {"sys/fs/cgroup/cpu.max": "50000 100000"})
    assert probe.usable_cores(found) == probe.physical_cores(found) == 1


def test_threads_of_one_core_count_once(tmp_path: Path) -> None:
    allowed = probe.allowed_cores()
    siblings = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    found = tree(tmp_path, {siblings.format(core): "all of them\n" for core in allowed})
    assert probe.physical_cores(found) == 1
    assert probe.usable_cores(found) == len(allowed)


def test_a_jetson_tells_its_module_release_and_power_mode(tmp_path: Path) -> None:
    release = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64"
    status = (
        "Package: bash\nStatus: install ok installed\nVersion: 5.1\n\n"
        "Package: nvidia-jetpack\nStatus: install ok installed\nVersion: 6.2+b77\n\n"
        "Package: libnvinfer-bin\nStatus: install ok installed\nVersion: 10.3.0.30-1+cuda12.5\n"
    )
    found = tree(
        tmp_path,
        {
            "etc/nv_tegra_release": release,
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
            "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0",
            "var/lib/dpkg/status": status,
            "var/lib/nvpmodel/status": "pmode:0002 fmode:fanNull",
        },
    )
    assert probe.describe_jetson(found) == {
        "module": "NVIDIA Jetson Orin Nano Developer Kit",
        "l4t": "36.4.3",
        "jetpack": "6.2+b77",
        "power_mode": "mode 2",
    }
    assert probe.runtimes(found)["tensorrt"] == "10.3.0.30-1+cuda12.5" or "tensorrt" in (
        probe.runtimes()
    )
    if not (probe_state.nvml() or probe_state.smi()):
        (gpu,) = probe_state.describe_gpus(found)
        assert gpu == {"name": "integrated in tegra234", "sm": "8.7"}


def test_any_other_device_is_no_jetson(tmp_path: Path) -> None:
    found = tree(tmp_path, {"proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0"})
    assert probe.describe_jetson(found) is None


def test_gpus_are_told_by_nvidia_s_tool_and_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    lines = "RTX 4000, 20475, 8.9, 550.54, GPU-1234", "Orin (nvgpu), [N/A], [N/A], 540.4, [N/A]"
    tool.write_text("#!/bin/sh\n" + "".join(f'echo "{line}"\n' for line in lines))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    first, second = probe_state.smi()
    assert first["memory_bytes"] == 20475 * 2**20
    assert (first["sm"], first["driver"]) == ("8.9", "550.54")
    assert first["uuid_hash"] == probe_state.hashed("GPU-1234")
    assert "1234" not in str(first["uuid_hash"])
    assert (second["name"], second["memory_bytes"], second["uuid_hash"]) == (
        "Orin (nvgpu)", None, None,
    )  # fmt: skip


def test_gpus_are_told_by_nvml_where_its_binding_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        """As the binding's own."""

    def refuse(handle: object) -> str:
        raise NVMLError

    binding = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda at: at,
        nvmlDeviceGetName=lambda handle: b"Orin",
        nvmlDeviceGetMemoryInfo=refuse,
        nvmlDeviceGetCudaComputeCapability=lambda handle: (8, 7),
        nvmlSystemGetDriverVersion=lambda: "540.4.0",
        nvmlDeviceGetUUID=refuse,
    )
    monkeypatch.setitem(sys.modules, "pynvml", binding)
    (gpu,) = probe_state.nvml()
    assert (gpu["name"], gpu["memory_bytes"], gpu["sm"]) == ("Orin", None, "8.7")
    binding.nvmlDeviceGetCount = lambda: refuse(None)
    assert probe_state.nvml() == []


def test_a_tool_that_is_missing_or_fails_says_nothing() -> None:
    assert probe.output("no-such-tool") == probe_state.output("false") == ""


def test_the_state_is_read_from_the_system(tmp_path: Path) -> None:
    found = tree(
        tmp_path,
        {
            "proc/stat": "cpu  100 0 50 1000 5 0 0 20 0 0\ncpu0 1 2 3\n",
            "proc/loadavg": "1.25 0.50 0.25 1/100 1000\n",
            "proc/meminfo": "MemTotal: 4000 kB\nMemAvailable:    2000 kB\n",
            "sys/class/thermal/thermal_zone0/temp": "51500\n",
            "sys/class/thermal/thermal_zone1/temp": "-273000\n",
            "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
        },
    )
    state = probe_state.conditions(0.05, found)
    assert state["load_1min"] == 1.25
    assert state["busy_cores"] == state["stolen_cores"] == 0
    assert state["free_memory_bytes"] == 2_048_000
    assert state["temperature_c"] == 51.5
    assert state["throttled"] == ["under-voltage", "throttled"]


def test_where_the_system_tells_nothing_the_state_is_unknown(tmp_path: Path) -> None:
    state = probe_state.conditions(0.05, tmp_path)
    assert state.pop("throttled") == []
    assert set(state.values()) == {None}


BATTERY = {"BAT0/type": "Battery", "BAT0/status": "Discharging"}
MAINS = {"AC/type": "Mains", "AC/online": "0"}


@pytest.mark.case(35)
@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({**BATTERY, **MAINS}, True),
        (BATTERY, True),
        ({**BATTERY, "BAT0/status": "Charging", **MAINS, "AC/online": "1"}, False),
        ({**BATTERY, "BAT0/status": "Full"}, False),
        ({**BATTERY, "BAT0/scope": "Device"}, None),
        ({**MAINS, "AC/online": "1"}, False),
        ({}, None),
    ],
)
def test_a_laptop_on_battery_is_seen(
    tmp_path: Path, files: dict[str, str], found: bool | None
) -> None:
    told = {f"sys/class/power_supply/{name}": f"{text}\n" for name, text in files.items()}
    assert probe_state.on_battery(tree(tmp_path, told)) is found
