"""A bundle on this machine: what `mpo_edge.py run` costs beside a bare script; rebuilds.

    python -m benchmarks.bundle_start RUN --python PYTHON... [--pairs 20] [--out FILE]

RUN is a finished run; each PYTHON an interpreter with numpy and onnxruntime and nothing else. The
bare script loads the same ONNX file with the same options and runs the same input, the first of
the self-test. It, the program as a file ("script") and as a module, which Python keeps compiled
("module"), run in turn, in fresh processes, and report their own peak memory. Quality is
bundle_examples.py's.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bundle_examples import ROOT, about
from mpo.api.packing import package
from mpo.bundle.reader import open_bundle
from mpo.files import sha256

BARE = """
import json, sys
import numpy, onnxruntime
path, source, target, told = sys.argv[1:]
told = json.loads(told)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = told["threads"], 1
options.enable_cpu_mem_arena = told["arena"]
options.add_session_config_entry("session.intra_op.allow_spinning", "1")
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
arrays = numpy.load(source)
outputs = session.run(None, {name: arrays[name] for name in arrays.files})
numpy.savez(target, **dict(zip([one.name for one in session.get_outputs()], outputs)))
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


NAMES = ("seconds", "cpu_seconds", "peak_bytes")


def lines(python: str, bundle: Path, folder: Path) -> dict[str, list[str]]:
    """The three command lines, and the files that they need."""
    with open_bundle(bundle) as found:
        model = found.unpack_model(folder)
        (folder / "mpo_edge.py").write_bytes(found.read("runtime/mpo_edge.py"))
        session = found.manifest.runtime.session
        with np.load(io.BytesIO(found.read(found.manifest.selftest.inputs))) as samples:
            first = [name for name in samples.files if name.startswith("0:")]
            np.savez(folder / "x.npz", **{name[2:]: samples[name] for name in first})
    (folder / "bare.py").write_text(BARE)
    given, out = str(folder / "x.npz"), str(folder / "y.npz")
    run = ["run", str(bundle), "--input", given, "--output", out]
    told = json.dumps({"threads": session.threads, "arena": session.arena})
    return {
        "bare": [python, str(folder / "bare.py"), str(model), given, out, told],
        "script": [python, str(folder / "mpo_edge.py"), *run],
        "module": [python, "-m", "mpo_edge", *run],
    }


def compare(python: str, bundle: Path, folder: Path, pairs: int) -> dict[str, Any]:
    """The program's runs beside the bare script's; and its first, which copies the model."""
    kinds = lines(python, bundle, folder)
    environment = {"PATH": os.environ["PATH"], "MPO_EDGE_HOME": str(folder / "home")}
    environment["PYTHONPATH"] = str(folder)
    first = measured(kinds["script"], environment)
    measured(kinds["module"], environment)  # compiled once
    rows: dict[str, list[tuple[float, float, int]]] = {name: [] for name in kinds}
    for turn in range(pairs):
        for name in list(kinds)[:: -1 if turn % 2 else 1]:
            rows[name].append(measured(kinds[name], environment))
    told: dict[str, Any] = {**about(python), "first_start": dict(zip(NAMES, first, strict=True))}
    for name in ("script", "module"):
        pairs_of = list(zip(rows[name], rows["bare"], strict=True))
        told[f"{name}_over_bare"] = {
            key: {
                "median": statistics.median(one[at] / bare[at] for one, bare in pairs_of),
                "of_least": min(one[at] for one, _ in pairs_of) / min(b[at] for _, b in pairs_of),
            }
            for at, key in enumerate(NAMES)
        }
    return told | {
        k: [dict(zip(NAMES, row, strict=True)) for row in own] for k, own in rows.items()
    }


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
    line.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/bundle_start.json")
    asked = line.parse_args()
    told: dict[str, Any] = {
        "subject": json.loads((asked.run / "report.json").read_text())["subject"]
    }
    told["load_1min"] = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        package(asked.run, folder / "run.mpo", unmet=True)
        told["rebuilds_sha256"] = [sha256(folder / "run.mpo"), *rebuilds(asked.run, folder)]
        told["devices"] = []
        for place, python in enumerate(asked.python):
            (folder / f"{place}").mkdir()
            row = compare(python, folder / "run.mpo", folder / f"{place}", asked.pairs)
            told["devices"].append(row)
            print(
                row["python"], row["onnxruntime"], row["script_over_bare"], row["module_over_bare"]
            )
    told["load_1min"].append(os.getloadavg()[0])
    asked.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
