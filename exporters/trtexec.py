"""The vendors' command-line builders, for machines that have the tool but not the Python module."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpo.exporters.child import run_child
from mpo.records import EngineBackend, EngineOptions, ShapeRange

TOOLS: dict[EngineBackend, str] = {"tensorrt": "trtexec", "tensorrt-rtx": "tensorrt_rtx"}
MIB = 2**20
FAULT = re.compile(r"^.*\[E\] (.*)$", re.MULTILINE)
WARNING = re.compile(r"^.*\[W\] (.*)$", re.MULTILINE)
VERSION = re.compile(r"\[TensorRT(?:-RTX)? v([\d.]+)\]")
ACTIVATION = re.compile(r"Total Activation Memory: (\d+)")
WEIGHTS = re.compile(r"Total Weights Memory: (\d+)")


def find_tool(backend: EngineBackend) -> str:
    """The path of the backend's builder in PATH; empty when it is not there."""
    return shutil.which(TOOLS[backend]) or ""


def tool_help(tool: str) -> str:
    """What the tool says of its options: they differ between releases."""
    return run_child((tool, "--help"), timeout=30).output


def command_line(
    tool: str, onnx: Path, engine: Path, options: EngineOptions, known: str
) -> list[str]:
    """The tool's arguments for these options.

    Args:
        known: its help text; a flag that is not in it is left out when it is the tool's own way
            anyway.
    """
    line = [tool, f"--onnx={onnx}", f"--saveEngine={engine}", "--skipInference"]
    if options.precision != "onnx":
        line.append(f"--{options.precision}")
    elif "--stronglyTyped" in known:
        line.append("--stronglyTyped")
    for part in ("min", "opt", "max"):
        if options.shapes:
            line.append(f"--{part}Shapes={_shapes(options.shapes, part)}")
    if options.workspace_bytes:
        mib = max(1, options.workspace_bytes // MIB)
        line.append(f"--memPoolSize=workspace:{mib}M")
    if options.optimization_level is not None:
        line.append(f"--builderOptimizationLevel={options.optimization_level}")
    if options.version_compatible:
        line.append("--versionCompatible")
    if options.refit:
        line.append("--refit")
    levels = {"ampere+": "ampere+", "same-capability": "sameComputeCapability"}
    if options.hardware != "this":
        line.append(f"--hardwareCompatibilityLevel={levels[options.hardware]}")
    if options.compute_capabilities:
        line.append(f"--computeCapabilities={','.join(options.compute_capabilities)}")
    return line


def unknown_flags(line: Sequence[str], known: str) -> list[str]:
    """The flags of a command line that the tool's help does not name."""
    flags = [argument.split("=")[0] for argument in line[1:]]
    return [flag for flag in flags if not re.search(rf"{re.escape(flag)}\b", known)]


def read_log(text: str) -> dict[str, Any]:
    """Version, faults, warnings and memory figures out of the tool's log."""
    version, activation, weights = (rx.search(text) for rx in (VERSION, ACTIVATION, WEIGHTS))
    return {
        "version": version[1] if version else "",
        "faults": list(dict.fromkeys(FAULT.findall(text)))[:50],
        "warnings": list(dict.fromkeys(WARNING.findall(text)))[:50],
        "device_memory_bytes": int(activation[1]) if activation else None,
        "weights_bytes": int(weights[1]) if weights else None,
    }


def _shapes(shapes: Mapping[str, ShapeRange], part: str) -> str:
    rows = [f"{name}:{'x'.join(map(str, getattr(row, part)))}" for name, row in shapes.items()]
    return ",".join(rows)
