"""The same CKA matrix by mpo and by other packages, interleaved in one process on one thread.

The job: unbiased linear minibatch CKA between the outputs of the 12 blocks of the fashion ResNet-26
(flattened, full width), over the same test images in the same batches. mpo runs it both at full
width, where its figures must agree with the peers', and with its own default width. Peers that are
not installed, or do not run, are named with the reason.

    python benchmarks/cka_peers.py [--rounds 7] [--examples 512] [--batch 64] [--out FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.metadata
import io
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
from cka_overhead import BLOCKS, ROOT, Spent, batches_of, load_subject, machine, over, seconds
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mpo.optimizer.analysis.cka import measure_similarity

Job = Callable[[], np.ndarray]
EVERYTHING = 10**9


def torch_cka_job(model: nn.Module, loader: DataLoader[tuple[torch.Tensor, ...]]) -> Job:
    """torch-cka 0.21: CKA(model, model).compare(loader)."""
    from torch_cka import CKA

    def job() -> np.ndarray:
        twin = copy.deepcopy(model)  # its hooks stay on the model
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            judge = CKA(twin, twin, model1_layers=BLOCKS, model2_layers=BLOCKS)
            judge.compare(loader)
        return np.asarray(judge.export()["CKA"], dtype=np.float64)

    return job


def pytorch_cka_job(model: nn.Module, loader: DataLoader[tuple[torch.Tensor, ...]]) -> Job:
    """pytorch-cka 1.1.3: cka.compute_cka(model, model, loader)."""
    from cka import compute_cka

    def job() -> np.ndarray:
        with torch.no_grad():
            found = compute_cka(
                model, model, loader, layers=BLOCKS, model2_layers=BLOCKS, progress=False
            )
        return np.asarray(found[0], dtype=np.float64)

    return job


PEERS = {"torch-cka": torch_cka_job, "pytorch-cka": pytorch_cka_job}


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--examples", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/cka_peers.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    subject = load_subject()
    model = subject.model()
    images = subject.tensors("t10k")[0][: options.examples]
    batches = batches_of(images, options.batch)
    loader = DataLoader(TensorDataset(images), batch_size=options.batch)
    jobs: dict[str, Job] = {
        "mpo": lambda: measure_similarity(model, BLOCKS, batches).matrix,
        "mpo full width": lambda: (
            measure_similarity(model, BLOCKS, batches, width=EVERYTHING).matrix
        ),
    }
    skipped: dict[str, str] = {}
    for name, make in PEERS.items():
        try:
            jobs[name] = make(model, loader)
        except ImportError as error:
            skipped[name] = str(error)
    matrices, times = run(jobs, options.rounds)
    names = [name for name in jobs if not name.startswith("mpo")]
    result = {
        "benchmark": "cka_peers",
        "model": "examples/fashion ResNet-26, 12 blocks",
        "examples": options.examples,
        "batch": options.batch,
        "versions": {name: importlib.metadata.version(name) for name in names},
        "skipped": skipped,
        "seconds": times,
        "peer_over_mpo": {name: over(times, name, "mpo") for name in names},
        "peer_over_mpo_full_width": {name: over(times, name, "mpo full width") for name in names},
        "max_difference_from_mpo_full_width": {
            name: float(np.abs(matrices[name] - matrices["mpo full width"]).max()) for name in jobs
        },
        "machine": machine(),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for name in names:
        for key in ("mpo", "mpo full width"):
            for clock, ratio in over(times, name, key).items():
                print(f"{name} / {key} = {ratio['estimate']:.2f}, 95 % {ratio['ci95']} ({clock})")
    print(result["max_difference_from_mpo_full_width"], skipped)


def run(jobs: dict[str, Job], rounds: int) -> tuple[dict[str, np.ndarray], dict[str, list[Spent]]]:
    """Every job once a round, the order turned by one each round; the first round only warms up."""
    matrices: dict[str, np.ndarray] = {}
    times: dict[str, list[Spent]] = {name: [] for name in jobs}
    order = list(jobs)
    for turn in range(rounds + 1):
        for name in order:
            with contextlib.redirect_stderr(io.StringIO()):  # progress bars
                spent = seconds(lambda name=name: matrices.update({name: jobs[name]()}))
            if turn:
                times[name].append(spent)
        order = [*order[1:], order[0]]
    return matrices, times


if __name__ == "__main__":
    main()
