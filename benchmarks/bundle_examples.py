"""A bundle of each run, on a bare Python without a network: verify, selftest, bench, and quality.

    python -m benchmarks.bundle_examples RUN... --python PYTHON... [--out FILE]

Each PYTHON is an interpreter with numpy and onnxruntime and nothing else. Here, with torch, the
whole test split of the run's own subject is written as .npz, a file a batch; there the program
out of the bundle runs every one of them; here the subject's metric judges what came back. That
quality must be the report's. `unshare --net` takes the network away where the system allows it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mpo.api.packing import package
from mpo.bundle.reader import open_bundle
from mpo.exporters.runtime import OnnxModel
from mpo.optimizer.data.batches import Batch
from mpo.optimizer.data.quality import evaluate, predictor
from mpo.optimizer.data.subject import Subject
from mpo.pipeline.run.rebuilt import read_report, subject_of_run
from mpo.timing import Stopwatch

ROOT = Path(__file__).resolve().parents[1]
ABOUT = """
import json, platform
from importlib.metadata import distributions
import onnxruntime
names = sorted({one.metadata["Name"].lower() for one in distributions()})
print(json.dumps([platform.python_version(), onnxruntime.__version__, names]))
"""


def about(python: str) -> dict[str, Any]:
    """What an interpreter is, and which distributions it has."""
    done = subprocess.run([python, "-I", "-c", ABOUT], capture_output=True, text=True, check=True)
    version, runtime, names = json.loads(done.stdout)
    return {"python": version, "onnxruntime": runtime, "distributions": names}


def isolated() -> list[str]:
    """A command's beginning that takes its network away; empty where that is not allowed."""
    for words in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        try:
            if not subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
                return words
        except OSError:
            break
    return []


class Device:
    """A bundle as a device runs it: its own program, a bare Python, a state folder of its own."""

    def __init__(self, python: str, bundle: Path, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.prefix = folder, isolated()
        self.line = [*self.prefix, python, "-I", str(bundle)]
        self.environment = {"PATH": os.environ["PATH"], "MPO_EDGE_HOME": str(folder / "home")}

    def ask(self, *words: str) -> dict[str, Any]:
        """One command: its answer, and the exit code as `code`."""
        done = subprocess.run(
            [*self.line, *words], env=self.environment, capture_output=True, check=False
        )
        return {"code": done.returncode, **json.loads(done.stdout or b"{}")}

    def run(self, feeds: dict[str, Any]) -> list[torch.Tensor]:
        """The outputs of one call, in the model's order."""
        np.savez(self.folder / "x.npz", **feeds)
        given, wanted = str(self.folder / "x.npz"), self.folder / "y.npz"
        told = self.ask("run", "--input", given, "--output", str(wanted))
        if told["code"]:
            raise SystemExit(f"run ended with {told}")
        with np.load(wanted) as found:
            return [torch.from_numpy(found[name]) for name in found.files]


def quality(device: Device, bundle: Path, subject: Subject, seed: int) -> dict[str, Any]:
    """The subject's metric on the whole test split, of what the device answers."""
    with open_bundle(bundle) as found:
        model = OnnxModel(found.unpack_model(device.folder / "model"))
    calls = 0

    def predict(batch: Batch) -> Any:
        nonlocal calls
        calls += 1
        outputs = device.run(model.feeds(batch.args, batch.kwargs))
        return outputs[0] if len(outputs) == 1 else dict(zip(model.outputs, outputs, strict=True))

    split = subject.splits(seed).test
    told = evaluate(predict, subject, split, predictor(subject.build()), interval=False)
    return {"metric": told.metric, "value": told.value, "samples": told.samples, "calls": calls}


def shown(python: str, bundle: Path, subject: Subject, seed: int, folder: Path) -> dict[str, Any]:
    """All that a device with this Python can show of a bundle."""
    device, watch = Device(python, bundle, folder), Stopwatch()
    told = {name: device.ask(name) for name in ("verify", "info", "selftest")}
    bench = device.ask("bench", "--seconds", "1", "--processes", "3")
    keys = ("latency_p50_ms", "latency_p90_ms", "peak_memory_bytes", "threads", "batch", "calls")
    return {
        **about(python),
        "network": "none" if device.prefix else "not taken away",
        "codes": {**{name: one["code"] for name, one in told.items()}, "bench": bench["code"]},
        "selftest": told["selftest"]["backends"],
        "bench": {key: bench[key] for key in keys},
        "quality": quality(device, bundle, subject, seed),
        "seconds": watch.seconds,
    }


def rows(runs: list[Path], pythons: list[str], scratch: Path) -> Iterator[dict[str, Any]]:
    """One a run."""
    for place, run in enumerate(runs):
        report, bundle = read_report(run), scratch / f"{place}.mpo"
        subject = subject_of_run(run)
        package(run, bundle, unmet=True)
        own = report.optimized.quality
        row: dict[str, Any] = {
            "subject": report.subject,
            "removed": len(report.removed),
            "blocks": report.blocks,
            "bundle_bytes": bundle.stat().st_size,
            "report": {"metric": own.metric, "value": own.value, "samples": own.samples},
            "load_1min": os.getloadavg()[0],
            "devices": [],
        }
        for number, python in enumerate(pythons):
            told = shown(python, bundle, subject, report.seed, scratch / f"{place}-{number}")
            same = {key: told["quality"][key] for key in row["report"]} == row["report"]
            row["devices"].append({**told, "quality_is_the_reports": same})
        yield row


def main() -> None:
    """Show each, print a line a device, write the JSON after each run."""
    line = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    line.add_argument("run", type=Path, nargs="+")
    line.add_argument("--python", nargs="+", required=True)
    line.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/bundle_examples.json")
    asked, found = line.parse_args(), []
    with tempfile.TemporaryDirectory() as scratch:
        for row in rows(asked.run, asked.python, Path(scratch)):
            found.append(row)
            asked.out.write_text(json.dumps(found, indent=1) + "\n")
            for device in row["devices"]:
                runtime = f"Python {device['python']}, onnxruntime {device['onnxruntime']}"
                same = (
                    "the report's" if device["quality_is_the_reports"] else f"not {row['report']}"
                )
                told = f"{device['quality']['value']} on {device['quality']['samples']}: {same}"
                print(row["subject"], runtime, device["codes"], told, flush=True)


if __name__ == "__main__":
    main()
