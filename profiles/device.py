"""Describe the machine at hand: what a figure was measured on. No host or user names."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
from pathlib import Path

import psutil

from mpo.records import Environment

RUNTIMES = ("mpo-optimizer", "torch", "onnxruntime", "onnx", "numpy")
CPUINFO = Path("/proc/cpuinfo")
CGROUP = Path("/sys/fs/cgroup")


def describe_local(batch: int, threads: int, options: dict[str, str] | None = None) -> Environment:
    """This machine and its runtimes, with the batch and threads that the figures are measured at.

    Args:
        options: further settings that the figures depend on, such as the memory arena.
    """
    return Environment(
        cpu=cpu_model(),
        cores=usable_cores(),
        memory_bytes=memory_bytes(),
        os=f"{platform.system()} {platform.release()} {platform.machine()}".strip(),
        python=platform.python_version(),
        runtimes=runtime_versions(),
        batch=batch,
        threads=threads,
        options=dict(options or {}),
    )


def cpu_model(cpuinfo: Path = CPUINFO) -> str:
    """The CPU's own name; on ARM its part numbers; else the architecture."""
    fields: dict[str, str] = {}
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip().lower(), value.strip())
    for key in ("model name", "hardware", "model", "cpu model"):
        if fields.get(key) and not fields[key].isdigit():
            return fields[key]
    if "cpu part" in fields:
        return (
            f"{platform.machine()} part {fields.get('cpu implementer', '?')}:{fields['cpu part']}"
        )
    return platform.processor() or platform.machine() or "unknown"


def usable_cores() -> int:
    """Logical cores that this process may use: affinity and the cgroup's quota, at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = cgroup_cores()
    return max(1, min(cores, math.floor(quota)) if quota else cores)


def physical_cores() -> int:
    """Physical cores that this process may use, at least 1: the default number of threads."""
    return max(1, min(psutil.cpu_count(logical=False) or usable_cores(), usable_cores()))


def cgroup_cores(root: Path = CGROUP) -> float | None:
    """The CPU quota of this container in cores; None without one. Reads cgroup v2, then v1."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not quota.isdigit() or not period.isdigit() or int(period) == 0 or int(quota) == 0:
        return None  # "max" and -1 mean no limit
    return int(quota) / int(period)


def memory_bytes(root: Path = CGROUP) -> int:
    """Memory that this process may use: the machine's, or the container's limit when lower."""
    total = int(psutil.virtual_memory().total)
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (root / name).read_text().strip()
        except OSError:
            continue
        if text.isdigit() and int(text) > 0:
            return min(total, int(text))
    return total


def runtime_versions() -> dict[str, str]:
    """Versions of the installed packages that shape a figure; what is not installed is left out."""
    found = {}
    for name in RUNTIMES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
