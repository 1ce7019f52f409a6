"""One build of an engine in a child process, by the Python module or the vendor's own tool."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mpo import files
from mpo.exporters import trtexec
from mpo.exporters.child import Ended, run_child, run_script
from mpo.files import sha256, writable
from mpo.records import EngineBackend, EngineOptions, EngineResult, NodeFault

WORKER = Path(__file__).with_name("trtworker.py")
MODULES: dict[EngineBackend, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
NO_GPU, NOT_ASKED = "no GPU here", "nobody asked for it"
LIMITS = frozenset({"timeout_s", "memory_bytes"})  # options that do not change what is built
FIGURES = ("version", "device_memory_bytes", "weights_bytes", "layers", "network_layers")


def build_with_module(
    onnx: Path, target: Path, options: EngineOptions, known: Mapping[str, Any], timings: bytes = b""
) -> tuple[EngineResult, bytes]:
    """Build with the installed Python module.

    Args:
        known: fields of the result that are known already.
        timings: what an earlier build wanted kept.

    Returns:
        The result, and the timings to keep; none where the module keeps none.
    """
    module = MODULES[options.backend]
    with tempfile.TemporaryDirectory(prefix="mpo-engine-") as folder, _beside(target) as output:
        cache = Path(folder) / "timings"
        cache.write_bytes(timings)
        request = options.model_dump(mode="json", exclude=set(LIMITS)) | {"module": module}
        request |= {"onnx": str(onnx.resolve()), "output": str(output), "timing_cache": str(cache)}
        ended, told = run_script(
            WORKER, request, timeout=options.timeout_s, memory_bytes=options.memory_bytes
        )
        facts = {**known, "module": module, **_measured(ended)}
        if not told:
            return ended_badly(ended, facts), b""
        facts |= {name: told[name] for name in FIGURES if told.get(name) is not None}
        facts["warnings"] = tuple(told["warnings"])
        facts["precisions"] = told.get("precisions", {})
        if told["stage"] != "done":
            return _refused(told, facts), b""
        reason = NOT_ASKED if told["driver"] else NO_GPU
        return _finished(output, target, facts, reason), cache.read_bytes()


def build_with_tool(
    tool: str, onnx: Path, target: Path, options: EngineOptions, known: Mapping[str, Any]
) -> EngineResult:
    """Build with `trtexec`, or `tensorrt_rtx`, at the path `tool`."""
    told = trtexec.tool_help(tool)
    facts: dict[str, Any] = {**known, "module": Path(tool).name}
    with _beside(target) as output:
        line = trtexec.command_line(tool, onnx.resolve(), output, options, told)
        strange = trtexec.unknown_flags(line, told)
        if strange:
            reason = f"{facts['module']} does not know {', '.join(strange)}"
            return EngineResult(**facts, outcome="rejected", reason=reason)
        ended = run_child(line, timeout=options.timeout_s, memory_bytes=options.memory_bytes)
        log = trtexec.read_log(f"{ended.output}\n{ended.errors}")
        faults = log.pop("faults")
        facts |= {**log, **_measured(ended)}
        if ended.kind == "ended" and output.is_file() and output.stat().st_size:
            return _finished(output, target, facts, NOT_ASKED)
        if ended.kind in ("ended", "failed") and faults:
            errors = tuple(NodeFault(message=fault) for fault in faults)
            return EngineResult(**facts, outcome="failed", reason=faults[0], errors=errors)
        return ended_badly(ended, facts)


def ended_badly(ended: Ended, facts: Mapping[str, Any]) -> EngineResult:
    """The result of a build whose process came to no answer."""
    hint = ""
    if ended.kind == "out-of-memory":
        hint = "Give the build more memory, or narrow the ranges of its inputs."
    reason = f"The build's process {told_of(ended)}"
    outcome = "failed" if ended.kind == "ended" else ended.kind
    return EngineResult(**facts, outcome=outcome, reason=reason, hint=hint)


def told_of(ended: Ended) -> str:
    """How a process ended, with the last line that it left: "was ended by SIGSEGV: ..."."""
    lines = [line.strip() for line in ended.errors.splitlines() if line.strip()]
    said = f": {lines[-1][:200]}" if ended.kind == "failed" and lines else ""
    return f"{ended.reason or 'wrote no engine'}{said}"


def _measured(ended: Ended) -> dict[str, Any]:
    return {"peak_memory_bytes": ended.peak_bytes, "seconds": ended.seconds}


def _refused(told: Mapping[str, Any], facts: Mapping[str, Any]) -> EngineResult:
    """The result of a build that the library turned down, with the first fault in its reason."""
    faults = tuple(NodeFault(**fault) for fault in told["errors"])
    reason = str(told["reason"])
    if faults:
        named = next((fault for fault in faults if fault.operator), faults[0])
        where = f"node {named.index} {named.node} ({named.operator}): " if named.operator else ""
        rest = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        reason = f"{reason.rstrip('.')}: {where}{named.message}{rest}"
    if told["stage"] == "driver":
        hint = "TensorRT-RTX builds without a GPU: --to tensorrt-rtx"
        return EngineResult(**facts, outcome="missing", reason=reason, hint=hint)
    outcome: Any = "failed" if told["stage"] == "build" else "rejected"
    return EngineResult(**facts, outcome=outcome, reason=reason, errors=faults)


def _finished(output: Path, target: Path, facts: Mapping[str, Any], reason: str) -> EngineResult:
    size, digest = output.stat().st_size, sha256(output)
    with writable(target):
        files.disk.sync(output)
        files.disk.rename(output, target)
        files.disk.sync(target.parent)
    return EngineResult(
        **facts,
        outcome="built",
        built=True,
        path=str(target),
        bytes=size,
        sha256=digest,
        ran_reason=reason,
    )


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A temporary path in the target's folder, gone at the end unless it was renamed."""
    path = target.resolve().with_name(f".{target.name}.{os.getpid()}.tmp")
    with writable(target):
        path.touch()
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
