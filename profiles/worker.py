"""The measuring child: loads ONNX files, times them, reads its own peak memory.

A script for profiles/jobs.py, so that neither torch nor mpo is in the measured process. Requests
(models and inputs are names of the job's files; "session" is what records.SessionOptions holds):
    {"job": "solo", "models": [name], "inputs": [npz], "session": {...},
     "seconds": 1, "floor": 50, "warm_up": [0.2, 3]}
    with "sampled": true its peak is sampled as on systems that tell none
    {"job": "turns", "models": [a, b, ...], "inputs": [npz, npz, ...], ..., "seed": 0}
"sessions" beside "session" gives each of the models in turn its own options; with "cpu_time" they
are timed in CPU time of the calling thread, which other load on the machine hardly disturbs, and
which is all the time there is on one thread of a CPU.

With "adapter", the name of a job's file, that script opens the models in the place of onnxruntime:
it has `open_model(path, session)`, whose result has `run(None, feeds)`, back when the outputs are
there; with an attribute `device_ms`, the device's own time of the last call, that is told too.

With "watch", the name of a job's file, that script samples the GPU while models are timed (see
gpuwatch.py): the answer's "telemetry" has its lines.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from typing import Any, Callable

import numpy as np
import onnxruntime

WINDOW = 10  # calls per warm-up window
STEADY = 0.05  # three windows whose medians lie this close are steady
SHORT_NS = 200_000  # calls in turn are timed together until they take this long
CALLS = 16  # together at most
LEVELS = {
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
SAMPLED_S = 0.01  # between two looks at the resident size, where the system tells no peak
MOST = 100_000  # samples of one process


def vm_hwm() -> int | None:
    """VmHWM: this process's own peak. Not ru_maxrss, which a child inherits from its parent."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:  # noqa: PTH123
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None


class Memory:
    """This process's own peak: as Linux tells it; else the largest resident size that `ps` saw.

    Attributes:
        method: "vmhwm" or "rss-sampled".
    """

    def __init__(self, sampled: bool) -> None:
        self.method = "rss-sampled" if sampled or vm_hwm() is None else "vmhwm"
        self._peak, self._over = 0, threading.Event()
        if self.method == "rss-sampled":
            threading.Thread(target=self._watch, daemon=True).start()

    def peak(self) -> int | None:
        """The most until now; None where nothing tells it."""
        if self.method == "vmhwm":
            return vm_hwm()
        self._look()
        return self._peak or None

    def rest(self) -> None:
        """No more samples: they would disturb what is timed next."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(SAMPLED_S):
            self._look()

    def _look(self) -> None:
        try:
            command = ["ps", "-o", "rss=", "-p", str(os.getpid())]
            told = subprocess.run(command, capture_output=True, timeout=5, check=True).stdout
            self._peak = max(self._peak, int(told) * 1024)
        except (OSError, ValueError, subprocess.SubprocessError):
            return


class Unable(Exception):
    """What the user must do before this device can answer: a sentence and a hint."""


def open_session(name: str, request: dict[str, Any]) -> onnxruntime.InferenceSession:
    """A session with the request's options on the request's device."""
    return open_with(request["session"], name, request)


def open_with(asked: dict[str, Any], name: str, request: dict[str, Any]) -> Any:
    """A session with these options (those of malloc came with the environment)."""
    path = request["files"][name]
    if "adapter" in request:
        return adapter(request["files"][request["adapter"]]).open_model(path, asked)
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


def adapter(path: str) -> Any:
    """A script that came with the job, as a module."""
    spec: Any = importlib.util.spec_from_file_location("adapter", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def warm_up(
    session: onnxruntime.InferenceSession, feeds: dict[str, Any], least: float, most: float
) -> bool:
    """Run until three windows agree and `least` seconds are over; False when `most` are too few."""
    start, medians = time.perf_counter_ns(), []
    while True:
        medians.append(statistics.median(timed(session, feeds, 1) for _ in range(WINDOW)))
        spent, last = time.perf_counter_ns() - start, medians[-3:]
        steady = len(last) == 3 and max(last) <= (1 + STEADY) * min(last)
        if steady and spent >= least * 1e9:
            return True
        if spent >= most * 1e9:
            return steady


def watching(request: dict[str, Any]) -> Any:
    """What samples the GPU from now on; None when nobody asks."""
    if "watch" not in request:
        return None
    return adapter(request["files"][request["watch"]]).Watch(request["session"]["device"])


def solo(request: dict[str, Any]) -> dict[str, Any]:
    """Load and first-call time, steady single-call times, peak memory after load and at the end.

    The inputs and room for the samples are there before the model is: both are in the empty
    model's figures too, so that neither counts as the model's memory, but for inputs larger than
    the empty model's.
    """
    memory = Memory(bool(request.get("sampled")))
    feeds = load_inputs(request["inputs"][0], request)
    room, inside = np.ones(MOST), np.ones(MOST)
    start = time.perf_counter_ns()
    session = open_session(request["models"][0], request)
    load_ms = (time.perf_counter_ns() - start) / 1e6
    load_peak = memory.peak()
    first_ms = timed(session, feeds, 1) / 1e6
    taken, steady, watch = 0, True, None
    if request["seconds"] > 0:
        memory.rest()
        watch = watching(request)
        steady = warm_up(session, feeds, *request["warm_up"])
    if watch:
        watch.start()
    begin = time.perf_counter_ns()
    while taken < MOST and (
        taken < request["floor"] or time.perf_counter_ns() - begin < request["seconds"] * 1e9
    ):
        room[taken] = timed(session, feeds, 1) / 1e6
        inside[taken] = getattr(session, "device_ms", 0.0)
        taken += 1
    peak = memory.peak()  # before the samples become a list
    return {
        "load_ms": load_ms,
        "first_ms": first_ms,
        "samples_ms": room[:taken].tolist(),
        "device_ms": inside[:taken].tolist() if hasattr(session, "device_ms") else [],
        "steady": steady,
        "load_peak": load_peak,
        "peak": peak,
        "memory_method": memory.method,
        **({"telemetry": watch.stop()} if watch else {}),
    }


def turns(request: dict[str, Any]) -> dict[str, Any]:
    """Models in turn, each round in a random order and then in its reverse (AB then BA), so that
    noise meets all alike; one low quantile each."""
    options = request.get("sessions") or [request["session"]] * len(request["models"])
    sessions = [open_with(o, n, request) for o, n in zip(options, request["models"])]
    feeds = [load_inputs(name, request) for name in request["inputs"]]
    rough = [min(timed(s, f, 1) for _ in range(5)) for s, f in zip(sessions, feeds)]
    watch = watching(request)
    warm = time.perf_counter_ns()
    while time.perf_counter_ns() - warm < request["warm_up"][0] * 1e9:
        for session, feed in zip(sessions, feeds):
            timed(session, feed, 1)
    calls = [max(1, min(CALLS, math.ceil(SHORT_NS / one))) for one in rough]
    work = sum(one * count for one, count in zip(rough, calls))
    rounds = max(request["floor"], int(request["seconds"] * 1e9 / work))
    clock = time.thread_time_ns if request.get("cpu_time") else time.perf_counter_ns
    shuffle, order = random.Random(request["seed"]), list(range(len(sessions)))
    samples: list[list[float]] = [[] for _ in sessions]
    if watch:
        watch.start()
    for turn in range(rounds):
        if turn % 2 == 0:
            shuffle.shuffle(order)
        for which in order if turn % 2 == 0 else order[::-1]:
            mean = timed(sessions[which], feeds[which], calls[which], clock)
            samples[which].append(mean / 1e6)
    told = {"telemetry": watch.stop()} if watch else {}
    p10_ms = [float(np.quantile(times, 0.1)) for times in samples]
    return {"p10_ms": p10_ms, "rounds": rounds, **told}


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
