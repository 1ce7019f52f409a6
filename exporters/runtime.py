"""Run an ONNX file with ONNX Runtime, called the way the torch model is called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as states
from torch import Tensor

from mpo.errors import MpoError, UsageError
from mpo.exporters.flatten import named_leaves, rebuild
from mpo.exporters.runtimefaults import RUNTIME_ERRORS, first_line

Array = NDArray[np.generic]


class OnnxModel:
    """An ONNX file opened on the CPU.

    Args:
        path: of the file.
        threads: of one inference.

    Raises:
        UsageError: the file is missing or no ONNX model that this runtime loads.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4  # what fails comes as an exception
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except RUNTIME_ERRORS as error:
            raise UsageError(
                f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {first_line(error)}",
                hint="Check that the file is a whole ONNX model of opset 22 or lower.",
            ) from error
        self.path = path
        self.inputs: tuple[str, ...] = tuple(item.name for item in self._session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(item.name for item in self._session.get_outputs())

    def feeds(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Array]:
        """The call's tensors as arrays by input name: keywords by their name, the rest in order.

        Raises:
            UsageError: more or fewer tensors than the file has inputs.
        """
        leaves = named_leaves((args, kwargs))
        arrays = [_array(leaf) for _, leaf in leaves]
        if len(arrays) != len(self.inputs):
            raise UsageError(
                f"{self.path} takes {len(self.inputs)} inputs ({', '.join(self.inputs)}), "
                f"but the call holds {len(arrays)} tensors."
            )
        keys = ["_".join(path[1:]) if path[0] == "1" else "" for path, _ in leaves]
        by_name = {
            key: array for key, array in zip(keys, arrays, strict=True) if key in self.inputs
        }
        others = [array for key, array in zip(keys, arrays, strict=True) if key not in self.inputs]
        rest = iter(others)
        return {name: by_name[name] if name in by_name else next(rest) for name in self.inputs}

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Array]:
        """All outputs as arrays, in the file's order.

        Raises:
            UsageError: inputs that the file does not take.
            MpoError: the runtime failed.
        """
        feeds = self.feeds(args, kwargs)
        try:
            return list(self._session.run(None, feeds))
        except states.InvalidArgument as error:
            raise UsageError(
                f"{self.path} does not take these inputs: {first_line(error)}"
            ) from error
        except RUNTIME_ERRORS as error:
            raise MpoError(f"ONNX Runtime failed on {self.path}: {first_line(error)}") from error

    def as_model(self, example: Any = None) -> Callable[..., Any]:
        """A function that is called as the torch model is and returns torch tensors.

        Args:
            example: an output of the torch model. With it, outputs come in the same nesting (a
                tuple, a dict, a Hugging Face output), so that the task's own metric can judge
                the file. Without: the tensor when there is a single output, else a dict by name.
        """

        def call(*args: Any, **kwargs: Any) -> Any:
            tensors = [torch.from_numpy(np.asarray(array)) for array in self.run(args, kwargs)]
            if example is not None:
                given = iter(tensors)
                return rebuild(example, lambda _: next(given))
            return (
                tensors[0] if len(tensors) == 1 else dict(zip(self.outputs, tensors, strict=True))
            )

        return call


def run_onnx(path: Path, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Array]:
    """Load a file, run it once on one thread, return all outputs in the file's order."""
    return OnnxModel(path).run(args, kwargs)


def _array(tensor: Tensor) -> Array:
    return np.ascontiguousarray(tensor.detach().cpu().numpy())
