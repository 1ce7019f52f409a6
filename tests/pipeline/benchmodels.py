"""Tiny real ONNX files, and targets that answer some jobs from a script, for the tests of bench."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from mpo.profiles.jobs import Job
from mpo.profiles.local import LocalTarget

WIDTH = 96


def save(
    path: Path,
    nodes: list[NodeProto],
    inputs: dict[str, list[int | str]],
    weights: list[TensorProto] | None = None,
    kind: int = TensorProto.FLOAT,
) -> Path:
    """A graph with the output "y"."""
    given = [helper.make_tensor_value_info(name, kind, axes) for name, axes in inputs.items()]
    output = helper.make_tensor_value_info("y", kind, None)
    graph = helper.make_graph(nodes, "g", given, [output], weights or [])
    opset = [helper.make_opsetid("", 17)]
    path.write_bytes(
        helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    )
    return path


def chain(path: Path, layers: int, rows: int | str = "n") -> Path:
    """`layers` products that no optimizer merges."""
    random = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for layer in range(layers):
        values = random.normal(0, 0.1, (WIDTH, WIDTH)).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"w{layer}"))
        end = "y" if layer == layers - 1 else f"t{layer}"
        nodes += [
            helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"]),
            helper.make_node("Tanh", [f"m{layer}"], [end]),
        ]
        last = end
    return save(path, nodes, {"x": [rows, WIDTH]}, weights)


class Scripted:
    """This machine, but for the jobs that `answer` has an answer to."""

    name, device = "scripted", "cpu"

    def __init__(self, answer: Callable[[Job], dict[str, Any] | None]) -> None:
        self.answer, self.real, self.asked = answer, LocalTarget(), list[str]()

    def run(self, job: Job) -> dict[str, Any]:
        """The script's answer, or the machine's own."""
        found = self.answer(job)
        if "empty" not in str(job.request.get("models")):
            self.asked.append(str(job.request.get("job")))
        return self.real.run(job) if found is None else found

    def close(self) -> None:
        """Nothing to leave."""


def quiet_solo(job: Job, *, slower: float = 0.0, memory: int = 20 * 2**20) -> dict[str, Any] | None:
    """A model alone on a quiet machine; the candidate's file may be slower."""
    if job.request.get("job") != "solo":
        return None
    empty = "empty" in str(job.request["models"])
    factor = 1 + slower if "candidate" in str(job.request["models"]) else 1.0
    times = [factor * (1.0 + 0.0001 * (place % 7)) for place in range(200)]
    peak = 2**20 if empty else memory
    answer = {"samples_ms": times, "load_ms": 5.0, "first_ms": 2.0, "steady": True}
    return answer | {"load_peak": peak, "peak": peak}
