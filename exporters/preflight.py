"""Look at an ONNX file that came from elsewhere before any library of this process reads it.

Two bounded children: one walks the file's bytes with the standard library alone, and only what it
finds sound is loaded by onnxruntime in the other, where constants that fold to gigabytes, endless
loops of the optimizer and crashes end as one sentence. Neither can write a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mpo.errors import MpoError, RefusedError, UsageError
from mpo.exporters.child import Ended, run_script
from mpo.exporters.onnxrules import Bounds

ROOT = Path(__file__).absolute().parents[2]  # of the package, whose `exporters` is a link
WORKER = Path(__file__).with_name("preflightworker.py")
# Seconds of processor time that a child may take: fixed, and by the file's size. Together under
# 10 s for a small file; by the clock it may be PATIENCE times that, as others may use the machine.
LOOK_SECONDS, LOAD_SECONDS, BYTES_PER_SECOND = 4, 5, 25_000_000
PATIENCE = 4
LONGEST_LOOK, GRAPH_BYTES_PER_SECOND = 9, 1_000_000
LOOK_BYTES, LOAD_BYTES, FACTOR = 256 * 2**20, 2**30, 5
HINT = "Export the model again, or ask whoever made the file."


@dataclass(frozen=True)
class Preflight:
    """What a sound ONNX file declares.

    Attributes:
        nodes: those of graphs inside the graph and of functions included.
        tensors: constants of any kind.
        bytes: of the file and of its weights files.
        external: names of the weights files beside it.
        load_error: what onnxruntime said when it could not load the file on a CPU; empty when it
            could, or was not asked. A file for another device may be sound all the same.
        seconds: that looking took.
    """

    nodes: int
    tensors: int
    bytes: int
    external: tuple[str, ...]
    load_error: str
    seconds: float


def preflight(path: Path, *, load: bool = True, bounds: Bounds | None = None) -> Preflight:
    """Judge an untrusted ONNX file in bounded children.

    Looking may take 4 to 9 s of processor time, 256 MB and the file's size; loading 5 s and a
    second more for each 25 MB, 1 GiB and five times the size of the file and its weights files.

    Args:
        load: let onnxruntime load it, too.
        bounds: of what it may declare.

    Raises:
        UsageError: no such file, no ONNX model, or one that contradicts itself, or takes more than
            it may (exit 2).
        RefusedError: it reaches for what it must not have (exit 8).
    """
    if not path.is_file():
        raise UsageError(f"There is no ONNX file {path}.", hint="Check the path.")
    request = {"root": str(ROOT), "model": str(path.absolute())}
    look = {**request, "job": "look", "bounds": asdict(bounds or Bounds())}
    size = path.stat().st_size
    seconds = min(LONGEST_LOOK, LOOK_SECONDS + size // GRAPH_BYTES_PER_SECOND)
    ended, facts = _asked(path, look, seconds, LOOK_BYTES + size)
    took, size, error = ended.seconds, int(facts["bytes"]), ""
    if load:
        seconds = LOAD_SECONDS + size // BYTES_PER_SECOND
        load_it = {**request, "job": "load"}
        ended, loaded = _asked(path, load_it, seconds, LOAD_BYTES + FACTOR * size)
        took, error = took + ended.seconds, str(loaded.get("load_error", ""))
    return Preflight(
        nodes=int(facts["nodes"]),
        tensors=int(facts["tensors"]),
        bytes=size,
        external=tuple(map(str, facts["external"])),
        load_error=error,
        seconds=took,
    )


def _asked(
    path: Path, request: Mapping[str, Any], seconds: int, memory_bytes: int
) -> tuple[Ended, Mapping[str, Any]]:
    """How the child ended, and the facts that it found.

    Raises:
        UsageError, RefusedError: its verdict, or that it had to be ended.
        MpoError: it could not look.
    """
    bounded = {**request, "memory_bytes": memory_bytes, "seconds": seconds}
    ended, answer = run_script(
        WORKER, bounded, timeout=PATIENCE * seconds, memory_bytes=memory_bytes
    )
    verdict, why = answer.get("verdict"), answer.get("why", "")
    doing = "Looking at" if request["job"] == "look" else "Loading"
    if ended.kind in ("timed-out", "out-of-memory", "crashed"):
        slow = f"took more than {seconds} s" if "SIGXCPU" in ended.reason else ended.reason
        raise UsageError(f"{doing} {path} had to be ended: the process {slow}.", hint=HINT)
    if verdict == "malformed":
        raise UsageError(f"{path} is no ONNX model that can be read: {why}.", hint=HINT)
    if verdict == "refused":
        raise RefusedError(
            f"{path} is refused: {why}.",
            hint="mpo takes models whose weights lie beside them and whose operators "
            "onnxruntime has itself.",
        )
    if verdict != "sound":
        last = ended.errors.strip().splitlines()[-1:] or [ended.reason]
        raise MpoError(f"{doing} {path} failed: {last[0][:300]}.", hint="Run with -v.")
    return ended, answer["facts"]
