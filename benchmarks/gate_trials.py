"""How often gates are wrong on this machine: one model against its copy, and against 5 % more work.

Two cells: as quiet as the machine is, and with two busy processes beside. In each, so many times:

* mpo: processes that run the model, its copy and the larger model in turn, 8 to 40 of them as the
  gate asks for, exactly as `mpo bench --fail-on 'latency>3%'` takes and judges them;
* the rules of others, each on the usual plain run: the model, its copy and the larger model alone,
  one process each, one after the other. The very same single calls go to all of them:
    asv                more than 3 % slower by the median, and Mann-Whitney p < .002 on the calls
    pytest-benchmark   --benchmark-compare-fail=min:3% (and mean:3%)
    Google Benchmark   compare.py's U test on 10 repetitions (means of a tenth of the calls each):
                       p < .05 and the mean slower
    mpo, apart         mpo's own gate on p10 of the same plain runs, eight gates' runs at a time

The larger model has 21 equal layers where the other has 20: real work, no sleep. The cells take
turns, so that both meet the same hours. Every gate is a line of a journal beside the result: a run
that is killed goes on where it was, and `--report` only makes the tables and the result anew.

    python benchmarks/gate_trials.py [--gates 200 200] [--busy 0 2] [--report] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from scipy import stats

from mpo.gate import LOOKS, sequential, wilson_interval
from mpo.profiles.device import describe, fingerprint
from mpo.profiles.jobs import Job
from mpo.profiles.local import LocalTarget
from mpo.profiles.modeljobs import asking, measure_turns, model_job
from mpo.records import SessionOptions

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 1.03
LAYERS = (20, 20, 21)  # the model, its copy, the larger one
NAMES = ("A/A", "+5 %")
WIDTH, ROWS = 256, 32
ROUNDS = 60
REPETITIONS = 10
TARGET = LocalTarget()
Rule = Callable[[Sequence[float], Sequence[float]], str]


def chain(path: Path, layers: int) -> Path:
    """`layers` matrix products that no optimizer merges."""
    random = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for layer in range(layers):
        values = random.normal(0, 0.05, (WIDTH, WIDTH)).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"w{layer}"))
        end = "y" if layer == layers - 1 else f"t{layer}"
        nodes += [
            helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"]),
            helper.make_node("Relu", [f"m{layer}"], [end]),
        ]
        last = end
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [ROWS, WIDTH]) for name in "xy"]
    graph = helper.make_graph(nodes, "chain", infos[:1], infos[1:], weights)
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that compute all the time."""
    code = "import numpy as n\na=n.ones((256,256),'f')\nwhile 1: a@a"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    children = [
        subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(count)
    ]
    try:
        yield
    finally:
        for child in children:
            child.kill()
            child.wait()


class Models:
    """What is measured in every gate: the model, its copy and the larger one.

    Args:
        folder: for the files; it must outlive this.
        seconds: of sampling in a process.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        paths = [chain(folder / f"{i}.onnx", layers) for i, layers in enumerate(LAYERS)]
        inputs = {"x": np.random.default_rng(1).standard_normal((ROWS, WIDTH)).astype(np.float32)}
        session = SessionOptions()
        together = session.model_copy(update={"spinning": False})
        self.seconds = seconds
        self.job = model_job(paths, [inputs] * 3, folder, together, 300.0)
        self.jobs = [self._alone(path, inputs, folder / f"{path.stem}-alone") for path in paths]

    def _alone(self, path: Path, inputs: dict[str, Any], folder: Path) -> Job:
        folder.mkdir()
        job = model_job([path], [inputs], folder, SessionOptions(), 300.0)
        return asking(job, job="solo", seconds=self.seconds, floor=50)

    def gate(self, number: int) -> dict[str, Any]:
        """One gate of mpo, and one plain run for the others.

        Returns:
            "turns_ms": (model, copy, larger) p10 of each process that ran all in turn; "plain_us":
            single calls of (model, copy, larger), one process each, in whole microseconds.
        """
        found: list[list[float]] = []
        orders = ((0, 1, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1), (2, 0, 1), (1, 0, 2))
        for look in LOOKS:
            while len(found) < look:
                order = orders[len(found) % len(orders)]
                seed = 1000 * number + len(found)
                found.append(
                    measure_turns(TARGET, self.job, order, self.seconds, ROUNDS, seed=seed)
                )
            if all(sequential(logs(found, new), LIMIT).verdict != "INCONCLUSIVE" for new in (1, 2)):
                break
        plain = [TARGET.run(job)["samples_ms"] for job in self.jobs]
        return {
            "turns_ms": [[round(time_ms, 6) for time_ms in one] for one in found],
            "plain_us": [[round(1000 * time_ms) for time_ms in times] for times in plain],
        }


def logs(found: Sequence[Sequence[float]], new: int) -> list[float]:
    """ln(new / model) of each process."""
    return [math.log(one[new] / one[0]) for one in found]


def asv(old: Sequence[float], new: Sequence[float]) -> str:
    """Its test of significance and its factor."""
    if statistics.median(new) <= LIMIT * statistics.median(old):
        return "PASS"
    return "FAIL" if stats.mannwhitneyu(old, new).pvalue < 0.002 else "PASS"


def least(old: Sequence[float], new: Sequence[float]) -> str:
    """pytest-benchmark: the shortest call."""
    return "FAIL" if min(new) > LIMIT * min(old) else "PASS"


def mean(old: Sequence[float], new: Sequence[float]) -> str:
    """pytest-benchmark: the mean."""
    return "FAIL" if statistics.fmean(new) > LIMIT * statistics.fmean(old) else "PASS"


def google(old: Sequence[float], new: Sequence[float]) -> str:
    """The U test of compare.py on repetitions."""
    first, second = (
        [float(part.mean()) for part in np.array_split(np.asarray(times), REPETITIONS)]
        for times in (old, new)
    )
    slower = statistics.fmean(second) > statistics.fmean(first)
    p = stats.mannwhitneyu(first, second, alternative="two-sided").pvalue
    return "FAIL" if slower and p < 0.05 else "PASS"


RULES: dict[str, Rule] = {
    "asv, 3 % and p < .002": asv,
    "pytest-benchmark min:3%": least,
    "pytest-benchmark mean:3%": mean,
    "Google Benchmark U test": google,
}


def judge(lines: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row a rule and kind: how often which verdict."""
    for new, kind in enumerate(NAMES, 1):
        found = [sequential(logs(line["turns_ms"], new), LIMIT) for line in lines]
        pairs = statistics.fmean(one.pairs for one in found)
        yield row("mpo, in turn", kind, [one.verdict for one in found]) | {"mean_pairs": pairs}
        plain = [line["plain_us"] for line in lines]
        p10 = [[float(np.quantile(times, 0.1)) for times in run] for run in plain]
        apart = [logs(p10[i : i + LOOKS[0]], new) for i in range(0, len(p10) - 7, LOOKS[0])]
        if apart:
            verdicts = [sequential(one, LIMIT).verdict for one in apart]
            yield row("mpo, apart (8 plain runs)", kind, verdicts)
        for name, rule in RULES.items():
            yield row(name, kind, [rule(run[0], run[new]) for run in plain])


def row(rule: str, kind: str, verdicts: Sequence[str]) -> dict[str, Any]:
    """Counts of verdicts, and the 95 % interval of the share that failed."""
    count = len(verdicts)
    counts = {word: verdicts.count(word) for word in ("PASS", "FAIL", "INCONCLUSIVE")}
    share = wilson_interval(counts["FAIL"], count)
    return {"rule": rule, "models": kind, "gates": count, **counts, "fail_ci95": share}


def told(cell: str, rows: Sequence[dict[str, Any]]) -> None:
    """The table on stdout."""
    print(f"\n{cell}\n{'rule':28} {'models':6} {'gates':>5} {'pass':>6} {'FAIL':>6} {'open':>6}")
    for one in rows:
        shares = [100 * one[word] / one["gates"] for word in ("PASS", "FAIL", "INCONCLUSIVE")]
        low, high = (100 * bound for bound in one["fail_ci95"])
        print(
            f"{one['rule']:28} {one['models']:6} {one['gates']:5} "
            + " ".join(f"{share:5.1f}%" for share in shares)
            + f"   FAIL [{low:.1f}, {high:.1f}]"
            + (f"  {one['mean_pairs']:.1f} pairs" if "mean_pairs" in one else "")
        )


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--busy", nargs="*", type=int, default=[0, 2], help="processes (0 2)")
    parser.add_argument("--gates", nargs="*", type=int, default=[200, 200], help="of each cell")
    parser.add_argument("--seconds", type=float, default=0.2, help="of sampling a process (0.2)")
    parser.add_argument("--quick", action="store_true", help="10 gates")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/gate_trials.json")
    given = parser.parse_args()
    if given.quick:
        given.gates = [10] * len(given.busy)
    return given


def read(journal: Path) -> list[dict[str, Any]]:
    """The gates so far; a line that a killed run left torn is none."""
    lines = []
    for text in journal.read_text().splitlines() if journal.exists() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def measure(given: argparse.Namespace, journal: Path) -> None:
    """Add gates to the journal, to the cell that lacks the most, until all have theirs."""
    done = Counter(line["busy"] for line in read(journal))
    start, before = time.monotonic(), sum(done.values())
    with tempfile.TemporaryDirectory() as name, journal.open("a") as file:
        models = Models(Path(name), given.seconds)
        while True:
            share, others = min(
                (done[others] / gates, others)
                for others, gates in zip(given.busy, given.gates, strict=True)
            )
            if share >= 1:
                return
            number, begin = done[others], time.monotonic()
            with busy(others):
                found = models.gate(number)
            about = {"busy": others, "number": number, "load": round(os.getloadavg()[0], 2)}
            about["seconds"] = round(time.monotonic() - begin, 1)
            # A torn line of a killed run must not swallow this one.
            file.write("\n" + json.dumps(about | found, separators=(",", ":")))
            file.flush()
            done[others] += 1
            hourly = 3600 * (sum(done.values()) - before) / (time.monotonic() - start)
            print(f"\r{dict(done)}, {hourly:.0f} gates an hour ", end="", flush=True)


def report(given: argparse.Namespace, lines: Sequence[dict[str, Any]]) -> None:
    """The tables, and the result with what a reader needs to check them."""
    device = describe(TARGET)
    cells = []
    for others in sorted({line["busy"] for line in lines}):
        own = [line for line in lines if line["busy"] == others]
        rows = list(judge(own))
        told(f"{others} busy processes beside", rows)
        cells.append(
            {
                "busy_processes": others,
                "seconds": round(sum(line["seconds"] for line in own), 1),
                "load_mean": round(statistics.fmean(line["load"] for line in own), 2),
                "rows": rows,
                "turns_ms": [line["turns_ms"] for line in own],
                "plain": [[summary(times) for times in line["plain_us"]] for line in own],
            }
        )
    result = {
        "command": f"python benchmarks/gate_trials.py --seconds {given.seconds:g}",
        "limit": LIMIT,
        "layers": LAYERS,
        "device": device.model_dump(mode="json"),
        "fingerprint": fingerprint(device),
        "cells": cells,
    }
    given.out.write_text(json.dumps(result) + "\n")


def main() -> None:
    """Measure what is missing, then tell and write."""
    given = options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that busy processes end, too
    journal = given.out.with_suffix(".jsonl")
    if not given.report:
        measure(given, journal)
    report(given, read(journal))


def summary(times_us: Sequence[float]) -> dict[str, Any]:
    """What is kept of a plain run: enough to see why a rule said what it said."""
    quantiles = np.quantile(times_us, (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)).round().tolist()
    mean_us = round(statistics.fmean(times_us), 1)
    return {"calls": len(times_us), "mean_us": mean_us, "quantiles_us": quantiles}


if __name__ == "__main__":
    main()
