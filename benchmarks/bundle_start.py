"""A bundle on this machine: what `mpo_edge.py run` costs beside a bare script, accuracy, rebuilds.

    python -m benchmarks.bundle_start RUN --python PYTHON... -o benchmarks/results/bundle_start.json

RUN is a finished run of examples/digits; each PYTHON an interpreter with numpy and onnxruntime and
nothing else. The bare script loads the same ONNX file with the same options and runs the same
input; both run in turn, in fresh processes, and report their own peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from examples.digits.subject import splits
from mpo.api.packing import package
from mpo.bundle.reader import open_bundle
from mpo.store import sha256

BARE = """
import json, sys
import numpy, onnxruntime
path, source, target, threads = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = int(threads), 1
options.add_session_config_entry("session.intra_op.allow_spinning", "1")
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
array = numpy.load(source)
(output,) = session.run(None, {session.get_inputs()[0].name: array})
numpy.savez(target, output=output)
"""


# A small process between: the kernel hands a parent's peak memory down to its child.
SPAWN = """
import json, os, sys, time
start = time.perf_counter()
child = os.spawnvpe(os.P_NOWAIT, sys.argv[1], sys.argv[1:], dict(os.environ))
_, status, used = os.wait4(child, 0)
assert status == 0, status
told = [time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024]
print(json.dumps(told), file=sys.stderr)
"""


def measured(line: list[str], environment: dict[str, str]) -> tuple[float, float, int]:
    """Seconds of wall clock and of processor time of a fresh process, and its peak in bytes."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", SPAWN, *line],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, check=True,
    )  # fmt: skip
    wall, cpu, peak = json.loads(done.stderr.decode().strip().splitlines()[-1])
    return wall, cpu, peak


def compare(python: str, bundle: Path, folder: Path, pairs: int) -> dict[str, Any]:
    """The program's run beside the bare script's, in turn."""
    with open_bundle(bundle) as found:
        (folder / "model.onnx").write_bytes(found.read("model/model.onnx"))
        (folder / "mpo_edge.py").write_bytes(found.read("runtime/mpo_edge.py"))
        threads = str(found.manifest.runtime.session.threads)
    images, _ = splits()["test"]
    np.save(folder / "x.npy", images[:1].numpy())
    (folder / "bare.py").write_text(BARE)
    environment = {"PATH": os.environ["PATH"], "MPO_EDGE_HOME": str(folder / "home")}
    inputs, out = str(folder / "x.npy"), str(folder / "y.npz")
    edge = [python, "-I", str(folder / "mpo_edge.py"), "run", str(bundle)]
    edge += ["--input", inputs, "--output", out]
    bare = [python, "-I", str(folder / "bare.py"), str(folder / "model.onnx"), inputs, out, threads]
    first = measured(edge, environment)
    rows: dict[str, list[tuple[float, float, int]]] = {"edge": [], "bare": []}
    for turn in range(pairs):
        for name in ("edge", "bare") if turn % 2 else ("bare", "edge"):
            rows[name].append(measured(edge if name == "edge" else bare, environment))
    ratios = [
        statistics.median(one[key] / other[key] for one, other in zip(*rows.values(), strict=True))
        for key in range(3)
    ]
    names = ("seconds", "cpu_seconds", "peak_bytes")
    return {
        "ratio": dict(zip(names, ratios, strict=True)),
        "first_start": dict(zip(names, first, strict=True)),
        **{name: [dict(zip(names, row, strict=True)) for row in own] for name, own in rows.items()},
    }


def accuracy(python: str, bundle: Path, folder: Path) -> float:
    """Top-1 on the whole test split, through the program alone."""
    images, labels = splits()["test"]
    np.save(folder / "all.npy", images.numpy())
    environment = {"PATH": os.environ["PATH"], "MPO_EDGE_HOME": str(folder / "home")}
    line = [python, "-I", str(bundle), "run", "--input", str(folder / "all.npy")]
    out = folder / "all.npz"
    subprocess.run([*line, "--output", str(out)], env=environment, check=True, capture_output=True)
    with np.load(out) as found:
        (name,) = found.files
        return float((found[name].argmax(1) == labels.numpy()).mean())


def rebuilds(run: Path, folder: Path) -> list[str]:
    """sha256 of bundles made in other folders, locales and time zones."""
    code = "import sys; from mpo.api.packing import package; package(*sys.argv[1:3])"
    found = []
    for place, (locale, zone) in enumerate((("C", "UTC"), ("tr_TR.UTF-8", "Asia/Kolkata"))):
        home = folder / f"place {place}"
        home.mkdir()
        environment = {**os.environ, "LC_ALL": locale, "TZ": zone}
        line = [sys.executable, "-c", code, str(run.resolve()), "x.mpo"]
        subprocess.run(line, cwd=home, env=environment, check=True)
        found.append(sha256(home / "x.mpo"))
    return found


def main() -> None:
    """Measure and write."""
    line = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    line.add_argument("run", type=Path)
    line.add_argument("--python", nargs="+", required=True)
    line.add_argument("--pairs", type=int, default=20)
    line.add_argument("-o", "--output", type=Path, required=True)
    asked = line.parse_args()
    report = json.loads((asked.run / "report.json").read_text())
    told: dict[str, Any] = {"report_accuracy": report["optimized"]["quality"]["value"]}
    told["load_1min"] = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        package(asked.run, folder / "run.mpo")
        told["rebuilds_sha256"] = [sha256(folder / "run.mpo"), *rebuilds(asked.run, folder)]
        for python in asked.python:
            script = "import sys, onnxruntime as o; print(*sys.version_info[:2], o.__version__)"
            about = subprocess.run(
                [python, "-c", script], capture_output=True, text=True, check=True
            )
            own = folder / str(len(told))
            own.mkdir()
            told[about.stdout.strip()] = {
                "accuracy": accuracy(python, folder / "run.mpo", own),
                **compare(python, folder / "run.mpo", own, asked.pairs),
            }
    asked.output.write_text(json.dumps(told, indent=1) + "\n")
    for key, value in told.items():
        print(key, value if not isinstance(value, dict) else (value["accuracy"], value["ratio"]))


if __name__ == "__main__":
    main()
