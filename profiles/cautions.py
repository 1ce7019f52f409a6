"""What makes a device's figures doubtful, each with its remedy. Pure: records in, records out."""

from __future__ import annotations

from collections.abc import Iterator

from mpo.records import Conditions, Device, DeviceWarning, Noise
from mpo.units import format_bytes

BUSY = 0.25  # cores
STOLEN = 0.05  # cores
FREE_SHARE = 0.1
HOT_C = 85.0
# Governors that keep the clock where it is; all others let it follow the load.
FIXED_CLOCK = ("performance", "userspace")


def cautions(
    device: Device, conditions: Conditions, noise: Noise | None = None
) -> tuple[DeviceWarning, ...]:
    """All that is doubtful about figures taken on this device in these conditions."""
    found = [*_settings(device), *_state(device, conditions)]
    if noise is not None and noise.too_noisy:
        found.append(
            DeviceWarning(
                code="too-noisy",
                detail=f"Too noisy: {'; '.join(noise.reasons)}.",
                remedy="Stop what else runs there, then profile again. Until then compare models "
                "only in turn, and trust no absolute latency.",
            )
        )
    return tuple(found)


def _settings(device: Device) -> Iterator[DeviceWarning]:
    """What the device's own settings do."""
    cpu = device.cpu
    if cpu.governor and cpu.governor not in FIXED_CLOCK:
        yield DeviceWarning(
            code="governor",
            detail=f"The CPU's governor is {cpu.governor}: its clock follows the load.",
            remedy="sudo cpupower frequency-set -g performance",
        )
    if cpu.cgroup_cores is not None:
        yield DeviceWarning(
            code="cpu-quota",
            detail=f"The container may use {cpu.cgroup_cores:g} cores on average; beyond that it "
            "is stopped for a while.",
            remedy="Give it whole cores (a CPU set) in the place of a quota.",
        )
    if cpu.cgroup_memory_bytes is not None:
        yield DeviceWarning(
            code="memory-limit",
            detail=f"The container may use {format_bytes(cpu.cgroup_memory_bytes)} of memory.",
            remedy="Deploy with the same limit, or lift it and profile again.",
        )
    if device.jetson is not None and device.jetson.power_mode is None:
        yield DeviceWarning(
            code="power-mode",
            detail="The Jetson does not tell its power mode, which its clocks depend on.",
            remedy="Set it with nvpmodel, and run jetson_clocks, before each measurement.",
        )


def _state(device: Device, conditions: Conditions) -> Iterator[DeviceWarning]:
    """What goes on there at the moment."""
    busy, stolen = conditions.busy_cores or 0.0, conditions.stolen_cores or 0.0
    if busy > BUSY:
        cores = f" of {device.cpu.cores}" if device.cpu.cores else ""
        yield DeviceWarning(
            code="busy",
            detail=f"Other processes keep {busy:.1f}{cores} cores busy.",
            remedy="Stop them, or wait until they are done; then profile again.",
        )
    if stolen > STOLEN:
        yield DeviceWarning(
            code="stolen-time",
            detail=f"The hypervisor gives {stolen:.2f} cores' worth of time to others.",
            remedy="Use a machine of its own, or compare models only in turn.",
        )
    free, whole = conditions.free_memory_bytes, device.memory_bytes
    if free is not None and whole and free < FREE_SHARE * whole:
        yield DeviceWarning(
            code="memory",
            detail=f"Only {format_bytes(free)} of {format_bytes(whole)} of memory is free.",
            remedy="Stop what holds it: a device that swaps measures its disk.",
        )
    if conditions.on_battery:
        yield DeviceWarning(
            code="battery",
            detail="A battery feeds the device: many then lower their clocks.",
            remedy="Plug it in; or, where it is deployed on its battery, say so with the figures.",
        )
    if conditions.throttled:
        yield DeviceWarning(
            code="throttled",
            detail=f"The clock is held down: {', '.join(conditions.throttled)}.",
            remedy="Cool the device and give it enough power; then profile again.",
        )
    elif conditions.temperature_c is not None and conditions.temperature_c >= HOT_C:
        yield DeviceWarning(
            code="hot",
            detail=f"The hottest sensor reads {conditions.temperature_c:.0f} degrees Celsius.",
            remedy="Cool the device: soon it lowers its clock.",
        )
