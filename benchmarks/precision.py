"""fp16, int8 and int8-dynamic against float32: size, test accuracy, latency on the CPU.

The original of each example is exported once; every other file is made from that one. Latency
ratios come from processes that run both files in turn. Accuracy is the example's own metric on
its whole test split (10,000 pictures, 2,000 sentences). "int8" has the layout for CPUs,
"int8-portable" the one that TensorRT reads too.

    python benchmarks/precision.py [--examples fashion,sentiment] [--seconds S] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import torch

from mpo.errors import UsageError
from mpo.exporters.axes import varying_axes
from mpo.exporters.converted import Converted, Feeds, file_bytes, run
from mpo.exporters.halves import to_bf16, to_half
from mpo.exporters.onnx import export_onnx
from mpo.exporters.quantize import FOR_CPU, quantize_dynamic, quantize_static
from mpo.profiles.local import LocalTarget
from mpo.profiles.measure import measure_pair
from mpo.timing import Stopwatch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this file runs as a script
from benchmarks.shared import ROOT, subject_of

CALIBRATION, CHECK = 128, 32  # examples; fp16 needs no ranges, only real inputs
Score = Callable[[np.ndarray, np.ndarray], np.ndarray]
RIGHT: dict[str, Score] = {
    "fashion": lambda scores, labels: scores.argmax(-1) == labels,
    "sentiment": lambda scores, labels: (scores > 0) == (labels > 0),
}


def feed(inputs: Any) -> dict[str, np.ndarray]:
    """A batch's inputs by the file's input names."""
    if isinstance(inputs, dict):
        return {name: tensor.numpy() for name, tensor in inputs.items()}
    return {"input": inputs.numpy()}


def first(batches: Iterable[Any], count: int) -> Feeds:
    """Feeds of about `count` examples."""
    found: list[dict[str, np.ndarray]] = []
    for inputs, targets in batches:
        found.append(feed(inputs))
        count -= len(targets)
        if count <= 0:
            break
    return found


def exported(module: ModuleType, batches: Iterable[Any], path: Path) -> None:
    """The original as a float32 file with a free batch axis."""
    inputs = next(iter(batches))[0]
    named = isinstance(inputs, dict)
    args = () if named else (inputs[:2],)
    kwargs = {name: tensor[:2] for name, tensor in inputs.items()} if named else {}
    export_onnx(module.model(), args, kwargs, path, varying=varying_axes([(args, kwargs)]))


def correct(name: str, path: Path, batches: Iterable[Any]) -> np.ndarray:
    """Per test example whether the file decides it rightly."""
    pairs = [(feed(inputs), targets.numpy()) for inputs, targets in batches]
    answers = run(path, [own for own, _ in pairs], optimize=True)
    rows = [
        RIGHT[name](next(iter(values.values())), targets)
        for values, (_, targets) in zip(answers, pairs, strict=True)
    ]
    return np.concatenate(rows)


def made(source: Path, folder: Path, calibration: Feeds) -> Iterator[tuple[Converted, float]]:
    """Every conversion, with the seconds that it took."""
    makers: tuple[Callable[[], Converted], ...] = (
        lambda: to_half(source, folder / "fp16.onnx", first_rows(calibration, CHECK)),
        lambda: quantize_static(source, folder / "int8.onnx", calibration, layout=FOR_CPU),
        lambda: quantize_static(source, folder / "int8-portable.onnx", calibration),
        lambda: quantize_dynamic(source, folder / "int8-dynamic.onnx"),
    )
    for maker in makers:
        watch = Stopwatch()
        yield maker(), watch.seconds


def first_rows(feeds: Feeds, count: int) -> Feeds:
    """The first feed, cut to `count` examples."""
    return [{name: array[:count] for name, array in feeds[0].items()}]


def compared(
    name: str, file: Converted, source: Path, one: dict[str, np.ndarray], seconds: float
) -> dict[str, Any]:
    """Size and latency of one file over the float32 one, at batch 1 on one thread."""
    pair = measure_pair(LocalTarget(), source, file.path, one, one, seconds=seconds)
    return {
        "precision": file.path.stem,
        "bytes": file.bytes,
        "size_ratio": file.bytes / file_bytes(source),
        "latency_ratio": pair.ratio.model_dump(mode="json"),
        "p10_ms": pair.p10_ms,
        "output_error": file.error,
        "kept": [vars(kept) for kept in file.kept],
        "note": file.note,
        "warnings": file.warnings,
        "example": name,
    }


def bf16_here(source: Path, folder: Path, feeds: Feeds) -> str:
    """What the runtime says to bf16; "" when it runs."""
    try:
        to_bf16(source, folder / "bf16.onnx", feeds)
    except UsageError as error:
        return error.message
    return ""


def example(name: str, seconds: float, folder: Path) -> dict[str, Any]:
    """All figures of one example."""
    module = subject_of(name)
    data = module.data()
    torch.manual_seed(0)
    source = folder / "fp32.onnx"
    exported(module, data.train, source)
    calibration = first(data.train, CALIBRATION)
    one = {key: array[:1] for key, array in first(data.test, 1)[0].items()}
    base = correct(name, source, data.test)
    print(f"{name}: float32 {file_bytes(source):,} bytes, {base.mean():.2%} of {len(base):,}")
    rows = []
    for file, took in made(source, folder, calibration):
        right = correct(name, file.path, data.test)
        row = compared(name, file, source, one, seconds)
        row |= {"correct": int(right.sum()), "lost": int((base & ~right).sum())}
        row |= {"gained": int((right & ~base).sum()), "seconds": took}
        rows.append(row)
        ratio = row["latency_ratio"]
        print(
            f"  {file.path.stem:13} size {row['size_ratio']:.3f}  correct {right.mean():.2%} "
            f"(-{row['lost']} +{row['gained']})  latency {ratio['estimate']:.3f} "
            f"[{ratio['ci95'][0]:.3f}, {ratio['ci95'][1]:.3f}]  made in {took:.1f} s"
        )
        for warning in file.warnings:
            print(f"    {warning}")
    refusal = bf16_here(source, folder, first_rows(calibration, CHECK))
    print(f"  bf16: {refusal or 'runs'}")
    return {
        "example": name,
        "samples": len(base),
        "float32": {"bytes": file_bytes(source), "correct": int(base.sum())},
        "rows": rows,
        "bf16": refusal,
    }


def processor() -> dict[str, Any]:
    """What decides how fast int8 is: the processor and its vector instructions."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    found = {key.strip(): value.strip() for key, value in fields.items()}
    flags = set(found.get("flags", "").split())
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_fp16", "amx_int8", "amx_bf16")
    return {"name": found.get("model name", ""), "has": [flag for flag in wanted if flag in flags]}


def main() -> None:
    """Run the examples, print a table each, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", default="fashion,sentiment")
    parser.add_argument("--seconds", type=float, default=8.0, help="of sampling per latency ratio")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/precision.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    watch, found = Stopwatch(), []
    for name in options.examples.split(","):
        with tempfile.TemporaryDirectory() as folder:
            found.append(example(name, options.seconds, Path(folder)))
    facts = {
        "command": f"python benchmarks/precision.py --examples {options.examples}",
        "onnxruntime": onnxruntime.__version__,
        "processor": processor(),
        "batch": 1,
        "threads": 1,
        "seconds": watch.seconds,
        "examples": found,
    }
    options.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
