"""A plan's model in a run: compensated, trained, killed and gone on with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import mpo.optimizer.training.recover
from mpo.optimizer.training.recover import Schedule
from mpo.pipeline.optimize.training import tried
from mpo.pipeline.run.context import Context
from mpo.records import PlanCandidate, Recovery
from tests.pipeline.carrying import context_in, original_of

GONE = PlanCandidate(removed=("1.3",), harm=0.0)


def attempt(context: Context, kill_at: int = 0) -> tuple[nn.Module, Recovery, int]:
    """The stage's model, record and number of updates; killed at one of them when asked."""
    made: list[tuple[nn.Module, Recovery]] = []
    updates: list[int] = []

    def progress(what: str, done: int, total: int) -> None:
        updates.append(done)
        if done == kill_at:
            raise KeyboardInterrupt

    context.progress = progress

    def make(folder: Path) -> None:
        (folder / "x").write_text("")
        model, _, story = tried(context, GONE, original_of(context), Schedule(1e-3, 3))
        made.append((model, story))

    context.folder.stage("recovery", context.recipe.seed, make)
    return *made[0], len(updates)


def test_without_fine_tuning_the_model_is_only_made_up_for_and_the_record_says_so(
    tmp_path: Path,
) -> None:
    with context_in(tmp_path / "run", finetune=False) as context:
        model, story, updates = attempt(context)
        bare = context.without(GONE.removed)
    told = story.compensation
    assert (story.epochs, updates, story.note) == (0, 0, "not trained")
    assert told is not None
    assert told.harm_after < told.harm_before
    assert told.steps[0].startswith("what 1.3 did folded into 1.2: harm ")
    assert told.quality_before is not None
    assert told.quality_after == story.before == story.after > told.quality_before
    changed = [k for k, v in model.state_dict().items() if not torch.equal(v, bare.state_dict()[k])]
    assert changed
    assert model.state_dict().keys() == bare.state_dict().keys()


def test_training_starts_from_the_model_that_was_made_up_for(tmp_path: Path) -> None:
    with context_in(tmp_path / "run") as context:
        _, story, updates = attempt(context)
    assert story.compensation is not None
    assert story.before == story.compensation.quality_after
    assert updates > 0


def test_random_inputs_say_nothing_of_what_the_model_will_see(tmp_path: Path) -> None:
    with context_in(tmp_path / "run", finetune=False, input=("8x8",)) as context:
        _, story, _ = attempt(context)
    assert story.compensation is None


def test_a_run_killed_within_training_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mpo.optimizer.training.recover, "KEEP_SECONDS", 0.0)
    with context_in(tmp_path / "whole") as context:
        whole, story, updates = attempt(context)
    with context_in(tmp_path / "run") as context, pytest.raises(KeyboardInterrupt):
        attempt(context, kill_at=updates - 3)
    with context_in(tmp_path / "run") as context:
        resumed, again, left = attempt(context)
    assert again == story
    assert left < 6 < updates
    wanted = whole.state_dict()
    assert all(torch.equal(wanted[key], value) for key, value in resumed.state_dict().items())


def test_batches_are_accumulated_when_the_recipe_says_so(tmp_path: Path) -> None:
    with context_in(tmp_path / "run", accumulate=4) as context:
        _, _, updates = attempt(context)
    with context_in(tmp_path / "other") as context:
        _, _, single = attempt(context)
    assert updates * 4 == single
