"""Device profiles on a terminal: a column each, doubts below, nothing obeyed that a device says."""

from __future__ import annotations

import io

from rich.console import Console

from mpo.profiles import presets
from mpo.profiles.noise import Alone, judge
from mpo.records import Cpu, Device, DeviceProfile, DeviceWarning, Gpu, Jetson, Limits, Noise
from mpo.render.device import NOT_MEASURED, device_table

QUIET = [0.001, -0.002, 0.0015, -0.0005, 0.002, -0.001, 0.0, 0.0012]
ALONE = [Alone(9.9, 10.0, 10.2, True)] * 6
LIMITS = Limits(
    memory_bandwidth_bytes_s=2.5e10,
    peak_flops={"fp32": 1.2345e11, "int8": 3e11},
    timer_resolution_ns=40,
    call_overhead_us=7.5,
    threads=4,
    intervals={"memory_bandwidth_bytes_s": (2.2e10, 2.5e10)},
)


def profile(name: str = "local", noise: Noise | None = None, **device: object) -> DeviceProfile:
    """A measured profile of a device with these facts."""
    facts = {"arch": "aarch64", "os": "Linux", "cpu": Cpu(model="Cortex-A76 x4")} | device
    return DeviceProfile(
        target=name, created="2026-11-21T13:00:00Z", fingerprint="ab" * 32, measured=True,
        device=Device.model_validate(facts), limits=LIMITS, noise=noise or judge(QUIET, ALONE, 4),
    )  # fmt: skip


def shown(*profiles: DeviceProfile, width: int = 120) -> str:
    """What a terminal of this width prints."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(device_table(profiles))
    text = console.file
    assert isinstance(text, io.StringIO)
    return text.getvalue()


def row(text: str, label: str) -> str:
    """The row of a label, its cells parted by single spaces."""
    (found,) = [line for line in text.splitlines() if line.startswith(f"{label} ")]
    return " ".join(found.split())


def test_what_was_measured_is_shown_with_units_and_intervals() -> None:
    text = shown(profile())
    assert row(text, "Bandwidth") == "Bandwidth 25.0 GB/s [22.0, 25.0]"
    assert row(text, "Peak fp32") == "Peak fp32 123.5 GFLOP/s"
    assert row(text, "Peak int8") == "Peak int8 300.0 GOP/s"
    assert row(text, "Call overhead") == "Call overhead 7.5 us"
    assert row(text, "Verdict") == "Verdict quiet enough"
    assert "sd 0.14 %" in row(text, "A/A ratio")


def test_targets_stand_side_by_side_and_empty_rows_are_left_out() -> None:
    gpu = Gpu(name="Orin", sm="8.7")
    board = Jetson(module="Jetson Orin Nano", l4t="36.4.3", jetpack="6.2", power_mode="15W")
    text = shown(profile("pi"), profile("orin", gpus=(gpu,), jetson=board, memory_bytes=8 * 10**9))
    assert text.splitlines()[0].split() == ["pi", "orin"]
    assert row(text, "GPU") == "GPU Orin, SM 8.7"
    assert "JetPack 6.2, 15W" in row(text, "Jetson")
    assert not [line for line in text.splitlines() if line.startswith("Container")]


def test_a_preset_is_marked_as_described_with_its_sources() -> None:
    text = shown(presets.load("raspberry-pi-5-8gb"))
    assert row(text, "Verdict") == f"Verdict {NOT_MEASURED}"
    assert "holds" not in row(text, "Created")
    assert "Source Processors: BCM2712 (Raspberry Pi Ltd" in text


def test_a_noisy_device_and_its_remedy_are_shown() -> None:
    noise = judge([30 * value for value in QUIET], ALONE, 4)
    warning = DeviceWarning(code="busy", detail="2 cores are busy.", remedy="Stop them.")
    noisy = profile("pi", noise).model_copy(update={"warnings": (warning,)})
    text = shown(noisy, profile("calm"))
    assert row(text, "Verdict") == "Verdict too noisy quiet enough"
    assert "Warning pi: 2 cores are busy.\n  Stop them." in text


def test_what_a_device_says_of_itself_is_not_obeyed() -> None:
    evil = "\x1b[2J[red]x[/red]\u202e"
    text = shown(profile("pi", cpu=Cpu(model=evil, governor=evil), jetson=Jetson(module=evil)))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[2J[red]x[/red]" in text
