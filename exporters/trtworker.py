"""The building child: ONNX -> engine with TensorRT or TensorRT-RTX, whichever the request names.

A script for exporters/child.py, with the standard library and the vendor's module alone (Python >=
3.8). It reads one JSON line:
    {"module": "tensorrt_rtx", "onnx": path, "output": path, "timing_cache": path or null, ...}
(the rest are the fields of records.EngineOptions; no "onnx" asks for a description only, an empty
"module" for the GPU only) and writes one JSON object. What a release can do is asked of the module
itself, never of its version.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import re
import sys
import warnings
from typing import Any

KEPT_LINES = 50
LINE = 500
FIGURE = re.compile(r"^Total (Activation|Weights) Memory: (\d+) bytes")
LAYER = re.compile(r"^Name: .*?, LayerType: ", re.MULTILINE)
OUTPUTS = re.compile(r"Outputs: \[(.*?)\], TacticName")
TYPE = re.compile(r"Datatype: (\w+)")


class Unable(Exception):
    """Why there is no engine: the stage it ended in and one sentence."""


def gpu() -> dict[str, Any]:
    """The first GPU as its driver tells of it; "driver" is 0 where there is none."""
    number, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    none = {"driver": 0, "gpu": "", "capability": ""}
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return none
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(number)) or not number.value:
        return none
    device = ctypes.c_int()
    cuda.cuDeviceGet(ctypes.byref(device), 0)
    cuda.cuDeviceGetName(name, 256, device)
    parts = []
    for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
        cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
        parts.append(str(number.value))
    cuda.cuDriverGetVersion(ctypes.byref(number))
    found = {"driver": number.value, "gpu": name.value.decode(errors="replace")}
    return {**found, "capability": ".".join(parts)}


def make_logger(trt: Any) -> Any:
    """A logger that keeps errors, warnings and the few figures that only the log tells."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []
            self.figures: dict[str, int] = {}
            self.layers = ""

        def log(self, severity: Any, message: str) -> None:
            """Take one message; raising in here would end the process."""
            text = str(message)
            name = getattr(severity, "name", "")
            kept = {"WARNING": self.warnings, "ERROR": self.errors, "INTERNAL_ERROR": self.errors}
            rows = kept.get(name)
            line = " ".join(text.split())[:LINE]
            if rows is not None and line not in rows and len(rows) < KEPT_LINES:
                rows.append(line)
            figure = FIGURE.match(text)
            if figure:
                self.figures[figure[1]] = int(figure[2])
            elif text.startswith("Layers:"):
                self.layers = text

    return Logger()


def make_network(trt: Any, builder: Any, precision: str) -> Any:
    """A network whose types are the file's, unless builder flags are asked for and are there."""
    kinds = trt.NetworkDefinitionCreationFlag
    weak = precision != "onnx"
    if weak and not hasattr(trt.BuilderFlag, precision.upper()):
        raise Unable(
            "configure",
            f"{trt.__name__} {trt.__version__} takes every type from the ONNX file; it has no "
            f"{precision} flag.",
        )
    names = ["EXPLICIT_BATCH"] if weak else ["EXPLICIT_BATCH", "STRONGLY_TYPED"]
    return builder.create_network(
        sum(1 << int(getattr(kinds, name)) for name in names if hasattr(kinds, name))
    )


def parse(trt: Any, network: Any, logger: Any, path: str) -> list[dict[str, Any]]:
    """Read the file into the network; the faults that the parser found, one a node."""
    parser = trt.OnnxParser(network, logger)
    if parser.parse_from_file(path):
        return []
    faults = []
    for place in range(min(parser.num_errors, KEPT_LINES)):
        error = parser.get_error(place)
        code = str(error.code()).rsplit(".", 1)[-1]
        text = " ".join(str(error.desc()).split())[:LINE]
        told = {"node": _call(error, "node_name"), "operator": _call(error, "node_operator")}
        faults.append({**told, "index": error.node(), "message": f"{code}: {text}"})
    return faults or [{"message": "the parser gave no reason"}]


def _call(error: Any, name: str) -> str:
    """A field that older releases do not have."""
    return str(getattr(error, name)()) if hasattr(error, name) else ""


def add_profile(builder: Any, config: Any, network: Any, shapes: dict[str, Any]) -> None:
    """One optimization profile with the range of every input that has a free axis."""
    inputs = {network.get_input(i).name: network.get_input(i) for i in range(network.num_inputs)}
    unknown = sorted(set(shapes) - set(inputs))
    if unknown:
        known = ", ".join(sorted(inputs))
        raise Unable("profile", f"There is no input {unknown[0]}; the inputs are {known}.")
    profile, free = builder.create_optimization_profile(), False
    for name, tensor in inputs.items():
        sizes = tuple(tensor.shape)
        if name in shapes:
            _fits(name, sizes, shapes[name])
        if -1 not in sizes:
            continue
        if name not in shapes:
            raise Unable("profile", f"Input {name} has free axes, {sizes}, and no range.")
        if tensor.is_shape_tensor:
            raise Unable("profile", f"Input {name} is a shape; ranges of values are not supported.")
        row = shapes[name]
        profile.set_shape(name, tuple(row["min"]), tuple(row["opt"]), tuple(row["max"]))
        free = True
    if free and config.add_optimization_profile(profile) < 0:
        raise Unable("profile", "The library refused the ranges.")


def _fits(name: str, sizes: tuple[int, ...], row: dict[str, Any]) -> None:
    """Whether a range fits the input, told in the user's terms."""
    low, best, high = row["min"], row["opt"], row["max"]
    if {len(low), len(best), len(high)} != {len(sizes)}:
        raise Unable("profile", f"Input {name} has {len(sizes)} axes; its range has {len(best)}.")
    for axis, size in enumerate(sizes):
        own = (low[axis], best[axis], high[axis])
        if size != -1 and set(own) != {size}:
            raise Unable("profile", f"Axis {axis} of input {name} is fixed at {size}, not {own}.")
        if not 0 < own[0] <= own[1] <= own[2]:
            raise Unable("profile", f"Axis {axis} of input {name} has the range {own}.")


def configure(trt: Any, config: Any, request: dict[str, Any]) -> None:
    """The options, each where the module has it."""
    if request["workspace_bytes"]:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request["workspace_bytes"])
    if request["optimization_level"] is not None:
        config.builder_optimization_level = request["optimization_level"]
    if request["precision"] != "onnx":
        config.set_flag(getattr(trt.BuilderFlag, request["precision"].upper()))
    for option in ("version_compatible", "refit"):
        if request[option]:
            config.set_flag(getattr(trt.BuilderFlag, option.upper()))
    levels = {"ampere+": "AMPERE_PLUS", "same-capability": "SAME_COMPUTE_CAPABILITY"}
    if request["hardware"] != "this":
        level = levels[request["hardware"]]
        if not hasattr(trt.HardwareCompatibilityLevel, level):
            raise Unable("configure", f"{trt.__version__} has no {request['hardware']} engines.")
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    if request["compute_capabilities"]:
        _aim(trt, config, request["compute_capabilities"])
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the log names every layer


def _aim(trt: Any, config: Any, wanted: list[str]) -> None:
    """Build for these GPUs: "8.9" is SM89."""
    if not hasattr(config, "num_compute_capabilities"):
        raise Unable("configure", f"{trt.__name__} builds for the GPU of this machine only.")
    names = ["SM" + one.replace(".", "") for one in wanted]
    known = [name for name in dir(trt.ComputeCapability) if re.fullmatch(r"SM\d+", name)]
    for place, name in enumerate(names):
        if name not in known:
            told = ", ".join(re.sub(r"SM(\d+)(\d)", r"\1.\2", have) for have in known)
            raise Unable("configure", f"no target {wanted[place]}; there are {told}.")
    config.num_compute_capabilities = len(names)
    for place, name in enumerate(names):
        config.set_compute_capability(getattr(trt.ComputeCapability, name), place)


def timing_cache(config: Any, path: str) -> bool:
    """Give the builder the timings it kept; False where the module keeps none any more, which it
    tells with a deprecation (TensorRT-RTX)."""
    with open(path, "rb") as file, warnings.catch_warnings(record=True) as told:  # noqa: PTH123
        warnings.simplefilter("always")
        kept = config.set_timing_cache(config.create_timing_cache(file.read()), False)
    return bool(kept) and not any(issubclass(one.category, DeprecationWarning) for one in told)


def engine_layers(text: str) -> tuple[int | None, dict[str, int]]:
    """Layers and their output types, from the log's list of the finished engine."""
    rows = [line for line in text.splitlines() if LAYER.match(line)]
    types: dict[str, int] = {}
    for row in rows:
        outputs = OUTPUTS.search(row)
        kinds = sorted(set(TYPE.findall(outputs[1]))) if outputs else []
        if kinds:
            name = "+".join(kinds)
            types[name] = types.get(name, 0) + 1
    return (len(rows) or None), types


def inspect(trt: Any, logger: Any, engine: Any) -> dict[str, Any]:
    """What only a loaded engine tells; called where a GPU is, with an engine built just now."""
    runtime = trt.Runtime(logger)
    loaded = runtime.deserialize_cuda_engine(engine)
    if loaded is None:
        return {}
    size = getattr(loaded, "device_memory_size_v2", None) or loaded.device_memory_size
    told = {"device_memory_bytes": int(size), "layers": int(loaded.num_layers)}
    inspector = loaded.create_engine_inspector()
    text = inspector.get_engine_information(trt.LayerInformationFormat.ONELINE)
    precisions = engine_layers(str(text))[1]
    return {**told, "precisions": precisions} if precisions else told


def build(trt: Any, request: dict[str, Any], machine: dict[str, Any]) -> dict[str, Any]:
    """Build the engine into request["output"]; a dictionary for records.EngineResult."""
    logger = make_logger(trt)
    told: dict[str, Any] = {"stage": "done", "reason": "", "errors": []}
    try:
        try:
            builder = trt.Builder(logger)
        except TypeError as error:  # the library gives a null pointer where it finds no driver
            text = f"{trt.__name__} builds only where an NVIDIA driver is."
            raise Unable("driver", text) from error
        network = make_network(trt, builder, request["precision"])
        told["errors"] = parse(trt, network, logger, request["onnx"])
        if told["errors"]:
            raise Unable("parse", "The parser does not take the graph.")
        told["network_layers"] = network.num_layers
        engine = serialized(trt, builder, network, logger, request)
        told["layers"], told["precisions"] = engine_layers(logger.layers)
        told["device_memory_bytes"] = logger.figures.get("Activation")
        told["weights_bytes"] = logger.figures.get("Weights")
        if machine["driver"]:
            told.update(inspect(trt, logger, engine))
    except Unable as error:
        told["stage"], told["reason"] = error.args
    told["warnings"] = logger.warnings
    return told


def serialized(trt: Any, builder: Any, network: Any, logger: Any, request: dict[str, Any]) -> Any:
    """The finished engine, written to request["output"]; the timings too, where they are kept."""
    config = builder.create_builder_config()
    add_profile(builder, config, network, request["shapes"])
    configure(trt, config, request)
    cache = request["timing_cache"] or ""
    keeps = bool(cache) and timing_cache(config, cache)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise Unable("build", (logger.errors or ["The library gave no reason."])[0])
    with open(request["output"], "wb") as file:  # noqa: PTH123
        file.write(memoryview(engine))
        file.flush()
        os.fsync(file.fileno())
    if keeps:
        with open(cache, "wb") as file:  # noqa: PTH123
            file.write(memoryview(config.get_timing_cache().serialize()))
    return engine


def main() -> None:
    """Answer the request; whatever a library prints on stdout goes to stderr."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = json.loads(sys.stdin.readline())
    machine = gpu()
    told = dict(machine)
    if request["module"]:
        trt = importlib.import_module(request["module"])
        told["version"] = str(trt.__version__)
        if request.get("onnx"):
            told.update(build(trt, request, machine))
    answer.write(json.dumps(told) + "\n")
    answer.close()


if __name__ == "__main__":
    main()
