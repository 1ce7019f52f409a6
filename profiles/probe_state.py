"""The child that looks at a device's state: its GPUs, how busy, how hot and how throttled it is.

A script for profiles/jobs.py: standard library, NVML's Python binding where it is there;
Python >= 3.8. What the system does not tell is None. The request is {"job": "state",
"watch_s": SECONDS in which other processes' work is counted; 0 counts none}.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path("/")
# Integrated GPUs have no driver query: the chip tells their compute capability (NVIDIA's list of
# CUDA GPUs).
TEGRA = {"tegra210": "5.3", "tegra186": "6.2", "tegra194": "7.2", "tegra234": "8.7"}
# Bits of `vcgencmd get_throttled`, as Raspberry Pi documents them.
PI_BITS = ("under-voltage", "arm frequency capped", "throttled", "soft temperature limit")
# Bits of NVML's clocks event reasons that mean "held down" (nvml.h); power and thermal only.
NVML_BITS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}


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


def describe_gpus(root: Path = ROOT) -> list[dict[str, Any]]:
    """What records.Gpu holds, of each GPU: through NVML where its Python binding is, else through
    nvidia-smi; a Jetson's own GPU through the chip's name."""
    found = nvml() or smi()
    if not found:
        chips = re.findall(r"nvidia,(tegra\d+)", read(root / "proc/device-tree/compatible"))
        for chip in chips[:1]:
            found = [{"name": f"integrated in {chip}", "sm": TEGRA.get(chip)}]
    return found


def nvml() -> list[dict[str, Any]]:
    """The GPUs through NVML; none without its binding, a driver or the right to ask."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        return [_nvml_gpu(pynvml, pynvml.nvmlDeviceGetHandleByIndex(at)) for at in range(count)]
    except pynvml.NVMLError:
        return []


def _nvml_gpu(pynvml: Any, handle: Any) -> dict[str, Any]:
    def told(ask: Any, *arguments: Any) -> Any:
        try:
            value = ask(*arguments)
        except pynvml.NVMLError:
            return None
        return value.decode() if isinstance(value, bytes) else value

    memory = told(pynvml.nvmlDeviceGetMemoryInfo, handle)
    sm = told(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
    return {
        "name": told(pynvml.nvmlDeviceGetName, handle) or "unnamed GPU",
        "memory_bytes": int(memory.total) if memory else None,
        "sm": "{}.{}".format(*sm) if sm else None,
        "driver": told(pynvml.nvmlSystemGetDriverVersion),
        "uuid_hash": hashed(told(pynvml.nvmlDeviceGetUUID, handle)),
    }


def smi() -> list[dict[str, Any]]:
    """The GPUs through nvidia-smi; none without it."""
    asked = "name,memory.total,compute_cap,driver_version,uuid"
    lines = output("nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader,nounits")
    found = []
    for line in lines.splitlines():
        words = [word.strip() for word in line.split(",")]
        if len(words) != 5:
            continue
        name, megabytes, sm, driver, uuid = (None if "N/A" in word else word for word in words)
        memory = number(megabytes or "")
        found.append(
            {
                "name": name or "unnamed GPU",
                "memory_bytes": int(memory * 2**20) if memory else None,
                "sm": sm,
                "driver": driver,
                "uuid_hash": hashed(uuid),
            }
        )
    return found


def hashed(uuid: str | None) -> str | None:
    """Sixteen digits that tell a GPU apart and do not name it."""
    return hashlib.sha256(uuid.encode()).hexdigest()[:16] if uuid else None


def ticks(root: Path = ROOT) -> tuple[float, float] | None:
    """Seconds that all cores were busy, and that a hypervisor took, since the system started."""
    words = read(root / "proc/stat").split("\n")[0].split()
    if len(words) < 9 or words[0] != "cpu":
        return None
    user, nice, system, _idle, _wait, irq, soft, stolen = (float(word) for word in words[1:9])
    second = float(os.sysconf("SC_CLK_TCK"))
    return (user + nice + system + irq + soft) / second, stolen / second


def others(watch_s: float, root: Path = ROOT) -> tuple[float, ...] | None:
    """Cores that are busy and cores that are stolen while this process sleeps so many seconds."""
    start, before = time.perf_counter(), ticks(root)
    time.sleep(watch_s)
    after, seconds = ticks(root), time.perf_counter() - start
    if not watch_s or before is None or after is None:
        return None
    return tuple(max(0.0, after[at] - before[at]) / seconds for at in (0, 1))


def temperature(root: Path = ROOT) -> float | None:
    """Degrees of the hottest thermal zone; values that no working chip has are left out."""
    zones = sorted((root / "sys/class/thermal").glob("thermal_zone*/temp"))
    found = [value / 1000 for value in (number(read(zone)) for zone in zones) if value is not None]
    return max((value for value in found if 0 < value < 150), default=None)


def throttled(root: Path = ROOT) -> list[str]:
    """Why the clock is held down now: a Raspberry Pi's firmware and NVIDIA's driver tell."""
    told = read(root / "sys/devices/platform/soc/soc:firmware/get_throttled")
    if not told and root == ROOT and "raspberry" in read(root / "proc/device-tree/model").lower():
        told = output("vcgencmd", "get_throttled").partition("=")[2]
    try:
        bits = int(told, 16)
    except ValueError:
        bits = 0
    found = [name for place, name in enumerate(PI_BITS) if bits >> place & 1]
    return found + [f"GPU: {name}" for name in (gpu_throttled() if root == ROOT else [])]


def gpu_throttled() -> list[str]:
    """Reasons for which any GPU's clock is held down."""
    told = output(
        "nvidia-smi", "--query-gpu=clocks_throttle_reasons.active", "--format=csv,noheader"
    )
    bits = 0
    for word in re.findall(r"0x[0-9a-fA-F]+", told):
        bits |= int(word, 16)
    return [name for bit, name in NVML_BITS.items() if bits & bit]


def on_battery(root: Path = ROOT) -> bool | None:
    """Whether a battery feeds the system now; None where nothing tells of a supply. Batteries of
    mice and pens ("Device") feed nothing else."""
    told = [
        {key: read(supply / key) for key in ("type", "scope", "status", "online")}
        for supply in sorted((root / "sys/class/power_supply").glob("*"))
    ]
    own = [one for one in told if one["scope"] != "Device"]
    if any(one["type"] == "Battery" and one["status"] == "Discharging" for one in own):
        return not any(one["type"] == "Mains" and one["online"] == "1" for one in own)
    return False if own else None


def conditions(watch_s: float, root: Path = ROOT) -> dict[str, Any]:
    """What records.Conditions holds."""
    counted = others(watch_s, root)
    load = number((read(root / "proc/loadavg").split() or [""])[0])
    free = re.search(r"^MemAvailable: +(\d+) kB$", read(root / "proc/meminfo"), re.MULTILINE)
    return {
        "load_1min": load,
        "busy_cores": counted[0] if counted else None,
        "stolen_cores": counted[1] if counted else None,
        "free_memory_bytes": int(free[1]) * 1024 if free else None,
        "temperature_c": temperature(root),
        "throttled": throttled(root),
        "on_battery": on_battery(root),
    }


def main() -> None:
    """Answer the request; whatever a library prints on stdout goes to stderr."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = json.loads(sys.stdin.readline())
    state = {"gpus": describe_gpus(), "conditions": conditions(request["watch_s"])}
    answer.write(json.dumps(state) + "\n")
    answer.close()


if __name__ == "__main__":
    main()
