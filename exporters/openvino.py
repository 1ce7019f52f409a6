"""OpenVINO: the ONNX file as IR (.xml and .bin), executed on the CPU; all of it in a child.

OpenVINO reads ONNX itself; its converter tool, which reports usage over the network, is never
called.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpo.errors import MpoError, UsageError
from mpo.exporters.backends import Array, Feeds, artifact, load_arrays, no_options, save_arrays
from mpo.exporters.child import run_script
from mpo.exporters.enginebuild import told_of
from mpo.files import writable
from mpo.records import Exported

WORKER = Path(__file__).with_name("ovworker.py")
INSTALL = "pip install 'mpo-optimizer[openvino]'"
TIMEOUT_S = 600.0


def export_openvino(onnx: Path, target: Path, options: Mapping[str, Any]) -> Exported:
    """Convert an ONNX file to IR: `target` with the suffix .xml, and the weights as .bin beside it.

    Args:
        options: `precision`, "fp32" (default, as in the file) or "fp16" (weights are stored as
            halves; the CPU still computes in float32).

    Raises:
        UsageError: no such file, or an unknown option.
    """
    no_options("openvino", options, ["precision"])
    precision = options.get("precision", "fp32")
    if precision not in ("fp32", "fp16"):
        raise UsageError(f"OpenVINO's IR cannot be stored as {precision!r}.", hint="fp32 or fp16.")
    if not onnx.is_file():
        raise UsageError(f"There is no ONNX file {onnx}.")
    if not installed():
        return Exported(
            format="openvino", ok=False, reason="openvino is not installed", hint=INSTALL
        )
    target = target.with_suffix(".xml")
    with tempfile.TemporaryDirectory(prefix=".mpo-", dir=_folder(target)) as folder:
        output = Path(folder) / target.name
        request = {"job": "convert", "onnx": str(onnx.resolve()), "output": str(output)}
        request |= {"half": precision == "fp16"}
        ended, told = run_script(WORKER, request, timeout=TIMEOUT_S)
        if not told or "error" in told:
            reason = str(told.get("error") or f"the conversion {told_of(ended)}")
            return Exported(format="openvino", ok=False, reason=reason)
        weights = target.with_suffix(".bin")
        with writable(target):  # the file that names the other one comes last
            output.with_suffix(".bin").replace(weights)
            output.replace(target)
    files = (artifact(target, "openvino", precision), artifact(weights, "openvino", precision))
    return Exported(format="openvino", ok=True, files=files, ran_reason="nobody asked for it")


def installed() -> bool:
    """Whether the package is there; nothing is imported."""
    return importlib.util.find_spec("openvino") is not None


class OpenVinoRunner:
    """IR, or an ONNX file, in OpenVINO on the CPU in float32; one child for all batches.

    Args:
        path: of the .xml file, the .bin beside it.
        threads: of one inference.

    Raises:
        UsageError: no such file, or OpenVINO is not installed.
    """

    adapter = WORKER

    def __init__(self, path: Path, threads: int = 1) -> None:
        _require(path)
        self._path, self._threads = path, threads

    @staticmethod
    def describe(path: Path) -> dict[str, Any]:
        """What the file says of itself: see backends.Runner."""
        _require(path)
        ended, told = run_script(
            WORKER, {"job": "describe", "model": str(path.resolve())}, timeout=TIMEOUT_S
        )
        if not told or "error" in told:
            why = told.get("error") or told_of(ended)
            raise MpoError(f"{path} is no model that OpenVINO reads: {why}")
        return told

    def run(self, batches: Sequence[Feeds]) -> list[dict[str, Array]]:
        """Outputs by name for each batch; see backends.Runner."""
        with tempfile.TemporaryDirectory(prefix="mpo-run-") as folder:
            pairs = []
            for place, feeds in enumerate(batches):
                pairs.append((Path(folder, f"in{place}.npz"), Path(folder, f"out{place}.npz")))
                save_arrays(pairs[-1][0], feeds)
            request = {"job": "run", "model": str(self._path.resolve()), "threads": self._threads}
            request |= {"files": [[str(one), str(other)] for one, other in pairs]}
            ended, told = run_script(WORKER, request, timeout=TIMEOUT_S)
            if "error" in told:
                raise UsageError(f"OpenVINO does not run {self._path}: {told['error']}")
            if not told:
                raise MpoError(f"OpenVINO on {self._path} {told_of(ended)}.")
            return [load_arrays(output) for _, output in pairs]


def _require(path: Path) -> None:
    if not path.is_file():
        raise UsageError(f"There is no file {path}.")
    if not installed():
        raise UsageError("openvino is not installed.", hint=f"Install it: {INSTALL}")


def _folder(target: Path) -> Path:
    if not target.parent.is_dir():
        raise UsageError(f"There is no folder {target.parent}.", hint="Make it, or choose another.")
    return target.parent
