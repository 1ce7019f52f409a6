"""Find the subject that a user named: a file, package.module:factory, hf:FOLDER or timm:NAME."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from mpo.errors import UsageError
from mpo.optimizer.data.declared import declared_labels, declared_preprocessing
from mpo.optimizer.data.randominputs import random_data
from mpo.optimizer.data.subject import Subject
from mpo.optimizer.data.wrappers import unwrapped
from mpo.optimizer.files.artifact import load_weights
from mpo.optimizer.files.libraries import hugging_face, timm
from mpo.optimizer.ground.usercode import guarded


def load_subject(
    reference: str,
    *,
    weights: Path | None = None,
    allow_pickle: bool = False,
    data_file: Path | None = None,
    inputs: Sequence[str] = (),
) -> Subject:
    """Read the subject that `reference` names.

    Args:
        reference: a `.py` file with model() and data(); `package.module:factory`; `hf:FOLDER`, a
            local Hugging Face folder; or `timm:NAME`, an architecture of timm.
        weights: a state dict to load into the factory's model (safetensors, or torch's
            weights-only format).
        allow_pickle: let `weights` be a pickle; it can run any code.
        data_file: a Python file whose data(), loss() and metric() serve a subject that has
            none.
        inputs: shapes of random inputs (`1x3x224x224`, `input_ids=1x16:int`) when there is no data
            at all.

    Raises:
        UsageError: nothing there, no model, no data, or the user's code raised.
        RefusedError: weights that need a pickle.
    """
    module, factory = _find(reference)
    if weights is not None:
        factory = with_weights(factory, weights, allow_pickle)
    tools = [part for part in (_import_file(data_file) if data_file else None, module) if part]

    def given(name: str) -> Any:
        return next((vars(part)[name] for part in tools if name in vars(part)), None)

    data, notes = _data(reference, given("data"), inputs)
    if reference.startswith("timm:") and weights is None:
        notes = (f"{reference} has random weights: name trained ones with --weights.", *notes)
    return _subject(reference, factory, data, notes, given, _sources(tools, weights))


def load_model(reference: str) -> Callable[[], Any]:
    """What builds the model that `reference` names; its data are not asked for.

    Raises:
        UsageError: nothing there.
    """
    return _find(reference)[1]


def load_data(reference: str) -> Subject:
    """The subject whose data, loss and metric are wanted; a Python file may lack its model().

    Raises:
        UsageError: nothing there, or no data().
    """
    if not reference.endswith(".py"):
        return load_subject(reference)
    module = _import_file(Path(reference))

    def factory() -> Any:
        return _member(module, "model", reference)()

    data, notes = _data(reference, vars(module).get("data"), ())
    return _subject(reference, factory, data, notes, vars(module).get, _sources((module,), None))


def _subject(
    reference: str,
    factory: Callable[[], Any],
    data: Any,
    notes: tuple[str, ...],
    given: Callable[[str], Any],
    sources: tuple[Path, ...],
) -> Subject:
    if given("outputs") not in (None, "logits", "values"):
        raise UsageError(
            f"outputs is {given('outputs')!r}.", hint='Write outputs = "logits" or "values".'
        )
    return Subject(
        model=factory,
        data=data,
        loss=given("loss"),
        metric=given("metric"),
        name=reference,
        outputs=given("outputs"),
        text=given("text"),
        sources=sources,
        notes=notes,
        labels=declared_labels(given("labels")),
        preprocessing=declared_preprocessing(given("preprocessing")),
    )


def _data(reference: str, own: Any, inputs: Sequence[str]) -> tuple[Any, tuple[str, ...]]:
    """The subject's own data(), or random inputs in its place and the note that says so."""
    if own is None and not inputs:
        raise UsageError(
            f"{reference} has no data().",
            hint="Define data() -> mpo.Data, name a file with --data, or give --input SHAPE.",
        )
    if own is None:
        note = f"Random inputs ({', '.join(inputs)}): agreement on noise is no proof of accuracy."
        return random_data(inputs), (note,)
    if inputs:
        raise UsageError(
            f"{reference} has data(), and --input asks for random inputs in its place.",
            hint="Leave --input out; it is for a subject without data.",
        )
    return own, ()


def with_weights(
    bare: Callable[[], Any], weights: Path, allow_pickle: bool = False
) -> Callable[[], nn.Module]:
    """The factory's model with the state dict of a file loaded into it."""

    def factory() -> nn.Module:
        model: nn.Module = bare()
        load_weights(unwrapped(model), weights, allow_pickle=allow_pickle)
        return model

    return factory


def _sources(modules: Sequence[ModuleType], weights: Path | None) -> tuple[Path, ...]:
    """The files that a run of this subject depends on, as far as they are named."""
    files = [getattr(module, "__file__", None) for module in modules]
    return (*(Path(file) for file in files if file), *((weights,) if weights else ()))


def _find(reference: str) -> tuple[ModuleType | None, Callable[[], Any]]:
    if reference.startswith("hf:"):
        return None, hugging_face(Path(reference.removeprefix("hf:")))
    if reference.startswith("timm:"):
        return None, timm(reference.removeprefix("timm:"))
    if reference.endswith(".py"):
        module = _import_file(Path(reference))
        return module, _member(module, "model", reference)
    if ":" in reference:
        name, attribute = reference.split(":", 1)
        module = _import_module(name)
        return module, _member(module, attribute, reference)
    raise UsageError(
        f"{reference!r} names no subject.",
        hint="Give a subject file (model.py), package.module:factory, hf:FOLDER or timm:NAME.",
    )


def _member(module: ModuleType, name: str, reference: str) -> Callable[[], Any]:
    value = getattr(module, name, None)
    if isinstance(value, nn.Module):
        return lambda: value
    if not callable(value):
        raise UsageError(
            f"{reference} defines no {name}().",
            hint=f"Define `def {name}() -> torch.nn.Module` that returns the trained model.",
        )
    return value  # type: ignore[no-any-return]


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"There is no file {path}.", hint="Check the path of the subject file.")
    # by its whole path: two subjects may both be called subject.py
    name = f"mpo_subject_{path.stem}_{sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is no Python file.", hint="Give a file that ends with .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # as `python FILE` does, so that files beside it can be imported
    loader = spec.loader
    guarded(f"{path}", lambda: loader.exec_module(module))
    return module


def _import_module(name: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    if not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(
            f"{name!r} is no module.", hint="Write package.module:factory, or a path of a .py file."
        )
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"Cannot import {name}: {error}.",
            hint="Run from the folder that holds it, or install it.",
        ) from error
