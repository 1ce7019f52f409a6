"""The describing child: what a device is, its GPUs aside (probe_state.py).

A script for profiles/jobs.py: standard library, and onnxruntime where it is there; Python >= 3.8.
It also serves as a module for this very process. Nothing here fails because a file or a tool is
missing: what the system does not tell is None. The request is {"job": "describe"}.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path("/")
RUNTIMES = (
    "mpo-optimizer", "torch", "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino",
    "onnx", "numpy", "tensorrt", "tensorrt-rtx",
)  # fmt: skip
X86 = (
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16",
    "amx_tile", "amx_int8", "amx_bf16",
)  # fmt: skip
ARM = {  # as Linux calls them -> as everybody does
    "neon": "neon", "asimd": "neon", "asimdhp": "fp16", "asimddp": "dotprod", "i8mm": "i8mm",
    "bf16": "bf16", "sve": "sve", "sve2": "sve2", "sme": "sme",
}  # fmt: skip
# (implementer, part) as the Linux kernel lists them in arch/arm64/include/asm/cputype.h.
PARTS = {
    ("41", "d03"): "Cortex-A53", ("41", "d05"): "Cortex-A55", ("41", "d07"): "Cortex-A57",
    ("41", "d08"): "Cortex-A72", ("41", "d09"): "Cortex-A73", ("41", "d0b"): "Cortex-A76",
    ("41", "d0c"): "Neoverse-N1", ("41", "d40"): "Neoverse-V1", ("41", "d41"): "Cortex-A78",
    ("41", "d42"): "Cortex-A78AE", ("41", "d49"): "Neoverse-N2", ("41", "d4f"): "Neoverse-V2",
    ("4e", "003"): "NVIDIA Denver", ("4e", "004"): "NVIDIA Carmel",
}  # fmt: skip


def read(path: Path) -> str:
    """The text of a small file; empty when it cannot be read."""
    try:
        return path.read_text(errors="replace").replace("\0", " ").strip()
    except OSError:
        return ""


def number(text: str) -> float | None:
    """The number that the text is."""
    try:
        return float(text)
    except ValueError:
        return None


def output(*command: str) -> str:
    """What a tool prints; empty when it is missing, fails, or takes more than five seconds."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode(errors="replace").strip()


def cpuinfo(root: Path = ROOT) -> list[dict[str, str]]:
    """The fields of /proc/cpuinfo, one dictionary a paragraph, keys in lower case."""
    paragraphs = []
    for text in read(root / "proc/cpuinfo").split("\n\n"):
        pairs = (line.partition(":") for line in text.splitlines())
        paragraphs.append({key.strip().lower(): value.strip() for key, _, value in pairs})
    return paragraphs


def cpu_model(root: Path = ROOT) -> str:
    """The CPU's own name; on ARM its cores' names; else the architecture."""
    paragraphs = cpuinfo(root)
    for key in ("model name", "cpu model"):
        for fields in paragraphs:
            if fields.get(key) and "cpu part" not in fields:
                return fields[key]
    cores: dict[str, int] = {}
    for fields in paragraphs:
        if "cpu part" in fields:
            part = fields.get("cpu implementer", "?")[2:], fields["cpu part"][2:]
            name = PARTS.get(part, "{} part {}:{}".format(platform.machine(), *part))
            cores[name] = cores.get(name, 0) + 1
    if cores:
        return " + ".join(f"{name} x{count}" for name, count in cores.items())
    return platform.processor() or platform.machine() or "unknown"


def isa(root: Path = ROOT) -> list[str]:
    """The extensions that every core has and a runtime chooses its kernels by."""
    found: list[set[str]] = []
    for fields in cpuinfo(root):
        flags = fields.get("flags") or fields.get("features")
        if flags:
            found.append(set(flags.split()))
    common = set.intersection(*found) if found else set()
    known = [flag for flag in X86 if flag in common]
    return known + sorted({name for flag, name in ARM.items() if flag in common})


def cgroup_folders(controller: str, root: Path = ROOT) -> list[Path]:
    """The folders of this process's control groups for a controller, innermost first: version 2
    where it is used alone, version 1 too."""
    base, found = root / "sys/fs/cgroup", []
    for line in [*read(root / "proc/self/cgroup").splitlines(), "0::/"]:
        names, _, path = line.partition(":")[2].partition(":")
        if names and controller not in names.split(","):
            continue
        start = base / controller if names else base
        inner = start / path.lstrip("/")
        chain = [inner, *inner.parents]
        found += [folder for folder in chain if folder == start or start in folder.parents]
    return [*found, base / controller]


def cgroup_cores(root: Path = ROOT) -> float | None:
    """The tightest CPU quota of this container in cores; None without one."""
    found = []
    for folder in cgroup_folders("cpu", root):
        words = read(folder / "cpu.max").split()
        if len(words) != 2:
            words = [read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
        if all(word.isdigit() and int(word) > 0 for word in words):  # not "max", -1 or nothing
            found.append(int(words[0]) / int(words[1]))
    return min(found, default=None)


def cgroup_memory(root: Path = ROOT) -> int | None:
    """The tightest memory limit of this container in bytes; None without one."""
    total, found = total_memory(root), []
    for folder in cgroup_folders("memory", root):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = read(folder / name)
            if text.isdigit() and int(text) > 0 and (total is None or int(text) < total):
                found.append(int(text))
    return min(found, default=None)


def total_memory(root: Path = ROOT) -> int | None:
    """The machine's memory in bytes."""
    found = re.search(r"^MemTotal: +(\d+) kB$", read(root / "proc/meminfo"), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def memory(root: Path = ROOT) -> int | None:
    """Bytes that a process may use: the machine's, or the container's limit when lower."""
    return cgroup_memory(root) or total_memory(root)


def allowed_cores() -> set[int]:
    """The logical cores that the scheduler may run this process on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return set(affinity(0)) if affinity else set(range(os.cpu_count() or 1))


def usable_cores(root: Path = ROOT) -> int:
    """Logical cores that this process may use: affinity and the cgroup's quota, at least 1."""
    quota = cgroup_cores(root)
    cores = len(allowed_cores())
    return max(1, min(cores, int(quota)) if quota else cores)


def physical_cores(root: Path = ROOT) -> int:
    """Physical cores that this process may use, at least 1: threads on one core count once."""
    system = root / "sys/devices/system/cpu"
    siblings = {
        read(system / f"cpu{core}/topology/thread_siblings_list") or str(core)
        for core in allowed_cores()
    }
    return max(1, min(len(siblings), usable_cores(root)))


def describe_cpu(root: Path = ROOT) -> dict[str, Any]:
    """What records.Cpu holds."""
    clock = root / "sys/devices/system/cpu" / f"cpu{min(allowed_cores())}" / "cpufreq"
    highest = number(read(clock / "scaling_max_freq"))
    return {
        "model": cpu_model(root),
        "cores": usable_cores(root),
        "physical_cores": physical_cores(root),
        "isa": isa(root),
        "governor": read(clock / "scaling_governor") or None,
        "max_mhz": highest / 1000 if highest else None,
        "cgroup_cores": cgroup_cores(root),
        "cgroup_memory_bytes": cgroup_memory(root),
    }


def package(name: str, root: Path = ROOT) -> str | None:
    """The version of an installed Debian package."""
    pattern = rf"^Package: {re.escape(name)}\n(?:.+\n)*?Version: (\S+)$"
    text = read(root / "var/lib/dpkg/status")
    found = re.search(pattern, text, re.MULTILINE) if name in text else None
    return found[1] if found else None


def describe_jetson(root: Path = ROOT) -> dict[str, Any] | None:
    """What records.Jetson holds; None on any other device."""
    release = re.search(
        r"R(\d+) \(release\), REVISION: ([\d.]+)", read(root / "etc/nv_tegra_release")
    )
    module = read(root / "proc/device-tree/model")
    if not release and "jetson" not in module.lower():
        return None
    mode = re.search(r"NV Power Mode: *(\S+)", output("nvpmodel", "-q") if root == ROOT else "")
    stored = re.search(r"pmode:0*(\d+)", read(root / "var/lib/nvpmodel/status"))
    return {
        "module": module or None,
        "l4t": f"{release[1]}.{release[2]}" if release else None,
        "jetpack": package("nvidia-jetpack", root),
        "power_mode": mode[1] if mode else (f"mode {stored[1]}" if stored else None),
    }


def runtimes(root: Path = ROOT) -> dict[str, str]:
    """Versions of what runs models here; what is not installed is left out."""
    found = {}
    for name in RUNTIMES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    if "tensorrt" not in found and package("libnvinfer-bin", root):
        found["tensorrt"] = str(package("libnvinfer-bin", root))
    return found


def providers() -> list[str]:
    """Execution providers of onnxruntime; none without it."""
    try:
        import onnxruntime
    except ImportError:
        return []
    return list(onnxruntime.get_available_providers())


def describe(root: Path = ROOT) -> dict[str, Any]:
    """What records.Device holds, `gpus` aside."""
    return {
        "arch": platform.machine() or "unknown",
        "os": platform.system() or "unknown",
        "kernel": platform.release() or None,
        "python": platform.python_version(),
        "cpu": describe_cpu(root),
        "memory_bytes": memory(root),
        "jetson": describe_jetson(root),
        "runtimes": runtimes(root),
        "providers": providers(),
    }


def main() -> None:
    """Answer the request; whatever a library prints on stdout goes to stderr."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    json.loads(sys.stdin.readline())
    answer.write(json.dumps(describe()) + "\n")
    answer.close()


if __name__ == "__main__":
    main()
