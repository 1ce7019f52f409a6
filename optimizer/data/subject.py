"""The subject: a trained model, its data, its loss and its metric, however they are handed over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from mpo.errors import UsageError
from mpo.optimizer.data.splits import Data, Splits, carve
from mpo.optimizer.data.wrappers import plain_copy
from mpo.optimizer.ground.usercode import guarded, seeded

Kind = Literal["logits", "values"]
Loss = Callable[[Any, Any], Tensor]
Metric = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Subject:
    """A trained model with what is needed to judge it.

    Args:
        model: the trained module, or a callable that builds it with its weights
            loaded.
        data: `Data`, a callable that returns it, or None with `inputs` random batches.
        loss: (outputs, targets) -> scalar tensor; cross-entropy when None.
        metric: (outputs, targets) -> float, called once on a whole split; higher is better unless
            the function has a true attribute `lower_is_better`; top-1 accuracy when None.
        name: what reports call it.
        outputs: "logits" of classes or other "values"; None lets the targets tell. Without targets
            only [N, C] outputs are taken for logits.
        text: (inputs) -> one text an example, to show token inputs with; inputs as the data yield
            them.
        notes: sentences that every report repeats (random inputs, for one).
        sources: files that a run depends on: when one changes, finished stages are made again.
        labels: of the classes, in the order of the outputs; exported files keep them.
        preprocessing: what is done to the inputs before they come here, JSON-able; exported files
            keep it.
    """

    model: nn.Module | Callable[[], nn.Module]
    data: Data | Callable[[], Data]
    loss: Loss | None = None
    metric: Metric | None = None
    name: str = "model"
    outputs: Kind | None = None
    text: Callable[[Any], Any] | None = None
    notes: tuple[str, ...] = ()
    sources: tuple[Path, ...] = ()
    labels: tuple[str, ...] = ()
    preprocessing: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def _as_given(self) -> tuple[nn.Module, tuple[str, ...]]:
        built: Any = self.model
        if not isinstance(built, nn.Module):
            factory = built
            with seeded(0):
                built = guarded("model()", factory)
        if not isinstance(built, nn.Module):
            raise UsageError(
                f"model() of {self.name} returned {type(built).__name__}, not a torch.nn.Module.",
                hint="Return the trained module itself.",
            )
        # a factory may hand out one shared object, and what is built here is cut and trained
        return plain_copy(built)

    def build(self) -> nn.Module:
        """A fresh copy of the trained model in eval mode, in float32 whatever it was saved in, out
        of whatever it was wrapped in.

        Raises:
            UsageError: the factory raised, or returned no torch module or one that cannot be
                opened.
        """
        return self._as_given()[0].float()

    def remarks(self) -> tuple[str, ...]:
        """What was changed of the model that was handed over: its wrappers and floating type."""
        model, told = self._as_given()
        types = {str(p.dtype) for p in model.parameters() if p.is_floating_point()}
        return told + tuple(
            f"The model came in {kind.removeprefix('torch.')}; mpo measures, trains and exports "
            "both models in float32."
            for kind in sorted(types - {"torch.float32"})
        )

    def splits(self, seed: int = 0) -> Splits:
        """The three splits, made anew so that every stage sees the same order of examples."""
        data: Any = self.data
        if not isinstance(data, Data) and callable(data):
            make = data
            with seeded(seed):
                data = guarded("data()", make)
        if not isinstance(data, Data):
            raise UsageError(
                f"data() of {self.name} returned {type(data).__name__}, not mpo.Data.",
                hint="Return mpo.Data(train=..., validation=..., test=...).",
            )
        splits = carve(data, seed)
        return replace(splits, notes=(*self.notes, *splits.notes))
