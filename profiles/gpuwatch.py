"""The child's watch over its GPU: `nvidia-smi` samples it while a model is timed.

A script that profiles/worker.py loads when a job names it: standard library, Python >= 3.8. One
`nvidia-smi` runs beside the model and writes a line every 100 ms: SM clock in MHz, temperature in
degrees Celsius, power in W, and the bits of what holds the clock down. It starts after the model is
loaded and before it is warmed up, so that its own start is in no figure. The lines go back as they
are; profiles/telemetry.py reads them. Without the tool, or when it says nothing in time, there are
none, and measuring goes on as if nobody had asked.
"""

from __future__ import annotations

import contextlib
import ctypes
import subprocess
import threading
from typing import Any, List

EVERY_MS = 100
START_S = 3.0  # until the first line; then the tool counts as hanging
MOST = 10_000  # lines of one process
WIDEST = 200  # characters of a line
FIGURES = "clocks.sm,temperature.gpu,power.draw"
# The same bits by their name of today and by that of drivers before 535.
REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")


def bus_id(place: int) -> str:
    """How nvidia-smi finds CUDA's device of this number: by its place on the bus, because CUDA
    counts the fastest first and the tool counts by bus; the number itself where no driver tells."""
    try:
        driver: Any = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return str(place)
    device, text = ctypes.c_int(), ctypes.create_string_buffer(64)
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), place)
        or driver.cuDeviceGetPCIBusId(text, len(text), device)
    )
    return str(place) if failed else text.value.decode("ascii", "replace")


class Watch:
    """Samples of one GPU from now until `stop`.

    Args:
        device: "cuda:0".
    """

    def __init__(self, device: str) -> None:
        self._lines: List[str] = []
        self._first = 0
        self._tool: Any = None
        self._reader = threading.Thread()
        which = bus_id(int(device.split(":")[1]))
        for reasons in REASONS:
            if self._begin(which, reasons):
                break

    def _begin(self, which: str, reasons: str) -> bool:
        """Whether there is nothing more to try: samples come, or the tool is missing or hangs."""
        command = ["nvidia-smi", "-i", which, f"--query-gpu={FIGURES},{reasons}",
                   "--format=csv,noheader,nounits", f"--loop-ms={EVERY_MS}"]  # fmt: skip
        self._lines = []
        told = threading.Event()
        try:
            self._tool = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
        except OSError:
            return True
        # A pipe and not a file: when this process is killed, the tool's next line ends the tool.
        reading = (self._tool.stdout, self._lines, told)
        self._reader = threading.Thread(target=_read, args=reading, daemon=True)
        self._reader.start()
        in_time = told.wait(START_S)
        if self._lines and "," in self._lines[0]:
            return True
        self._end()
        self._lines = []
        return not in_time

    def start(self) -> None:
        """What counts begins now; the last sample before is its first, taken in the warm-up."""
        self._first = max(0, len(self._lines) - 1)

    def stop(self) -> List[str]:
        """The samples' lines; no further ones are taken."""
        lines = self._lines[self._first :]
        self._end()
        return lines

    def _end(self) -> None:
        if self._tool is not None:
            self._tool.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # a driver that hangs
                self._tool.wait(START_S)
            self._reader.join(START_S)
            self._tool = None


def _read(pipe: Any, lines: List[str], told: threading.Event) -> None:
    """Keep the lines as they come, until there are no more."""
    with pipe:
        while len(lines) < MOST:
            line = pipe.readline(WIDEST)
            if not line:
                break
            lines.append(line.decode("ascii", "replace").strip())
            told.set()
    told.set()
