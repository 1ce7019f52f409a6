"""Engines on this machine's GPU: built, run, compared with ONNX Runtime on the CPU, timed.

Part of `make gpu-check`. Where there is no NVIDIA GPU nothing is measured, and it says so.

    python benchmarks/gpu_engines.py [--out build/gpu-bench.json]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.networks import ResNet18, Transformer  # noqa: E402
from mpo.errors import MpoError  # noqa: E402
from mpo.exporters.backends import OnnxRunner, load_arrays, save_arrays  # noqa: E402
from mpo.exporters.engines import build_engine, describe, run_engine  # noqa: E402
from mpo.exporters.onnx import export_onnx  # noqa: E402
from mpo.exporters.parity import Allowed, judge  # noqa: E402
from mpo.exporters.shapes import shape_ranges  # noqa: E402
from mpo.records import EngineBackend, EngineOptions  # noqa: E402

BACKENDS: tuple[EngineBackend, ...] = ("tensorrt-rtx", "tensorrt")
BATCHES = (1, 8)
LOOSE = Allowed(5e-3)  # TF32 keeps ten bits of a mantissa


def networks() -> dict[str, tuple[torch.nn.Module, torch.Tensor]]:
    """A residual network for images and a transformer for tokens, with eight examples each."""
    torch.manual_seed(0)
    tokens = torch.randint(0, 12000, (max(BATCHES), 128))
    return {
        "resnet18": (ResNet18().eval(), torch.randn(max(BATCHES), 3, 224, 224)),
        "transformer": (Transformer().eval(), tokens),
    }


def engine_row(
    backend: EngineBackend, name: str, onnx: Path, inputs: np.ndarray, folder: Path
) -> dict[str, Any]:
    """One engine: what its build, its runs and the comparison came to."""
    row: dict[str, Any] = {"backend": backend, "network": name}
    ranges = shape_ranges(onnx, {"batch": (1, 1, max(BATCHES))})
    target = folder / f"{name}.{backend}.engine"
    result = build_engine(onnx, target, EngineOptions(backend=backend, shapes=ranges))
    row["build"] = result.model_dump(mode="json", exclude={"path"})
    if not result.built:
        return row
    reference, row["runs"] = OnnxRunner(onnx), []
    for batch in BATCHES:
        feeds = {"input": inputs[:batch]}
        given, answer = folder / "inputs.npz", folder / "outputs.npz"
        save_arrays(given, feeds)
        try:
            run = run_engine(target, result.sha256, given, answer, backend=backend)
        except MpoError as error:
            row["runs"].append({"batch": batch, "failed": error.message})
            continue
        wanted = next(iter(reference.run([feeds])[0].values()))
        found = next(iter(load_arrays(answer).values()))
        parity = judge([wanted.astype(np.float64)], [found.astype(np.float64)], [batch], LOOSE)
        row["runs"].append({
            "batch": batch, **run.model_dump(mode="json", exclude={"outputs"}),
            "parity": parity.model_dump(mode="json"),
        })  # fmt: skip
    return row


def main() -> int:
    """Every backend and network; 1 when an engine runs and answers wrongly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build/gpu-bench.json")
    options = parser.parse_args()
    machines = {backend: describe(backend) for backend in BACKENDS}
    if not any(machine.get("driver") for machine in machines.values()):
        print("gpu-bench: no NVIDIA driver with a GPU was found; nothing was measured")
        return 0
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for network, (model, inputs) in networks().items():
            path = folder / f"{network}.onnx"
            export_onnx(model, (inputs[:2],), {}, path)
            for backend in BACKENDS:
                if "error" in machines[backend]:
                    continue
                rows.append(engine_row(backend, network, path, inputs.numpy(), folder))
                print(json.dumps(rows[-1].get("runs", rows[-1]["build"]))[:400], flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"machines": machines, "rows": rows}, indent=1) + "\n")
    runs = [run for row in rows for run in row.get("runs", ())]
    wrong = [run for run in runs if "failed" in run or not run["parity"]["ok"]]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
