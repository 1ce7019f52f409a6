"""What a GPU told of itself while a model was timed."""

from __future__ import annotations

from mpo.records.base import Record


class GpuTelemetry(Record):
    """Samples of one process's timing, ten a second; None is what the driver does not tell.

    Attributes:
        samples: how many.
        sm_clock_mhz: the lowest and the highest.
        temperature_c: the highest.
        power_w: the highest draw.
        reasons: what held the clock down at some sample: "power cap", "hardware slowdown",
            "software thermal slowdown", "hardware thermal slowdown", "hardware power brake". That
            the GPU was idle, or that its clock is set, is no reason.
        throttled: a reason other than the power cap, or the clock fell by more than a tenth: the
            process is left out of verdicts.
    """

    samples: int
    sm_clock_mhz: tuple[float, float] | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    reasons: tuple[str, ...] = ()
    throttled: bool = False
