"""Device profiles on a terminal: one table with a column each, then what makes them doubtful."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mpo.records import Device, DeviceProfile, Gpu, Limits, Noise
from mpo.render.names import clean
from mpo.units import format_bytes, format_count

NOT_MEASURED = "described, not measured"


def device_table(profiles: Sequence[DeviceProfile]) -> RenderableType:
    """What `mpo profile` prints.

    Names come from devices: they are put into `Text`, never into markup.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=True)
    table.add_column("")
    for profile in profiles:
        table.add_column(Text(clean(profile.target), style="bold"), overflow="fold")
    columns = [dict(_rows(profile)) for profile in profiles]
    for label in dict.fromkeys(label for column in columns for label in column):
        cells = [column.get(label, "") for column in columns]
        if any(cells):
            table.add_row(Text(label, style="dim"), *(_cell(label, cell) for cell in cells))
    return Group(table, *_notes(profiles))


def _cell(label: str, text: str) -> Text:
    styles = {"Verdict": "bold red" if text.startswith("too noisy") else "bold green"}
    style = "yellow" if text == NOT_MEASURED else styles.get(label, "")
    return Text(clean(text), style=style)


def _rows(profile: DeviceProfile) -> list[tuple[str, str]]:
    device = profile.device
    rows = [*_described(device)]
    rows += [("", "")]
    if profile.limits is not None:
        rows += _limits(profile.limits)
    if profile.noise is not None:
        rows += _noise(profile.noise)
    if not profile.measured:
        rows.append(("Verdict", NOT_MEASURED))
    until = f", holds {profile.expires_after_days} days" if profile.measured else ""
    rows.append(("Created", profile.created + until))
    rows.append(("Fingerprint", profile.fingerprint[:16]))
    return rows


def _described(device: Device) -> list[tuple[str, str]]:
    cpu, jetson = device.cpu, device.jetson
    clock = [f"{cpu.max_mhz:.0f} MHz at most"] if cpu.max_mhz else []
    clock += [f"governor {cpu.governor}"] if cpu.governor else []
    limits = [f"{cpu.cgroup_cores:g} cores"] if cpu.cgroup_cores else []
    limits += [format_bytes(cpu.cgroup_memory_bytes)] if cpu.cgroup_memory_bytes else []
    board = [jetson.module, jetson.l4t and f"Jetson Linux {jetson.l4t}"] if jetson else []
    board += [jetson.jetpack and f"JetPack {jetson.jetpack}", jetson.power_mode] if jetson else []
    return [
        ("System", " ".join(filter(None, (device.os, device.kernel, device.arch)))),
        ("CPU", cpu.model),
        ("Cores", _cores(cpu.physical_cores, cpu.cores)),
        ("Extensions", " ".join(cpu.isa)),
        ("Clock", ", ".join(clock)),
        ("Container", ", ".join(limits)),
        ("Memory", format_bytes(device.memory_bytes) if device.memory_bytes else ""),
        ("GPU", "; ".join(_gpu(gpu) for gpu in device.gpus)),
        ("Jetson", ", ".join(filter(None, board))),
        ("Python", device.python or ""),
        ("Runtimes", ", ".join(f"{name} {version}" for name, version in device.runtimes.items())),
        (
            "Providers",
            ", ".join(name.removesuffix("ExecutionProvider") for name in device.providers),
        ),
    ]


def _cores(physical: int | None, logical: int | None) -> str:
    if physical is None or logical is None or physical == logical:
        return str(physical or logical or "")
    return f"{physical} ({logical} threads)"


def _gpu(gpu: Gpu) -> str:
    parts = [gpu.name, format_bytes(gpu.memory_bytes) if gpu.memory_bytes else ""]
    parts += [f"SM {gpu.sm}" if gpu.sm else "", f"driver {gpu.driver}" if gpu.driver else ""]
    return ", ".join(filter(None, parts))


def _limits(limits: Limits) -> list[tuple[str, str]]:
    rows = []
    if limits.memory_bandwidth_bytes_s:
        spread = _spread(limits, "memory_bandwidth_bytes_s", 1e9)
        rows.append(("Bandwidth", f"{limits.memory_bandwidth_bytes_s / 1e9:.1f} GB/s{spread}"))
    for precision, rate in limits.peak_flops.items():
        spread = _spread(limits, f"peak_flops.{precision}", 1e9)
        unit = "GFLOP/s" if precision.startswith("fp") else "GOP/s"
        rows.append((f"Peak {precision}", f"{rate / 1e9:,.1f} {unit}{spread}"))
    if limits.call_overhead_us:
        rows.append(("Call overhead", f"{limits.call_overhead_us:.1f} us"))
    if limits.timer_resolution_ns:
        rows.append(("Timer", f"{limits.timer_resolution_ns:.0f} ns"))
    if limits.threads:
        rows.append(("Threads", format_count(limits.threads)))
    return rows


def _spread(limits: Limits, name: str, scale: float) -> str:
    if name not in limits.intervals:
        return ""
    low, high = (value / scale for value in limits.intervals[name])
    return f" [{low:,.1f}, {high:,.1f}]"


def _noise(noise: Noise) -> list[tuple[str, str]]:
    low, high = noise.interval
    return [
        ("A/A ratio", f"[{low:.4f}, {high:.4f}], sd {100 * noise.aa_sd_log:.2f} %"),
        ("Detectable", f"from {noise.mde_pct:.1f} % on, {max(8, noise.pairs)} pairs"),
        (
            "Solo p90",
            f"{min(noise.solo_p90_ms):.3g} to {max(noise.solo_p90_ms):.3g} ms, "
            f"{noise.p90_spread_pct:.0f} % apart",
        ),
        ("Verdict", "too noisy" if noise.too_noisy else "quiet enough"),
    ]


def _notes(profiles: Sequence[DeviceProfile]) -> list[Text]:
    lines: list[Text] = []
    for profile in profiles:
        name = f"{clean(profile.target)}: " if len(profiles) > 1 else ""
        for warning in profile.warnings:
            told = f" {name}{clean(warning.detail)}"
            lines.append(Text.assemble(("Warning", "yellow"), told))
            lines.append(Text(f"  {clean(warning.remedy)}", style="dim"))
        for source in profile.sources:
            told = f"Source {name}{source.title} ({source.publisher}, {source.date})"
            lines.append(Text(clean(told), style="dim"))
    return [Text(), *lines] if lines else []
