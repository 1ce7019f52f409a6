"""What the rehearsal needs: models of a release pipeline, and a baseline from another machine.

python situations.py models FOLDER
python situations.py moved RECORD.json OTHER.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

ROWS, WIDTH, LAYERS = 32, 128, 16


def chain(path: Path, layers: int, seed: int) -> None:
    """`layers` matrix products with a ReLU after each."""
    random = np.random.default_rng(seed)
    nodes, weights = [], []
    for layer in range(layers):
        values = random.normal(0, 0.1, (WIDTH, WIDTH)).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"w{layer}"))
        begin = "x" if layer == 0 else f"t{layer - 1}"
        end = "y" if layer == layers - 1 else f"t{layer}"
        nodes.append(helper.make_node("MatMul", [begin, f"w{layer}"], [f"m{layer}"]))
        nodes.append(helper.make_node("Relu", [f"m{layer}"], [end]))
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [ROWS, WIDTH]) for name in "xy"]
    graph = helper.make_graph(nodes, "chain", infos[:1], infos[1:], weights)
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    path.write_bytes(model.SerializeToString())


def models(folder: Path) -> None:
    """The released model, the same retrained, one with an eighth more work, one with an operator
    that the runtime does not have, and half a file."""
    chain(folder / "released.onnx", LAYERS, seed=0)
    chain(folder / "retrained.onnx", LAYERS, seed=1)
    chain(folder / "larger.onnx", LAYERS + LAYERS // 8, seed=1)
    whole = (folder / "retrained.onnx").read_bytes()
    (folder / "halved.onnx").write_bytes(whole[: len(whole) // 2])
    (folder / "broken.onnx").write_bytes(whole.replace(b"MatMul", b"MatMal"))


def moved(record: Path, other: Path) -> None:
    """The record as a machine with another processor would have written it."""
    bench = json.loads(record.read_text())
    for place in bench["places"]:
        place["fingerprint"] = "0" * len(place["fingerprint"])
        place["device"]["cpu"]["model"] = "Another processor"
    other.write_text(json.dumps(bench) + "\n")


def main() -> None:
    """Do what the command line says."""
    what, *paths = sys.argv[1:]
    if what == "models":
        models(Path(paths[0]))
    else:
        moved(Path(paths[0]), Path(paths[1]))


if __name__ == "__main__":
    main()
