"""One policy for what opens files and starts programs: who may, and why; nobody else may.

SECURITY.md tells the policy; this is what holds the code to it. A new entry wants a second reader.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

# Calls that read a file of a foreign format, load code, or start a program.
WATCHED = {
    "ctypes.CDLL", "import_module", "importlib.import_module", "np.load", "numpy.load",
    "onnx.load", "onnx.load_model", "onnxruntime.InferenceSession", "ort.InferenceSession",
    "pickle.load", "pickle.loads", "safe_open", "subprocess.Popen", "subprocess.run", "torch.load",
    "torch.jit.load", "torch.export.load",
}  # fmt: skip
WATCHED_METHODS = {
    "deserialize_cuda_engine", "exec_module", "from_pretrained", "register_custom_ops_library",
}  # fmt: skip
# (module, call) -> what makes it right there.
ALLOWED = {
    # code: what the user names, what mpo itself is made of
    ("optimizer/files/loading.py", "importlib.import_module"): "the module that the user names",
    ("optimizer/files/loading.py", "loader.exec_module"): "the subject file that the user names",
    ("optimizer/files/libraries.py", "importlib.import_module"): "transformers, timm, by name",
    ("optimizer/files/libraries.py", "architecture.from_pretrained"): "local safetensors, no code",
    ("src/mpo/__init__.py", "import_module"): "mpo's own verbs, by a fixed table",
    ("src/mpo/registry.py", "importlib.import_module"): "installed plugins (entry points)",
    ("src/mpo/bundle/signing.py", "importlib.import_module"): "model_signing, when installed",
    ("src/mpo/bundle/mpo_edge.py", "importlib.import_module"): "numpy, onnxruntime, tensorrt",
    ("src/mpo/bundle/mpo_signature.py", "importlib.import_module"): "mpo_edge beside it",
    ("exporters/ovworker.py", "importlib.import_module"): "openvino, which ships no types",
    ("exporters/trtrunner.py", "importlib.import_module"): "one of TensorRT's two names",
    ("exporters/trtworker.py", "importlib.import_module"): "one of TensorRT's two names",
    ("profiles/needs.py", "importlib.import_module"): "libraries of a fixed list",
    ("optimizer/planning/highs.py", "ctypes.CDLL"): "this process itself, to flush its output",
    ("exporters/trtrunner.py", "ctypes.CDLL"): "the system's libcuda.so.1",
    ("exporters/trtworker.py", "ctypes.CDLL"): "the system's libcuda.so.1",
    ("src/mpo/bundle/mpo_edge.py", "ctypes.CDLL"): "the system's CUDA and C libraries",
    ("profiles/gpuwatch.py", "ctypes.CDLL"): "the system's libcuda.so.1",
    ("profiles/worker.py", "spec.loader.exec_module"): "mpo's own adapter, sent with its sha256",
    # weights
    ("optimizer/files/artifact.py", "safe_open"): "safetensors: data",
    ("optimizer/files/artifact.py", "torch.load"): "weights_only, or the user's own --allow-pickle",
    # arrays: never pickled objects (test_manners.py)
    ("exporters/backends.py", "np.load"): "a child's answer",
    ("exporters/ovworker.py", "np.load"): "the parent's inputs",
    ("exporters/trtrunner.py", "np.load"): "the parent's inputs",
    ("profiles/worker.py", "np.load"): "the parent's inputs",
    ("profiles/modeljobs.py", "np.load"): "the user's --input",
    ("src/mpo/pipeline/bench/inputs.py", "np.load"): "the user's --input",
    # ONNX: files of our own export, or after the pre-flight
    ("exporters/converted.py", "onnx.load"): "our own export",
    ("exporters/enginecache.py", "onnx.load"): "our own export",
    ("exporters/metadata.py", "onnx.load"): "our own export",
    ("exporters/shapes.py", "onnx.load"): "our own export",
    ("exporters/suspects.py", "onnx.load"): "our own export",
    ("exporters/tracing.py", "onnx.load"): "what torch just exported",
    ("profiles/modeljobs.py", "onnx.load"): "after the pre-flight, to name its weights files",
    ("src/mpo/pipeline/run/graphs.py", "onnx.load"): "after the pre-flight",
    ("src/mpo/pipeline/plan/parts.py", "onnx.load"): "our own export",
    ("src/mpo/pipeline/run/precision.py", "onnx.load"): "our own export, or after the pre-flight",
    ("src/mpo/pipeline/optimize/story.py", "onnx.load"): "our own export",
    ("exporters/converted.py", "onnxruntime.InferenceSession"): "our own export",
    ("exporters/simplify.py", "onnxruntime.InferenceSession"): "our own export",
    ("exporters/tracing.py", "onnxruntime.InferenceSession"): "what torch just exported",
    ("exporters/runtime.py", "onnxruntime.InferenceSession"): "our own, or after the pre-flight",
    ("exporters/trialworker.py", "onnxruntime.InferenceSession"): "doctor's own file, in a child",
    ("exporters/preflightworker.py", "onnxruntime.InferenceSession"): "the bounded child itself",
    ("profiles/worker.py", "onnxruntime.InferenceSession"): "in a measuring process",
    ("profiles/probe_limits.py", "onnxruntime.InferenceSession"): "our own graphs, in a child",
    ("src/mpo/bundle/mpo_edge.py", "onnxruntime.InferenceSession"): "after its sha256",
    # engines: native code, built here
    ("exporters/trtrunner.py", "runtime.deserialize_cuda_engine"): "built here, in a child",
    ("exporters/trtworker.py", "runtime.deserialize_cuda_engine"): "just built, in a child",
    ("src/mpo/bundle/mpo_edge.py", "runtime.deserialize_cuda_engine"): "after its HMAC",
    # programs: always a list of words, never a shell's line
    ("exporters/child.py", "subprocess.Popen"): "bounded children",
    ("profiles/local.py", "subprocess.Popen"): "measuring processes",
    ("profiles/gpuwatch.py", "subprocess.Popen"): "nvidia-smi, to sample the GPU's state",
    ("profiles/worker.py", "subprocess.run"): "ps, for memory where there is no /proc",
    ("profiles/pipes.py", "subprocess.Popen"): "ssh, its address checked",
    ("profiles/bootstrap.py", "subprocess.Popen"): "measuring processes on the device",
    ("profiles/probe.py", "subprocess.run"): "nvidia-smi and its like, to describe a device",
    ("profiles/probe_state.py", "subprocess.run"): "nvidia-smi and its like",
    ("src/mpo/bundle/edgejob.py", "subprocess.run"): "mpo_edge.py of this mpo, never the bundle's",
    ("src/mpo/bundle/mpo_edge.py", "subprocess.Popen"): "itself, as a child",
}  # fmt: skip
# Modules that nobody imports: they unpack, parse, fetch or run what is not ours. -> who may, why
BANNED_IMPORTS = {
    "dill", "ftplib", "http", "joblib", "lxml", "marshal", "multiprocessing", "pickle", "requests",
    "shelve", "smtplib", "socket", "ssl", "tarfile", "telnetlib", "urllib", "webbrowser", "xml",
    "xmlrpc", "yaml", "zipfile",
}  # fmt: skip
ALLOWED_IMPORTS = {
    ("optimizer/files/artifact.py", "pickle"): "for the name of its error",
    ("src/mpo/pipeline/bench/inputs.py", "zipfile"): "for the name of its error",
    ("src/mpo/render/junit.py", "xml"): "to write, never to parse",
}


def trees(root: Path, modules: tuple[Path, ...]) -> Iterator[tuple[str, ast.Module]]:
    """Every module's path in the checkout and its syntax tree."""
    for path in modules:
        yield path.relative_to(root).as_posix(), ast.parse(path.read_text())


def watched(tree: ast.Module) -> Iterator[str]:
    """The watched calls of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in WATCHED or name.rpartition(".")[2] in WATCHED_METHODS:
                yield name


def imported(tree: ast.Module) -> Iterator[str]:
    """The top names of everything that a module imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


def test_only_reviewed_places_open_files_or_start_programs(
    root: Path, modules: tuple[Path, ...]
) -> None:
    found = {(name, call) for name, tree in trees(root, modules) for call in watched(tree)}
    assert not found - ALLOWED.keys(), "have it reviewed, and say why it is right"
    assert not {key for key in ALLOWED.keys() - found if (root / key[0]).is_file()}, "is gone"


def test_nobody_imports_what_unpacks_fetches_or_unpickles(
    root: Path, modules: tuple[Path, ...]
) -> None:
    found = {
        (name, module)
        for name, tree in trees(root, modules)
        for module in imported(tree)
        if module in BANNED_IMPORTS
    }
    assert found == ALLOWED_IMPORTS.keys()


def test_no_array_is_loaded_without_saying_that_objects_are_refused(
    root: Path, modules: tuple[Path, ...]
) -> None:
    for name, tree in trees(root, modules):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
                words = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert words.get("allow_pickle") == "False", f"{name}:{node.lineno}"


def test_a_pickle_is_read_in_one_place_and_only_when_asked(root: Path) -> None:
    tree = ast.parse((root / "optimizer" / "files" / "artifact.py").read_text())
    unsafe = [
        function.name
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.keyword)
        and node.arg == "weights_only"
        and ast.unparse(node.value) != "True"
    ]
    assert unsafe == ["_unpickle"]


@pytest.mark.parametrize(
    "code", ["np.load(f)", "torch.load(f)", "x.y.deserialize_cuda_engine(b)", "subprocess.run(c)"]
)
def test_the_watch_sees_what_it_watches(code: str) -> None:
    assert list(watched(ast.parse(code)))
