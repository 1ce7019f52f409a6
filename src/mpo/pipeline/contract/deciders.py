"""The two models of a contract, however they are named: subject, run folder, ONNX file, weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from mpo.bundle.reader import is_bundle, open_bundle
from mpo.errors import UsageError
from mpo.exporters.preflight import preflight
from mpo.exporters.runtime import OnnxModel
from mpo.files import sha256
from mpo.optimizer.data.batches import Batch
from mpo.optimizer.data.quality import Predict, predictor
from mpo.optimizer.data.subject import Subject
from mpo.optimizer.files.loading import load_data, load_model, load_subject, with_weights
from mpo.optimizer.ground.copies import clone
from mpo.pipeline.run.fingerprints import fingerprint_model
from mpo.pipeline.run.proof import OPTIMIZED
from mpo.pipeline.run.rebuilt import is_run, plan_of_run, rebuild, subject_of_run
from mpo.records import ContractSide

Named = str | Path | Subject | nn.Module
WEIGHTS = (".safetensors", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Decider:
    """A model as a function of a batch.

    Attributes:
        side: for the record.
        predict: without gradients.
        module: the torch module, where there is one: mining may ask for gradients.
    """

    side: ContractSide
    predict: Predict
    module: nn.Module | None = None


def decider(named: Named, factory: Callable[[], Any] | None = None) -> Decider:
    """The model that is named.

    Args:
        named: a subject (a file, package.module:factory, hf:FOLDER, timm:NAME, or in memory), a run
            folder (its pruned model, or its file where that is in another precision), an ONNX file,
            an edge bundle, a torch module, or weights for `factory`.
        factory: what builds the model that weights belong to.

    Raises:
        UsageError: nothing there, or a file that cannot be run.
        RefusedError: an ONNX file that reaches for what it must not have, a damaged bundle.
    """
    if isinstance(named, nn.Module):
        return _of_module(clone(named).eval().float(), type(named).__name__, "module")
    if isinstance(named, Subject):
        return _of_module(named.build(), named.name, "subject")
    text, path = str(named), Path(named)
    if path.suffix == ".onnx":
        return _of_file(path)
    if is_bundle(path):
        return _of_bundle(path)
    if is_run(path):
        return _of_run(path)
    if path.suffix in WEIGHTS:
        if factory is None:
            raise UsageError(
                f"{text} holds weights, and no model to load them into is named.",
                hint="Name the subject they belong to as ORIGINAL.",
            )
        return _of_module(_built(with_weights(factory, path), text), text, "weights")
    if path.is_dir():
        raise UsageError(
            f"{path} is a folder, but no run folder of mpo.", hint="Name a run, a file, a subject."
        )
    return _of_module(_built(load_model(text), text), text, "subject")


def both(original: Named, candidate: Named) -> tuple[Decider, Decider]:
    """The two models; weights as the candidate are loaded into the original's factory."""
    first = decider(original)
    factory: Callable[[], Any] | None = None
    if isinstance(original, str | Path) and first.side.kind == "subject":
        factory = load_model(str(original))
    return first, decider(candidate, factory)


def data_subject(data: Named | None, original: Named, candidate: Named) -> Subject:
    """Where the data come from: what is named, or else the first of both that has any.

    Raises:
        UsageError: neither is named with data.
    """
    if isinstance(data, Subject):
        return data
    if data is not None:
        path = Path(str(data))
        return subject_of_run(path) if is_run(path) else load_data(str(data))
    for named in (original, candidate):
        if isinstance(named, Subject):
            return named
        if isinstance(named, nn.Module) or Path(named).suffix in (".onnx", ".mpo", *WEIGHTS):
            continue
        return subject_of_run(Path(named)) if is_run(Path(named)) else load_subject(str(named))
    raise UsageError(
        "Neither model comes with data.", hint="Name a subject file that has data() with --data."
    )


def _built(factory: Callable[[], Any], name: str) -> nn.Module:
    return Subject(model=factory, data=_no_data, name=name).build()


def _no_data() -> Any:
    raise UsageError("This model was named without data.", hint="Name them with --data.")


def _of_module(module: nn.Module, name: str, kind: Any) -> Decider:
    params = sum(p.numel() for p in module.parameters())
    digest = fingerprint_model(module)
    side = ContractSide(name=name, kind=kind, digest=digest, params=params)
    for parameter in module.parameters():
        parameter.requires_grad_(False)  # mining asks for gradients of inputs only
    return Decider(side, predictor(module), module)


def _of_file(path: Path) -> Decider:
    preflight(path)
    call = OnnxModel(path).as_model()

    def predict(batch: Batch) -> Any:
        return call(*batch.args, **batch.kwargs)

    return Decider(ContractSide(name=str(path), kind="onnx", digest=sha256(path)), predict)


def _of_run(path: Path) -> Decider:
    if plan_of_run(path).precision != "fp32":  # what is shipped decides, not what it was made from
        shipped = _of_file(path / OPTIMIZED)
        return replace(shipped, side=shipped.side.model_copy(update={"name": str(path)}))
    return _of_module(rebuild(path).model, str(path), "run")


def _of_bundle(path: Path) -> Decider:
    with tempfile.TemporaryDirectory(prefix="mpo-bundle-") as folder, open_bundle(path) as bundle:
        bundle.verify()
        found = _of_file(bundle.unpack_model(Path(folder)))
    side = found.side.model_copy(update={"name": str(path), "kind": "bundle"})
    return replace(found, side=side)
