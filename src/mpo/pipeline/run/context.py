"""What every stage of a run needs: the recipe, the subject, the original model, the folder."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from torch import nn

from mpo import __version__
from mpo.errors import MpoError
from mpo.exporters.axes import varying_axes
from mpo.exporters.metadata import facts
from mpo.files import sha256
from mpo.optimizer.analysis.harm import Kind
from mpo.optimizer.blocks.finding import find_blocks
from mpo.optimizer.blocks.surgery import remove_blocks
from mpo.optimizer.data.batches import Batch, limit, primary, take
from mpo.optimizer.data.labels import shifts_labels
from mpo.optimizer.data.narrow import narrowed
from mpo.optimizer.data.quality import check_model, predictor
from mpo.optimizer.data.splits import Splits
from mpo.optimizer.data.subject import Subject
from mpo.optimizer.data.tasks import is_classification
from mpo.optimizer.files.loading import load_subject
from mpo.optimizer.ground.distributed import ALONE, Crew
from mpo.pipeline.run.effort import EFFORTS, Measuring
from mpo.pipeline.run.fingerprints import (
    fingerprint_code,
    fingerprint_model,
    fingerprint_package,
    fingerprint_split,
)
from mpo.pipeline.run.lastexport import LastExport
from mpo.pipeline.run.places import Place
from mpo.recipe import Recipe
from mpo.records import Block
from mpo.runfolder import RunFolder
from mpo.timing import Deadline

PROOF_SIZES = (2, 3)
SEEN = 32  # batches a split that tell which axes vary
# What the original's figures and the analysis do not depend on.
WISHES = {
    "budget", "max_drop", "epochs", "candidates", "export", "precision", "distil", "contract",
    "finetune", "rounds", "time_limit", "accumulate",
}  # fmt: skip
Progress = Callable[[str, int, int], None]


@dataclass
class Context:
    """One run under way. Stages read it; none changes it."""

    recipe: Recipe
    subject: Subject
    folder: RunFolder
    progress: Progress
    places: tuple[Place, ...]
    deadline: Deadline = field(default_factory=Deadline)
    crew: Crew = ALONE
    last_export: LastExport = field(default_factory=LastExport)

    def announce(self, what: str, **words: Any) -> None:
        """Tell the other processes, if any, which work they take part in now
        (pipeline/optimize/crew.py).

        Args:
            words: JSON-able.
        """
        if self.crew.size > 1 and self.crew.rank == 0:
            self.crew.tell({"do": what, **words})

    @cached_property
    def original(self) -> nn.Module:
        """The trained model in eval mode."""
        return self.subject.build()

    @cached_property
    def converted(self) -> tuple[str, ...]:
        """Notes on what was changed of the model as it came: its wrappers, its floating type."""
        return self.subject.remarks()

    @cached_property
    def batch(self) -> Batch:
        """The first training batch: the example inputs."""
        batch = next(iter(self.splits().train))
        return limit([batch], max(8, self.recipe.batch))[0]

    @cached_property
    def varying(self) -> list[set[int]]:
        """Axes of the inputs, the batch aside, that differ between leading batches of the data."""
        splits = self.splits()
        batches = [*islice(splits.train, SEEN), *islice(splits.test, SEEN)]
        return varying_axes([(batch.args, batch.kwargs) for batch in batches])

    @cached_property
    def outputs(self) -> Any:
        """The original's outputs on the example inputs; raises UsageError when the model is
        broken."""
        return check_model(self.original, self.batch)

    @cached_property
    def kind(self) -> Kind:
        """Whether the outputs are class logits or any other values."""
        classes = is_classification(self.outputs, self.batch.targets)
        return self.subject.outputs or ("logits" if classes else "values")

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

    def facts(self, plan_sha256: str = "") -> dict[str, Any]:
        """What exported files keep inside: version, plan, and what the subject tells of itself."""
        subject = self.subject
        return facts(
            __version__,
            plan_sha256=plan_sha256,
            labels=subject.labels,
            preprocessing=subject.preprocessing,
        )

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the targets, the one that leads the report first."""
        return tuple(place.name for place in self.places)

    @property
    def measuring(self) -> Measuring:
        """How long figures are sampled."""
        return EFFORTS[self.recipe.effort]

    @property
    def external_weights(self) -> bool:
        """Whether exported weights lie in a file of their own, beside the graph."""
        return any(place.session.external_weights for place in self.places)

    @cached_property
    def _carved(self) -> Splits | None:
        """Splits that had to be carved: made once, since a loader that shuffles would mix them."""
        splits = self.subject.splits(self.recipe.seed)
        return splits if splits.carved else None

    def splits(self) -> Splits:
        """The data from its start, so that each stage sees the same order however often it runs."""
        splits = self._carved or self.subject.splits(self.recipe.seed)
        return splits.shifted() if splits.bare_labels and self._shifts else splits

    @cached_property
    def _shifts(self) -> bool:
        """Whether the model moves the labels itself, as causal language models do."""
        splits = self._carved or self.subject.splits(self.recipe.seed)
        return shifts_labels(self.original, limit(splits.train, 8)[0])

    def calibration(self) -> list[Batch]:
        """The leading training examples that analysis reads."""
        return limit(self.splits().train, self.recipe.calibration)

    @property
    def key(self) -> dict[str, Any]:
        """What the stages that choose and train depend on: `base_key` and the whole recipe."""
        return {**self.base_key, "recipe": self.recipe.model_dump(mode="json")}

    @cached_property
    def base_key(self) -> dict[str, Any]:
        """What all stages depend on, so that nothing is kept that was made of something else.

        This code, the recipe but for what is wanted (WISHES), the targets' devices, the
        original's structure and weights, the files that the subject names, and of each split its
        length and leading batches. Not seen: files that the subject file imports, and data beyond
        those batches.
        """
        splits = self.splits()
        return {
            "mpo": fingerprint_package(),
            "recipe": self.recipe.model_dump(mode="json", exclude=WISHES),
            "machines": [
                [place.name, place.fingerprint, place.environment.model_dump(mode="json")]
                for place in self.places
            ],
            "weights": fingerprint_model(self.original),
            "files": [sha256(path) for path in self.subject.sources],
            "code": fingerprint_code(self.subject.loss, self.subject.metric),
            "data": [
                fingerprint_split(split) for split in (splits.train, splits.validation, splits.test)
            ],
        }


def broken(names: Collection[str], how: str) -> MpoError:
    """The error for a joint removal that does not run."""
    return MpoError(
        f"The model without {', '.join(names)} {how}.",
        hint="Lower --candidates or change the budget, and report the model's layout.",
    )


def subject_of(recipe: Recipe, base: Path | None = None) -> Subject:
    """The subject that a recipe names; paths are relative to `base`, or to here."""

    def placed(path: str) -> Path:
        return Path(path) if base is None else base / path

    reference = recipe.subject
    if reference.startswith("hf:"):
        reference = f"hf:{placed(reference.removeprefix('hf:'))}"
    elif reference.endswith(".py"):
        reference = str(placed(reference))
    subject = load_subject(
        reference,
        weights=placed(recipe.weights) if recipe.weights else None,
        allow_pickle=recipe.allow_pickle,
        data_file=placed(recipe.data) if recipe.data else None,
        inputs=recipe.input,
    )
    return asked_for(replace(subject, name=recipe.subject), recipe)


def asked_for(subject: Subject, recipe: Recipe) -> Subject:
    """The subject narrowed to the classes that the recipe asks for, if it asks for any."""
    return narrowed(subject, recipe.classes) if recipe.classes else subject
