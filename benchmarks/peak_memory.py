"""What lowers the peak memory of ONNX Runtime, by how much, and what it costs in latency.

Three exported models (the digits ResNet-56, an 18-layer ResNet, a 6-layer transformer) in fresh
processes, one thread. Memory: load peak and run peak (VmHWM) above the same process with an empty
model, median of three. Latency: over the runtime's defaults, from processes that hold both sessions
and take turns, in CPU time of the calling thread, which other load on the machine disturbs least;
the malloc setting is then that of the options in question for both.

    python benchmarks/peak_memory.py [--models digits,resnet] [--no-latency] [--out FILE]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

ROOT = Path(__file__).resolve().parents[1]
MEMORY_PROCESSES, PAIRS, ROUNDS = 3, 6, 8
SECONDS = 0.3  # of a process that takes turns, at least
EMPTY = "empty"
THRESHOLD = {"MALLOC_MMAP_THRESHOLD_": "131072"}
BARE = {"session.disable_prepacking": "1"}
ORT_BYTES = {
    "session.use_ort_model_bytes_directly": "1",
    "session.use_ort_model_bytes_for_initializers": "1",
}
SAME: dict[str, Any] = {"extend": 1}  # kSameAsRequested
MAPPED: dict[str, Any] = {"file": "mapped"}
SAVED: dict[str, Any] = {"file": "saved", "level": "ORT_DISABLE_ALL"}
LEAN: dict[str, Any] = {"arena": False, "env": THRESHOLD}
CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "arena off": {"arena": False},
    "threshold": {"env": THRESHOLD},
    "arena off, threshold": LEAN,
    "arena as requested": SAME,
    "arena as requested, threshold": {**SAME, "env": THRESHOLD},
    "arena shrinks after a run": {"shrink": True},
    "memory pattern off": {"pattern": False},
    "device allocator for weights": {
        "entries": {"session.use_device_allocator_for_initializers": "1"}
    },
    "prepacking off": {"entries": BARE},
    "extended": {"level": "ORT_ENABLE_EXTENDED"},
    "ORT format": {"file": "ort", "level": "ORT_DISABLE_ALL", "entries": ORT_BYTES},
    "mapped": MAPPED,
    "mapped, threshold": {**MAPPED, "env": THRESHOLD},
    "mapped, arena off, threshold": {**MAPPED, **LEAN},
    "mapped, threshold, prepacking off": {**MAPPED, "env": THRESHOLD, "entries": BARE},
    "mapped, threshold, extended": {
        **MAPPED, "env": THRESHOLD, "level": "ORT_ENABLE_EXTENDED"
    },
    "mapped, arena off, threshold, extended": {
        **MAPPED, **LEAN, "level": "ORT_ENABLE_EXTENDED"
    },
    "all of these, prepacking off": {
        **MAPPED, **LEAN, "level": "ORT_ENABLE_EXTENDED", "entries": BARE
    },
    "saved optimized, mapped": SAVED,
    "saved optimized, mapped, arena off, threshold": {**SAVED, **LEAN},
}  # fmt: skip
TIMED = (
    "arena off, threshold",
    "threshold",
    "prepacking off",
    "extended",
    "mapped",
    "mapped, threshold",
    "mapped, arena off, threshold",
    "mapped, threshold, prepacking off",
    "mapped, arena off, threshold, extended",
    "saved optimized, mapped",
)


def status() -> dict[str, int]:
    """This process's memory in bytes, by the kernel's names."""
    lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    wanted = ("VmHWM:", "RssAnon:", "RssFile:")
    return {line[0].rstrip(":"): int(line[1]) * 1024 for line in lines if line[0] in wanted}


def session_of(case: dict[str, Any], files: dict[str, str]) -> onnxruntime.InferenceSession:
    """A session with a case's options."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = case.get("arena", True)
    options.enable_mem_pattern = case.get("pattern", True)
    level = case.get("level", "ORT_ENABLE_ALL")
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    for key, value in case.get("entries", {}).items():
        options.add_session_config_entry(key, value)
    if "extend" in case:
        kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
        memory = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
        config = onnxruntime.OrtArenaCfg({"arena_extend_strategy": case["extend"]})
        onnxruntime.create_and_register_allocator(memory, config)
        options.add_session_config_entry("session.use_env_allocators", "1")
    file = files.get(case.get("file", "inside"), files["inside"])
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def child() -> None:
    """Answer one request on stdin: peaks of one case, or the ratio of two in turn."""
    asked = json.loads(sys.stdin.readline())
    with np.load(asked["files"]["inputs"]) as archive:
        feeds = {name.split(":", 1)[1]: archive[name] for name in archive.files}
    if len(asked["cases"]) == 2:
        print(
            json.dumps(in_turn([session_of(one, asked["files"]) for one in asked["cases"]], feeds))
        )
        return
    run_options = onnxruntime.RunOptions()
    if asked["cases"][0].get("shrink"):
        run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    start = time.perf_counter()
    session = session_of(asked["cases"][0], asked["files"])
    loaded, seconds = status(), time.perf_counter() - start
    for _ in range(4):
        session.run(None, feeds, run_options)
    print(json.dumps({"load": loaded, "run": status(), "load_s": seconds}))


def in_turn(sessions: list[onnxruntime.InferenceSession], feeds: dict[str, Any]) -> float:
    """Second / first session's p10."""
    times: list[list[float]] = [[], []]
    for _ in range(3):
        for session in sessions:
            session.run(None, feeds)
    start = time.thread_time()
    while len(times[0]) < ROUNDS or time.thread_time() - start < SECONDS:
        for place in (0, 1) if len(times[0]) % 2 else (1, 0):
            begin = time.thread_time()
            sessions[place].run(None, feeds)
            times[place].append(time.thread_time() - begin)
    return float(np.quantile(times[1], 0.1) / np.quantile(times[0], 0.1))


def ask(files: dict[str, str], *cases: dict[str, Any]) -> Any:
    """A fresh process's answer, by way of a small shell: a child inherits its parent's peak."""
    kept = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", **cases[-1].get("env", {})}
    words = ["/bin/sh", "-c", '"$@"; exit $?', "sh", sys.executable, __file__, "--child"]
    request = json.dumps({"files": files, "cases": cases}) + "\n"
    done = subprocess.run(words, input=request, capture_output=True, text=True, env=kept)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"code {done.returncode}: {last}")
    return json.loads(done.stdout)


def networks() -> dict[str, tuple[Any, Any]]:
    """Three models with random inputs; the last two have random weights."""
    import torch

    spec = importlib.util.spec_from_file_location("nets", Path(__file__).with_name("networks.py"))
    digits = importlib.util.spec_from_file_location("digits", ROOT / "examples/digits/subject.py")
    made = []
    for one in (spec, digits):
        if one is None or one.loader is None:
            raise RuntimeError("A file of this repository is missing.")
        made.append(importlib.util.module_from_spec(one))
        one.loader.exec_module(made[-1])
    torch.manual_seed(0)
    return {
        "digits": (made[1].model(), torch.randn(1, 1, 32, 32)),
        "resnet": (made[0].ResNet18(), torch.randn(1, 3, 224, 224)),
        "transformer": (made[0].Transformer(), torch.randint(0, 12000, (1, 128))),
    }


def prepare(name: str, model: Any, inputs: Any, folder: Path) -> dict[str, str]:
    """A model's files: inside, mapped, saved optimized (mapped too), in ORT's own format."""
    from mpo.exporters.onnx import export_onnx
    from mpo.exporters.runtime import OnnxModel

    files = {kind: str(folder / f"{name}-{kind}.onnx") for kind in ("inside", "mapped", "saved")}
    files |= {"ort": str(folder / f"{name}.ort"), "inputs": str(folder / f"{name}.npz")}
    export_onnx(model, (inputs,), {}, Path(files["inside"]))
    export_onnx(model, (inputs,), {}, Path(files["mapped"]), external_data=True)
    feeds = OnnxModel(Path(files["inside"])).feeds((inputs,), {})
    np.savez(files["inputs"], **{f"input:{key}": value for key, value in feeds.items()})
    for kind in ("saved", "ort"):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = files[kind]
        if kind == "saved":
            prefix = "session.optimized_model_external_initializers_"
            options.add_session_config_entry(f"{prefix}file_name", f"{name}-saved.data")
            options.add_session_config_entry(f"{prefix}min_size_in_bytes", "1024")
        onnxruntime.InferenceSession(files["inside"], options, providers=["CPUExecutionProvider"])
    return files


def empty(folder: Path) -> dict[str, str]:
    """A model that does nothing: the floor."""
    from mpo.profiles.baseline import empty_model

    np.savez(folder / "empty.npz", **{"input:x": np.zeros(1, np.float32)})
    (folder / "empty.onnx").write_bytes(empty_model())
    return {"inside": str(folder / "empty.onnx"), "inputs": str(folder / "empty.npz")}


def weighed(
    files: dict[str, str], floor: dict[str, str], case: dict[str, Any], floors: dict[str, Any]
) -> dict[str, Any]:
    """Peaks in MB above the empty model with the same options, and what the pages are."""
    bare = {key: value for key, value in case.items() if key != "file"}
    if (key := json.dumps(bare, sort_keys=True)) not in floors:
        floors[key] = [ask(floor, bare) for _ in range(MEMORY_PROCESSES)]
    runs = {EMPTY: floors[key]}
    runs["model"] = [ask(files, case) for _ in range(MEMORY_PROCESSES)]

    def median(which: str, when: str, key: str) -> float:
        return statistics.median(run[when][key] for run in runs[which]) / 1e6

    def above(when: str, key: str) -> float:
        return round(median("model", when, key) - median(EMPTY, when, key), 2)

    peaks = [run["run"]["VmHWM"] / 1e6 for run in runs["model"]]
    return {
        "load_mb": above("load", "VmHWM"),
        "peak_mb": above("run", "VmHWM"),
        "spread_mb": round(max(peaks) - min(peaks), 2),
        "own_mb": above("run", "RssAnon"),
        "mapped_mb": above("run", "RssFile"),
    }


def timed(files: dict[str, str], case: dict[str, Any]) -> dict[str, Any]:
    """Latency over the defaults, with both in the same process."""
    from mpo.gate import ratio_interval

    found = [ask(files, {}, case) for _ in range(PAIRS)]
    interval = ratio_interval([math.log(one) for one in found])
    return {
        "ratio": round(interval.estimate, 4),
        "ci95": [round(interval.low, 4), round(interval.high, 4)],
        "ratios": [round(one, 4) for one in found],
    }


def main() -> None:
    """Measure, print, write the raw figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="digits,resnet,transformer")
    parser.add_argument("--no-latency", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/peak_memory.json")
    asked = parser.parse_args()
    result: dict[str, Any] = {
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
    }
    result |= {"machine": platform.machine(), "threads": 1, "batch": 1, "models": {}}
    made = networks()
    with tempfile.TemporaryDirectory() as name:
        floor, floors = empty(Path(name)), dict[str, Any]()
        for model in asked.models.split(","):
            files = prepare(model, *made[model], Path(name))
            size = Path(files["inside"]).stat().st_size / 1e6
            print(f"{model}: {size:.1f} MB", flush=True)
            rows: dict[str, Any] = {}
            for case, options in CASES.items():
                try:
                    rows[case] = weighed(files, floor, options, floors)
                    if case in TIMED and not asked.no_latency:
                        rows[case] |= timed(files, options)
                except RuntimeError as error:
                    rows[case] = {"failed": str(error)}
                print(f"  {case:46}", rows[case], flush=True)
            result["models"][model] = {"file_mb": round(size, 1), "cases": rows}
            asked.out.parent.mkdir(parents=True, exist_ok=True)
            asked.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["--child"]:
        child()
    else:
        main()
