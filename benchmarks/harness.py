"""What mpo's own measuring adds: its figures against those of a plain loop around `session.run`.

Fresh processes of both, in turn, on one and the same model: by the wall clock, as a model alone is
timed, and by processor time, as models in turn are on one thread. On a machine that others keep
busy only the second means anything. The ratio of p10 and of p50 over pairs; below it, what a
process of mpo costs beside the calls that it times.

    python benchmarks/harness.py [--pairs 20] [--seconds 1] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mpo.gate import percentile, ratio_interval
from mpo.profiles.device import describe
from mpo.profiles.jobs import Job
from mpo.profiles.local import LocalTarget
from mpo.profiles.modeljobs import asking, model_job
from mpo.profiles.noise import small_model
from mpo.records import SessionOptions

ROOT = Path(__file__).resolve().parents[1]
PLAIN = """
import json, sys, time
import numpy, onnxruntime
request = json.loads(sys.stdin.readline())
files = request["files"]
with numpy.load(files["inputs0.npz"]) as archive:
    feeds = {name.split(":", 1)[1]: archive[name] for name in archive.files}
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(
    files[request["models"][0]], options, providers=["CPUExecutionProvider"]
)
for _ in range(30):
    session.run(None, feeds)
wall, cpu, end = [], [], time.perf_counter() + request["seconds"]
while time.perf_counter() < end or len(wall) < 60:
    start, begin = time.perf_counter(), time.thread_time()
    session.run(None, feeds)
    cpu.append(1e3 * (time.thread_time() - begin))
    wall.append(1e3 * (time.perf_counter() - start))
print(json.dumps({"wall": wall, "cpu": cpu}))
"""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/harness.json")
    given = parser.parse_args()
    target, load = LocalTarget(), [os.getloadavg()[0]]
    runs: dict[str, list[dict[str, Any]]] = {"plain": [], "alone": [], "in turn": []}
    spent: dict[str, list[float]] = {kind: [] for kind in runs}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = {"x": np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32)}
        job = model_job([small_model(folder)], [inputs], folder, SessionOptions(), 300.0)
        script = folder / "plain.py"
        script.write_text(PLAIN)
        asked = asking(job, job="solo", seconds=given.seconds, floor=60)
        jobs = {
            "alone": asked,
            "in turn": asking(asked, job="turns", seed=0, cpu_time=True),
            "plain": Job("ran plainly", script, asked.request, asked.files),
        }
        for pair in range(given.pairs):
            for kind in list(jobs)[:: 1 if pair % 2 else -1]:
                start = time.monotonic()
                runs[kind].append(target.run(jobs[kind]))
                spent[kind].append(time.monotonic() - start)
            load.append(os.getloadavg()[0])
    rows = list(compare(runs))
    for row in rows:
        print("{what}: mpo / plain {ratio:.4f} [{low:.4f}, {high:.4f}]".format(**row))
    idle = {kind: statistics.median(times) - given.seconds for kind, times in spent.items()}
    print(
        "beside the timed calls, s a process: " + ", ".join(f"{k} {v:.2f}" for k, v in idle.items())
    )
    result = {
        "command": f"python benchmarks/harness.py --pairs {given.pairs} --seconds {given.seconds}",
        "ratios": rows,
        "p10_cpu_ms": [
            (percentile(plain["cpu"], 0.1), mine["p10_ms"][0])
            for plain, mine in zip(runs["plain"], runs["in turn"], strict=True)
        ],
        "seconds_beside": idle,
        "load_mean": statistics.fmean(load),
        "device": describe(target).model_dump(mode="json"),
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n")


def compare(runs: dict[str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """mpo over the plain loop, by clock and percentile."""
    for clock, kind, share in (
        ("cpu", "in turn", 0.1),
        ("wall", "alone", 0.1),
        ("wall", "alone", 0.5),
    ):
        logs = []
        for plain, mine in zip(runs["plain"], runs[kind], strict=True):
            own = mine["p10_ms"][0] if clock == "cpu" else percentile(mine["samples_ms"], share)
            logs.append(math.log(own / percentile(plain[clock], share)))
        found = ratio_interval(logs)
        what = f"p{100 * share:.0f}, {'processor time' if clock == 'cpu' else 'wall clock'}"
        yield {"what": what, "ratio": found.estimate, "low": found.low, "high": found.high}


if __name__ == "__main__":
    main()
