"""Recovery as a run does it: the guard's verdicts, rounds, the limit of time, parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mpo
from mpo.pipeline.optimize import training
from mpo.pipeline.optimize.recovery import Trained, kept, train_plans
from mpo.pipeline.run.context import Context
from mpo.records import Acceptance, Plan, PlanCandidate
from tests.pipeline.carrying import MODEL, context_in, original_of, plan_of
from tests.subjects import tiny

FOUR = ("1.0", "1.2", "1.3", "1.5")


def carried(context: Context, plan: Plan) -> Trained:
    original = original_of(context)
    return kept(context, lambda: train_plans(context, plan, original))


def chosen(plan: Plan) -> PlanCandidate:
    return next(one for one in plan.alternatives if one.removed == plan.removed)


def verdicts(monkeypatch: pytest.MonkeyPatch, told: list[str]) -> list[tuple[int, int]]:
    """Let the guard say these verdicts one after the other, and accepted after them; what it was
    asked: the look, and how many blocks the model still has."""
    asked: list[tuple[int, int]] = []
    rest = iter(told)

    def acceptor_of(context: Context) -> Any:
        def accept(model: nn.Module, precision: str, look: int) -> Acceptance:
            asked.append((look, len(list(model.get_submodule("1").children()))))
            return Acceptance(
                verdict=next(rest, "accepted"), drop=0.0, bound=0.0, allowed=0.05, samples=512,
                alpha=0.025, look=look, method="score",
            )  # fmt: skip

        return accept

    monkeypatch.setattr("mpo.pipeline.optimize.workshop.acceptor_of", acceptor_of)
    return asked


def test_an_accepted_plan_has_a_bound_within_what_is_allowed(tmp_path: Path) -> None:
    with context_in(tmp_path / "run") as context:
        model, plan, _ = carried(context, plan_of(("1.3",), ("1.4",)))
    found = chosen(plan).acceptance
    assert found is not None
    assert found.verdict == "accepted"
    assert found.bound is not None
    assert found.drop <= found.bound <= found.allowed == 0.05
    assert (found.samples, found.look, found.alpha) == (512, 1, 0.025)
    assert len(model.get_submodule("1")) == 5  # type: ignore[arg-type]
    assert plan.alternatives[1].acceptance is None or plan.alternatives[0].acceptance is None


def test_a_drop_that_is_allowed_and_not_proved_is_unproven_and_says_what_would_prove_it(
    tmp_path: Path,
) -> None:
    data = mpo.Data(tiny.split(1, 512), validation=tiny.split(2, 128), test=tiny.split(3, 512))
    with context_in(tmp_path / "run", data=data, max_drop="2%", candidates=1) as context:
        _, plan, _ = carried(context, plan_of(("1.3",)))
    found = chosen(plan).acceptance
    assert found is not None
    assert found.verdict == "unproven"
    assert found.bound is not None
    assert found.drop <= 0.02 < found.bound
    assert (found.needed or 0) > found.samples


def test_accepted_comes_before_unproven_and_unproven_before_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = plan_of(("1.3",), ("1.4",), ("1.5",))
    asked = verdicts(monkeypatch, ["rejected", "unproven", "accepted"])
    with context_in(tmp_path / "run", candidates=3) as context:
        _, plan, _ = carried(context, plans)
    assert [look for look, _ in asked] == [1, 2, 3]
    assert [one.acceptance and one.acceptance.verdict for one in plan.alternatives] == [
        "rejected", "unproven", "accepted",
    ]  # fmt: skip
    assert plan.removed == plan.alternatives[2].removed


def test_rounds_take_the_blocks_step_by_step_and_end_with_the_plan(tmp_path: Path) -> None:
    with context_in(tmp_path / "run", rounds=2, epochs=3, max_drop="50%") as context:
        model, plan, _ = carried(context, plan_of(FOUR))
    steps = chosen(plan).rounds
    assert [len(step.removed) for step in steps] == [2, 2]
    assert {name for step in steps for name in step.removed} == set(FOUR) == set(plan.removed)
    assert [step.acceptance.look for step in steps] == [1, 2]
    assert all(step.kept for step in steps)
    assert steps[0].epochs <= 1
    assert steps[1].epochs <= 2
    assert len(model.get_submodule("1")) == 2  # type: ignore[arg-type]


def test_a_rejected_round_is_undone_and_a_finer_step_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = verdicts(monkeypatch, ["accepted", "rejected"])
    with context_in(tmp_path / "run", rounds=2, epochs=2) as context:
        _, plan, _ = carried(context, plan_of(FOUR))
    assert asked == [(1, 4), (2, 2), (3, 3), (4, 2)]
    steps = chosen(plan).rounds
    assert [step.kept for step in steps] == [True, False, True, True]
    assert [step.gone for step in steps] == [2, 4, 3, 4]
    assert set(plan.removed) == set(FOUR)


def test_a_single_block_that_is_rejected_gives_way_to_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts(monkeypatch, ["rejected"])
    with context_in(tmp_path / "run", rounds=2) as context:
        _, plan, _ = carried(context, plan_of(("1.2", "1.4")))
    steps = chosen(plan).rounds
    assert [step.kept for step in steps] == [False, True, True]
    assert steps[0].removed != steps[1].removed
    assert set(plan.removed) == {"1.2", "1.4"}


def test_a_plan_that_is_given_up_still_holds_the_budget_and_the_last_accepted_model_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts(monkeypatch, ["accepted", *["rejected"] * 9])
    folder = tmp_path / "run"
    with context_in(folder, rounds=4, candidates=1) as context:
        model, plan, _ = carried(context, plan_of(FOUR))
    found = chosen(plan)
    assert found.acceptance is not None
    assert found.acceptance.verdict == "rejected"
    assert set(plan.removed) == set(FOUR)
    assert len(model.get_submodule("1")) == 2  # type: ignore[arg-type]
    assert (folder / "stages" / "recovery" / "accepted.safetensors").is_file()
    assert any("stages/recovery/accepted" in note for note in plan.notes)
    vain = [step for step in found.rounds if not step.kept]
    assert len(vain) == 3


def test_later_rounds_start_from_the_trained_model_and_not_from_the_original(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first round's model gets a mark that changes no decision."""
    seen: list[Any] = []
    real = training.tried

    def tried(context: Any, candidate: Any, original: Any, schedule: Any, start: Any) -> Any:
        seen.append(start)
        model, found, story = real(context, candidate, original, schedule, start)
        with torch.no_grad():
            model.get_parameter("2.bias").fill_(7.0)
        return model, found, story

    monkeypatch.setattr("mpo.pipeline.optimize.workshop.tried", tried)
    with context_in(tmp_path / "run", rounds=2, epochs=2, max_drop="50%") as context:
        carried(context, plan_of(("1.2", "1.4")))
    assert seen[0] is None
    assert bool((seen[1]["2.bias"] == 7.0).all())


def test_once_the_time_is_over_the_first_plan_is_handed_out_untrained_and_the_report_says_so(
    tmp_path: Path,
) -> None:
    with context_in(tmp_path / "run", seconds=1e-6, time_limit="1s", rounds=2) as context:
        _, plan, story = carried(context, plan_of(("1.3", "1.4"), ("1.2", "1.5")))
    assert plan.removed == ("1.3", "1.4")
    assert story.epochs == 0
    assert any("--time-limit 1s: nothing was trained" in line for line in plan.cut)


def test_time_that_ends_in_training_keeps_the_best_model_by_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is asked after every update; it is over when the second plan would begin."""
    asked = verdicts(monkeypatch, ["unproven"])
    with context_in(tmp_path / "run", epochs=6, seconds=3600, time_limit="1h") as context:
        monkeypatch.setattr(context.deadline, "over", lambda: len(asked) > 0)
        _, plan, _ = carried(context, plan_of(("1.3",), ("1.4",)))
    assert len(asked) == 1
    assert any("1 of 2 plans were not recovered" in line for line in plan.cut)


def test_training_that_time_ends_keeps_the_best_weights_and_says_in_which_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight updates an epoch; the clock says yes when it is asked for the twentieth time."""
    times = iter(range(10**6))
    with context_in(tmp_path / "run", epochs=50, seconds=3600, time_limit="1h") as context:
        monkeypatch.setattr(context.deadline, "over", lambda: next(times) >= 20)
        _, plan, story = carried(context, plan_of(FOUR))
    assert 0 < story.epochs < 50
    (told,) = plan.cut
    assert told.startswith("--time-limit 1h: training of the plan without 4 blocks ended in epoch")
    assert "of at most 50" in told


def dying(trained: list[str]) -> Callable[..., Any]:
    """A training that notes the blocks that are gone; the second one is killed."""
    real = training.tried

    def tried(context: Any, candidate: Any, *rest: Any) -> Any:
        trained.append(",".join(candidate.removed))
        if len(trained) == 2:
            raise KeyboardInterrupt
        return real(context, candidate, *rest)

    return tried


def test_a_killed_run_does_not_train_a_finished_round_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second attempt dies; the next call trains only that one, and ends as an undisturbed
    run."""
    folder, trained = tmp_path / "run", list[str]()
    monkeypatch.setattr("mpo.pipeline.optimize.workshop.tried", dying(trained))
    options: dict[str, Any] = {"rounds": 2, "max_drop": "50%"}
    with context_in(folder, **options) as context, pytest.raises(KeyboardInterrupt):
        carried(context, plan_of(("1.2", "1.4")))
    with context_in(folder, **options) as context:
        model, plan, _ = carried(context, plan_of(("1.2", "1.4")))
    assert len(trained) == 3
    assert trained[1] == trained[2] != trained[0]
    with context_in(tmp_path / "other", **options) as context:
        same, other, _ = carried(context, plan_of(("1.2", "1.4")))
    assert plan == other
    weights = [one.state_dict() for one in (model, same)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_run_killed_in_a_short_training_repeats_neither_the_race_of_rates_nor_the_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raced, trained = list[str](), list[str]()
    race = training.first_rate

    def first_rate(*words: Any) -> Any:
        raced.append("race")
        return race(*words)

    monkeypatch.setattr("mpo.pipeline.optimize.opening.first_rate", first_rate)
    monkeypatch.setattr("mpo.pipeline.optimize.opening.tried", dying(trained))
    plan = plan_of(("1.2",), ("1.4",))
    with context_in(tmp_path / "run") as context, pytest.raises(KeyboardInterrupt):
        carried(context, plan)
    with context_in(tmp_path / "run") as context:
        carried(context, plan)
    assert raced == ["race"]
    assert trained == ["1.2", "1.4", "1.4"]


class Counted:
    """A split that counts how often it is read to its end."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows, self.passes = rows, 0

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Any]:
        yield from self.rows
        self.passes += 1


def test_choosing_and_training_never_read_the_test_split(tmp_path: Path) -> None:
    test = Counted(tiny.split(3, 512))
    data = mpo.Data(train=tiny.split(1, 512), validation=tiny.split(2, 512), test=test)
    with context_in(tmp_path / "run", data=data, rounds=2) as context:
        carried(context, plan_of(("1.2", "1.4"), ("1.3", "1.5")))
    assert test.passes == 0


def test_a_whole_run_reads_the_test_split_twice_for_the_original_and_for_the_result(
    tmp_path: Path,
) -> None:
    """Once each; what else looks at it stops after the leading batches."""
    x, y = tiny.samples(3, 640)
    test = Counted(list(zip(x.split(16), y.split(16), strict=True)))
    data = mpo.Data(train=tiny.split(1, 512), validation=tiny.split(2, 512), test=test)
    report = mpo.optimize(
        mpo.Subject(MODEL, data, name="tiny"), "params=60%", output=tmp_path / "run",
        threads=1, effort="quick", epochs=1, max_drop="10%",
    )  # fmt: skip
    assert report.status == "met"
    assert test.passes == 2


def test_without_fine_tuning_nothing_is_trained_and_the_guard_judges_all_the_same(
    tmp_path: Path,
) -> None:
    with context_in(tmp_path / "run", finetune=False, max_drop="90%") as context:
        model, plan, story = carried(context, plan_of(("1.3", "1.4")))
        head = context.original.get_parameter("2.weight")
    assert story.epochs == 0
    assert torch.equal(model.get_parameter("2.weight"), head)
    assert chosen(plan).acceptance is not None
