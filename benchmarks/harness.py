"""What mpo's own measuring adds: its figures against those of a plain loop around `session.run`.

Fresh processes of both, in turn, on one and the same model; the ratio of p10 and of p50 over pairs.
Below it, what a bench costs beside the calls that it times.

    python benchmarks/harness.py [--pairs 20] [--seconds 1] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
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
times, end = [], time.perf_counter() + request["seconds"]
while time.perf_counter() < end:
    start = time.perf_counter()
    session.run(None, feeds)
    times.append(1e3 * (time.perf_counter() - start))
print(json.dumps({"samples_ms": times}))
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
    target = LocalTarget()
    runs: dict[str, list[Any]] = {"plain": [], "mpo": []}
    spent: dict[str, list[float]] = {"plain": [], "mpo": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = {"x": np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32)}
        job = model_job([small_model(folder)], [inputs], folder, SessionOptions(), 300.0)
        script = folder / "plain.py"
        script.write_text(PLAIN)
        asked = asking(job, job="solo", seconds=given.seconds, floor=50)
        jobs = {"mpo": asked, "plain": Job("ran plainly", script, asked.request, asked.files)}
        for pair in range(given.pairs):
            for kind in ("plain", "mpo") if pair % 2 == 0 else ("mpo", "plain"):
                start = time.monotonic()
                runs[kind].append(target.run(jobs[kind])["samples_ms"])
                spent[kind].append(time.monotonic() - start)
    rows = {}
    for share in (0.1, 0.5):
        both = zip(runs["mpo"], runs["plain"], strict=True)
        logs = [math.log(percentile(a, share) / percentile(b, share)) for a, b in both]
        ratio = ratio_interval(logs)
        rows[f"p{100 * share:.0f}"] = {"ratio": ratio.estimate, "ci95": [ratio.low, ratio.high]}
        print(
            f"p{100 * share:.0f}: mpo / plain {ratio.estimate:.4f} "
            f"[{ratio.low:.4f}, {ratio.high:.4f}]"
        )
    idle = {kind: statistics.median(times) - given.seconds for kind, times in spent.items()}
    print(f"beside the timed calls: mpo {idle['mpo']:.2f} s, plain {idle['plain']:.2f} s a process")
    result = {
        "command": f"python benchmarks/harness.py --pairs {given.pairs} --seconds {given.seconds}",
        "ratios": rows,
        "seconds_beside": idle,
        "device": describe(target).model_dump(mode="json"),
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
