"""What every stage of a run needs: the recipe, the subject, the original model, the folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mpo import __version__
from mpo.errors import MpoError
from mpo.optimizer.batches import Batch, limit, primary, take
from mpo.optimizer.blocks import find_blocks
from mpo.optimizer.harm import Kind
from mpo.optimizer.loading import load_subject
from mpo.optimizer.quality import check_model, predictor
from mpo.optimizer.subject import Splits, Subject
from mpo.optimizer.surgery import remove_blocks
from mpo.optimizer.tasks import is_classification
from mpo.profiles.device import physical_cores
from mpo.recipe import Recipe
from mpo.records import Block
from mpo.store import RunFolder

PROOF_SIZES = (2, 3)
Progress = Callable[[str, int, int], None]


@dataclass
class Context:
    """One run under way. Stages read it; none changes it."""

    recipe: Recipe
    subject: Subject
    folder: RunFolder
    progress: Progress

    @cached_property
    def original(self) -> nn.Module:
        """The trained model in eval mode."""
        return self.subject.build()

    @cached_property
    def batch(self) -> Batch:
        """The first training batch: the example inputs."""
        batch = next(iter(self.splits().train))
        return limit([batch], max(8, self.recipe.batch))[0]

    @cached_property
    def outputs(self) -> Any:
        """The original's outputs on the example inputs; raises UsageError when the model is
        broken."""
        return check_model(self.original, self.batch)

    @cached_property
    def kind(self) -> Kind:
        """Whether the outputs are class logits or any other values."""
        classes = is_classification(self.outputs, self.batch.targets)
        return "logits" if classes else "values"

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """All blocks; finding them also teaches the original how each one may go."""
        return find_blocks(self.original, self.batch)

    def without(self, names: Collection[str]) -> nn.Module:
        """A copy of the original without these blocks, proved by a forward pass at two batch sizes.

        Raises:
            MpoError: blocks that may go one by one break the model when they go together.
        """
        _ = self.blocks
        model = remove_blocks(self.original, names).eval()
        for size in PROOF_SIZES:
            batch = take(self.batch, size)
            wanted = primary(predictor(self.original)(batch)).shape
            try:
                found = primary(predictor(model)(batch)).shape
            except (RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
                raise broken(names, f"raises {type(error).__name__}") from error
            if found != wanted:
                raise broken(names, f"gives {tuple(found)} in the place of {tuple(wanted)}")
        return model

    @cached_property
    def threads(self) -> int:
        """Threads that latency and memory are measured with."""
        return self.recipe.threads or physical_cores()

    def splits(self) -> Splits:
        """The data, made anew, so that each stage sees the same order however often it runs."""
        return self.subject.splits(self.recipe.seed)

    def calibration(self) -> list[Batch]:
        """The leading training examples that analysis reads."""
        return limit(self.splits().train, self.recipe.calibration)

    @cached_property
    def key(self) -> dict[str, Any]:
        """What all stages depend on: this version, the recipe and the original's weights."""
        return {
            "mpo": __version__,
            "recipe": self.recipe.model_dump(mode="json"),
            "weights": fingerprint_model(self.original),
        }


def broken(names: Collection[str], how: str) -> MpoError:
    """The error for a joint removal that does not run."""
    return MpoError(
        f"The model without {', '.join(names)} {how}.",
        hint="Lower --candidates or change the budget, and report the model's layout.",
    )


def fingerprint_model(model: nn.Module) -> str:
    """sha256 over names, shapes and bytes of all parameters and buffers."""
    digest = hashlib.sha256(repr(model).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()


def subject_of(recipe: Recipe) -> Subject:
    """The subject that a recipe names."""
    return load_subject(
        recipe.subject,
        weights=Path(recipe.weights) if recipe.weights else None,
        allow_pickle=recipe.allow_pickle,
        data_file=Path(recipe.data) if recipe.data else None,
        inputs=recipe.input,
    )
