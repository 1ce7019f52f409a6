"""A device described and measured: its limits, its noise, and what makes its figures doubtful."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mpo.records.base import Document, Record
from mpo.records.devices import Device


class Conditions(Record):
    """How busy and how hot a device was when it was looked at; None where it does not tell.

    Attributes:
        load_1min: the system's load average.
        busy_cores: cores that other processes kept busy while this one slept.
        stolen_cores: cores' worth of time that a hypervisor gave to others meanwhile.
        free_memory_bytes: available without swapping.
        temperature_c: of the hottest sensor.
        throttled: why the clock is held down right now; empty when it is not, or nothing is told.
        on_battery: whether a battery feeds it.
    """

    load_1min: float | None = None
    busy_cores: float | None = None
    stolen_cores: float | None = None
    free_memory_bytes: int | None = None
    temperature_c: float | None = None
    throttled: tuple[str, ...] = ()
    on_battery: bool | None = None


class Limits(Record):
    """What a device can do at most. Each figure is the best that was seen: contention only lowers.

    Attributes:
        memory_bandwidth_bytes_s: streamed from arrays far larger than the caches.
        peak_flops: operations per second of a large matrix product, by precision; a
            multiply-add counts as two.
        numpy_flops: the same in fp32 by numpy's own library, for comparison.
        timer_resolution_ns: the smallest step of the clock.
        call_overhead_us: median time of a call of a model that does nothing.
        threads: that the figures were taken with.
        intervals: by name of the figure, the lowest and the highest over processes.
    """

    memory_bandwidth_bytes_s: float | None = Field(default=None, gt=0)
    peak_flops: dict[str, float] = Field(default_factory=dict)
    numpy_flops: float | None = Field(default=None, gt=0)
    timer_resolution_ns: float | None = Field(default=None, gt=0)
    call_overhead_us: float | None = Field(default=None, gt=0)
    threads: int | None = None
    intervals: dict[str, tuple[float, float]] = Field(default_factory=dict)


class Noise(Record):
    """What the device measures when nothing differs: one model against itself (A/A).

    Attributes:
        aa_sd_log: standard deviation of ln(second / first), one per process.
        interval: the ratio that A/A reads, 95 %; the truth is 1.
        mde_pct: the slowdown that a gate would confirm nine times in ten, with so many pairs or 8.
        pairs: processes that alternated the model with itself.
        solo_p10_ms, solo_p50_ms, solo_p90_ms: of processes that ran it alone, one each.
        p90_spread_pct: how far the highest of those p90 lies above the lowest.
        tail_pct: how far p90 lies above p10 inside a process; the median of all.
        busy_cores: cores that other processes kept busy before or after, the larger.
        steady: whether every solo process settled.
        threads: of one inference.
        too_noisy: the figures of this device decide nothing now.
        reasons: why, with the numbers.
    """

    aa_sd_log: float = Field(ge=0)
    interval: tuple[float, float]
    mde_pct: float = Field(ge=0)
    pairs: int
    solo_p10_ms: tuple[float, ...]
    solo_p50_ms: tuple[float, ...]
    solo_p90_ms: tuple[float, ...]
    p90_spread_pct: float = Field(ge=0)
    tail_pct: float
    busy_cores: float | None = None
    steady: bool
    threads: int
    too_noisy: bool
    reasons: tuple[str, ...] = ()


class DeviceWarning(Record):
    """What makes figures of a device doubtful, and what to do about it."""

    code: str
    detail: str
    remedy: str


class Source(Record):
    """A published document, and which figures of a preset it backs.

    Attributes:
        date: of the document; where it has none, when it was read.
        url: where it was read; empty for a printed one.
        facts: dotted names in the profile: "device.memory_bytes".
    """

    title: str
    publisher: str
    date: str
    url: str = ""
    facts: tuple[str, ...]


class DeviceProfile(Document):
    """A device, described and measured (`mpo.device/1`).

    Attributes:
        target: as it was asked for, or the preset's name.
        created: ISO 8601, UTC; of a preset, when its sources were read.
        expires_after_days: then the device should be measured again.
        fingerprint: of the device: sha256 over what changes its figures.
        measured: False for presets: described, not measured.
        conditions: when the measuring began.
        sources: of a preset's figures.
    """

    schema_: Literal["mpo.device/1"] = Field("mpo.device/1", alias="schema")
    target: str
    created: str
    expires_after_days: int = Field(default=90, ge=1)
    fingerprint: str
    measured: bool
    device: Device
    conditions: Conditions | None = None
    limits: Limits | None = None
    noise: Noise | None = None
    warnings: tuple[DeviceWarning, ...] = ()
    sources: tuple[Source, ...] = ()
