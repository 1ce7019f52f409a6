"""The measuring child: loads ONNX files, times them, reads its own peak memory.

A script for profiles/jobs.py, so that neither torch nor mpo is in the measured process. Requests
(models and inputs are names of the job's files; "session" is what records.SessionOptions holds):
    {"job": "solo", "models": [name], "inputs": [npz], "session": {...},
     "seconds": 1, "floor": 50, "cap": 3}
    {"job": "turns", "models": [a, b, ...], "inputs": [npz, npz, ...], ..., "seed": 0}
"sessions" beside "session" gives each of the models in turn its own options; with "cpu_time" they
are timed in CPU time of the calling thread, which other load on the machine hardly disturbs, and
which is all the time there is on one thread of a CPU.
"""

from __future__ import annotations

import json
import math
import os
import random
import statistics
import sys
import time
from typing import Any, Callable

import numpy as np
import onnxruntime

WINDOW = 10  # calls per warm-up window
STEADY = 0.05  # three windows whose medians lie this close are steady
WARMUP_NS = 200_000_000
SHORT_NS = 200_000  # calls in turn are timed together until they take this long
CALLS = 16  # together at most
LEVELS = {
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
MOST = 100_000  # samples of one process


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


class Unable(Exception):
    """What the user must do before this device can answer: a sentence and a hint."""


def open_session(name: str, request: dict[str, Any]) -> onnxruntime.InferenceSession:
    """A session with the request's options on the request's device."""
    return open_with(request["session"], request["files"][name])


def open_with(asked: dict[str, Any], path: str) -> onnxruntime.InferenceSession:
    """A session with these options (those of malloc came with the environment)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = asked["threads"]
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = asked["arena"]
    options.graph_optimization_level = LEVELS[asked["optimization"]]
    options.log_severity_level = 3
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "1" if asked["spinning"] else "0"
    )
    options.add_session_config_entry(
        "session.disable_prepacking", "0" if asked["prepacking"] else "1"
    )
    return onnxruntime.InferenceSession(path, options, providers=providers(asked["device"]))


def providers(device: str) -> list[Any]:
    """Execution providers for "cpu" or "cuda:N"; never a silent fall-back to the CPU."""
    if device == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise Unable(
            f"onnxruntime {onnxruntime.__version__} has no CUDAExecutionProvider for {device}.",
            "Install onnxruntime-gpu in the place of onnxruntime: pip install onnxruntime-gpu",
        )
    return [("CUDAExecutionProvider", {"device_id": int(device.split(":")[1])})]


def load_inputs(name: str, request: dict[str, Any]) -> dict[str, Any]:
    """Arrays by input name."""
    with np.load(request["files"][name], allow_pickle=False) as archive:
        return {name.split(":", 1)[1]: archive[name] for name in archive.files}


def timed(
    session: onnxruntime.InferenceSession,
    feeds: dict[str, Any],
    calls: int,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> float:
    """Mean nanoseconds of `calls` calls in a row."""
    start = clock()
    for _ in range(calls):
        session.run(None, feeds)
    return (clock() - start) / calls


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
    """Load and first-call time, steady single-call times, peak memory after load and at the end.

    The inputs and room for the samples are there before the model is: both are in the empty
    model's figures too, so that neither counts as the model's memory, but for inputs larger than
    the empty model's.
    """
    feeds = load_inputs(request["inputs"][0], request)
    room = np.ones(MOST)
    start = time.perf_counter_ns()
    session = open_session(request["models"][0], request)
    load_ms = (time.perf_counter_ns() - start) / 1e6
    load_peak = peak_memory_bytes()
    first_ms = timed(session, feeds, 1) / 1e6
    taken, steady = 0, True
    if request["seconds"] > 0:
        steady = warm_up(session, feeds, request["cap"])
    begin = time.perf_counter_ns()
    while taken < MOST and (
        taken < request["floor"] or time.perf_counter_ns() - begin < request["seconds"] * 1e9
    ):
        room[taken] = timed(session, feeds, 1) / 1e6
        taken += 1
    peak = peak_memory_bytes()  # before the samples become a list
    return {
        "load_ms": load_ms,
        "first_ms": first_ms,
        "samples_ms": room[:taken].tolist(),
        "steady": steady,
        "load_peak": load_peak,
        "peak": peak,
    }


def turns(request: dict[str, Any]) -> dict[str, Any]:
    """Models in turn, each round in a random order and then in its reverse (AB then BA), so that
    noise meets all alike; one low quantile each."""
    options = request.get("sessions") or [request["session"]] * len(request["models"])
    sessions = [open_with(o, request["files"][n]) for o, n in zip(options, request["models"])]
    feeds = [load_inputs(name, request) for name in request["inputs"]]
    rough = [min(timed(s, f, 1) for _ in range(5)) for s, f in zip(sessions, feeds)]
    warm = time.perf_counter_ns()
    while time.perf_counter_ns() - warm < WARMUP_NS:
        for session, feed in zip(sessions, feeds):
            timed(session, feed, 1)
    calls = [max(1, min(CALLS, math.ceil(SHORT_NS / one))) for one in rough]
    work = sum(one * count for one, count in zip(rough, calls))
    rounds = max(request["floor"], int(request["seconds"] * 1e9 / work))
    clock = time.thread_time_ns if request.get("cpu_time") else time.perf_counter_ns
    shuffle, order = random.Random(request["seed"]), list(range(len(sessions)))
    samples: list[list[float]] = [[] for _ in sessions]
    for turn in range(rounds):
        if turn % 2 == 0:
            shuffle.shuffle(order)
        for which in order if turn % 2 == 0 else order[::-1]:
            mean = timed(sessions[which], feeds[which], calls[which], clock)
            samples[which].append(mean / 1e6)
    return {"p10_ms": [float(np.quantile(times, 0.1)) for times in samples], "rounds": rounds}


def main() -> None:
    """Answer the request; whatever a library prints on stdout goes to stderr."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = json.loads(sys.stdin.readline())
    try:
        result = {"solo": solo, "turns": turns}[request["job"]](request)
    except Unable as error:
        result = {"error": error.args[0], "hint": error.args[1]}
    answer.write(json.dumps(result) + "\n")
    answer.close()


if __name__ == "__main__":
    main()
