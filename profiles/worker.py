"""The measuring child: loads ONNX files, times them, reads its own peak memory.

Run by path as a script, so that neither torch nor mpo is in the measured process: it needs numpy
and onnxruntime only. Reads one JSON request
on stdin, writes one JSON answer on stdout:
    {"job": "solo", "models": [path], "inputs": [npz], "threads": 1, "arena": false, "spin": true,
     "seconds": 1, "floor": 50, "cap": 3}
    {"job": "pair", "models": [a, b], "inputs": [npz, npz], ...}
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from typing import Any

import numpy as np
import onnxruntime

WINDOW = 10  # calls per warm-up window
STEADY = 0.05  # three windows whose medians lie this close are steady
WARMUP_NS = 200_000_000
SHORT_NS = 200_000  # calls shorter than this are timed four at a time


def peak_memory_bytes() -> int | None:
    """VmHWM: this process's own peak. Not ru_maxrss, which a child inherits from its parent."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:  # noqa: PTH123
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None


def open_session(path: str, request: dict[str, Any]) -> onnxruntime.InferenceSession:
    """A CPU session with the request's threads, arena and spinning."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = request["threads"]
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = request["arena"]
    options.log_severity_level = 3
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "1" if request["spin"] else "0"
    )
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def load_inputs(path: str) -> dict[str, Any]:
    """Arrays by input name."""
    with np.load(path, allow_pickle=False) as archive:
        return {name.removeprefix("input:"): archive[name] for name in archive.files}


def timed(session: onnxruntime.InferenceSession, feeds: dict[str, Any], calls: int) -> float:
    """Mean nanoseconds of `calls` calls in a row."""
    start = time.perf_counter_ns()
    for _ in range(calls):
        session.run(None, feeds)
    return (time.perf_counter_ns() - start) / calls


def warm_up(session: onnxruntime.InferenceSession, feeds: dict[str, Any], cap: float) -> bool:
    """Run until three windows agree and 0.2 s are over; False when `cap` seconds are too few."""
    start, medians = time.perf_counter_ns(), []
    while True:
        medians.append(statistics.median(timed(session, feeds, 1) for _ in range(WINDOW)))
        spent, last = time.perf_counter_ns() - start, medians[-3:]
        steady = len(last) == 3 and max(last) <= (1 + STEADY) * min(last)
        if steady and spent >= WARMUP_NS:
            return True
        if spent >= cap * 1e9:
            return steady


def solo(request: dict[str, Any]) -> dict[str, Any]:
    """Load and first-call time, steady single-call times, peak memory after load and at the end."""
    feeds = load_inputs(request["inputs"][0])  # first: it is no part of the model's memory
    start = time.perf_counter_ns()
    session = open_session(request["models"][0], request)
    load_ms = (time.perf_counter_ns() - start) / 1e6
    load_peak = peak_memory_bytes()
    first_ms = timed(session, feeds, 1) / 1e6
    samples: list[float] = []
    steady = True
    if request["seconds"] > 0:
        steady = warm_up(session, feeds, request["cap"])
    begin = time.perf_counter_ns()
    while len(samples) < request["floor"] or (
        time.perf_counter_ns() - begin < request["seconds"] * 1e9
    ):
        samples.append(timed(session, feeds, 1) / 1e6)
    return {
        "load_ms": load_ms,
        "first_ms": first_ms,
        "samples_ms": samples,
        "steady": steady,
        "load_peak": load_peak,
        "peak": peak_memory_bytes(),
    }


def pair(request: dict[str, Any]) -> dict[str, Any]:
    """Two models in turn, AB then BA, so that noise meets both alike; one low quantile each."""
    sessions = [open_session(path, request) for path in request["models"]]
    feeds = [load_inputs(path) for path in request["inputs"]]
    rough = [min(timed(s, f, 1) for _ in range(5)) for s, f in zip(sessions, feeds, strict=True)]
    warm = time.perf_counter_ns()
    while time.perf_counter_ns() - warm < WARMUP_NS:
        for session, feed in zip(sessions, feeds, strict=True):
            timed(session, feed, 1)
    calls = 4 if min(rough) < SHORT_NS else 1
    rounds = max(request["floor"], int(request["seconds"] * 1e9 / (sum(rough) * calls)))
    samples: list[list[float]] = [[], []]
    for turn in range(rounds):
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            samples[which].append(timed(sessions[which], feeds[which], calls) / 1e6)
    return {"p10_ms": [float(np.quantile(times, 0.1)) for times in samples], "rounds": rounds}


def main() -> None:
    """Answer the request; whatever a library prints on stdout goes to stderr."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = json.loads(sys.stdin.readline())
    result = {"solo": solo, "pair": pair}[request["job"]](request)
    answer.write(json.dumps(result) + "\n")
    answer.close()


if __name__ == "__main__":
    main()
