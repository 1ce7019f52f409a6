"""The trying child of `mpo doctor`: one library, a tiny computation, the answer checked.

A script for exporters/child.py: standard library and the library on trial (Python >= 3.8). One line
of JSON in, one object out:
    {"trial": "torch" | "onnx" | "onnxruntime", "model": path, "provider": name or null}
The model computes y = relu(x + [1, -1]).
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

FEED, WANTED = [[1.0, -3.0], [-2.0, 4.0]], [[2.0, 0.0], [0.0, 3.0]]


def try_torch(request: dict[str, Any]) -> dict[str, Any]:
    """The same computation, forward and backward."""
    import torch

    x = torch.tensor(FEED, requires_grad=True)
    y = torch.relu(x + torch.tensor([1.0, -1.0]))
    y.sum().backward()
    gradient: Any = x.grad
    right = y.tolist() == WANTED and gradient.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return {"right": right, "told": f"{torch.__version__}, CUDA: {cuda}"}


def try_onnx(request: dict[str, Any]) -> dict[str, Any]:
    """Read and check the file."""
    import onnx

    onnx.checker.check_model(request["model"], full_check=True)
    return {"right": True, "told": onnx.__version__}


def try_onnxruntime(request: dict[str, Any]) -> dict[str, Any]:
    """Run the file with one provider, or the list of providers when none is named."""
    import onnxruntime

    found = onnxruntime.get_available_providers()
    if not request["provider"]:
        return {"right": True, "told": onnxruntime.__version__, "providers": found}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        request["model"], options, providers=[request["provider"]]
    )
    used = session.get_providers()
    if used[0] != request["provider"]:  # it falls back to the CPU without an exception
        return {"right": False, "told": "fell back to " + used[0]}
    import numpy

    (y,) = session.run(None, {"x": numpy.array(FEED, numpy.float32)})
    return {"right": y.tolist() == WANTED, "told": onnxruntime.__version__}


def main() -> None:
    """Answer the request; whatever a library prints on stdout goes to stderr."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = json.loads(sys.stdin.readline())
    trials = {"torch": try_torch, "onnx": try_onnx, "onnxruntime": try_onnxruntime}
    answer.write(json.dumps(trials[request["trial"]](request)) + "\n")
    answer.close()


if __name__ == "__main__":
    main()
