import copy

import pytest
import torch
from torch import Tensor, nn

import mpo
from mpo.errors import UsageError
from mpo.optimizer.data.batches import Batch
from mpo.optimizer.data.quality import evaluate, predictor
from mpo.optimizer.data.splits import Split
from mpo.optimizer.data.subject import Subject
from mpo.optimizer.data.tasks import cross_entropy
from mpo.optimizer.training.feed import endless
from mpo.optimizer.training.objective import Objective, distil, distillation, task_only
from mpo.optimizer.training.rates import choose_rate, helps
from mpo.optimizer.training.recover import Judge, Schedule, recover
from mpo.records import Quality, Recovery


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))


def separable(seed: int, count: int = 96) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=generator)
    return list(zip(x.split(16), x[:, :3].argmax(1).split(16), strict=True))


@pytest.fixture
def subject() -> Subject:
    data = mpo.Data(train=separable(0), validation=separable(1), test=separable(2))
    return Subject(model=network(), data=data)


def run(
    subject: Subject, model: nn.Module, epochs: int = 8, objective: Objective | None = None
) -> tuple[Recovery, Judge, list[tuple[str, int, int]]]:
    splits = subject.splits()

    def judge(candidate: nn.Module) -> Quality:
        return evaluate(
            predictor(candidate), subject, splits.validation, predictor(subject.build())
        )

    seen: list[tuple[str, int, int]] = []
    story = recover(
        model,
        objective or task_only(subject),
        splits.train,
        judge,
        judge(model),
        Schedule(5e-3, epochs),
        lambda *step: seen.append(step),
    )
    return story, judge, seen


def test_training_gains_and_the_best_weights_are_kept(subject: Subject) -> None:
    model = subject.build()
    story, judge, seen = run(subject, model)
    assert story.after > story.before
    assert judge(model).value == story.after == max(row["quality"] for row in story.history)
    assert seen[-1][1] <= seen[-1][2] == 8 * 6
    assert not model.training


def test_the_same_seed_trains_the_same_weights(subject: Subject) -> None:
    one, other = subject.build(), subject.build()
    run(subject, one)
    torch.rand(3)
    run(subject, other)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_training_that_harms_returns_the_weights_it_began_with(subject: Subject) -> None:
    model = subject.build()
    run(subject, model, epochs=10)
    before = copy.deepcopy(model.state_dict())
    unlearn = Objective(None, lambda outputs, targets: -cross_entropy(outputs, targets))
    story, _, _ = run(subject, model, epochs=2, objective=unlearn)
    assert story.best_epoch == 0
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_told_to_stop_it_ends_within_the_epoch_with_the_best_weights(subject: Subject) -> None:
    model, splits, asked = subject.build(), subject.splits(), []

    def judge(candidate: nn.Module) -> Quality:
        return evaluate(predictor(candidate), subject, splits.validation, predictor(candidate))

    def stop() -> bool:
        asked.append(1)
        return len(asked) >= 4

    seen: list[tuple[str, int, int]] = []
    story = recover(
        model,
        task_only(subject),
        splits.train,
        judge,
        judge(model),
        Schedule(5e-3, 8, stop=stop),
        lambda *step: seen.append(step),
    )
    assert len(seen) == 4
    assert "told to stop in epoch 1" in story.note
    assert judge(model).value == story.after >= story.before


def test_no_epochs_change_nothing(subject: Subject) -> None:
    model = subject.build()
    story, _, _ = run(subject, model, epochs=0)
    assert (story.epochs, story.after) == (0, story.before)


def test_the_learning_rate_race_leaves_the_weights_alone(subject: Subject) -> None:
    model, splits = subject.build(), subject.splits()
    before = copy.deepcopy(model.state_dict())
    rate = choose_rate(model, task_only(subject), splits.train, splits.validation, 0)
    assert rate == 2e-3
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_another_objective_helps_when_it_leaves_less_of_the_first_after_a_quarter_of_the_steps(
    subject: Subject,
) -> None:
    model, splits, asked = subject.build(), subject.splits(), list[bool]()
    before = copy.deepcopy(model.state_dict())

    def blind(outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy that teaches nothing."""
        asked.append(torch.is_grad_enabled())
        return cross_entropy(outputs.detach(), targets) + 0 * outputs.sum()

    data = (splits.train, splits.validation)
    deaf, task = Objective(None, blind), task_only(subject)
    assert helps(model, deaf, task, 2e-3, *data, 0, 20)
    assert not helps(model, task, deaf, 2e-3, *data, 0, 20)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    lengths = []
    for steps in (4, 16, 10_000):
        asked.clear()
        helps(model, deaf, task, 2e-3, [*splits.train] * 30, splits.validation, 0, steps)  # type: ignore[arg-type]
        lengths.append(sum(asked))
    assert lengths == [12, 12, 100]


def test_distillation_is_zero_for_the_teacher_itself_and_positive_beside_it() -> None:
    logits = torch.randn(8, 5)
    assert float(distillation(logits, logits, None)) == pytest.approx(0.0, abs=1e-6)
    assert float(distillation(-logits, logits, None)) > 0.1
    values = torch.randn(8, 1)
    assert float(distillation(values, values, None)) == 0.0
    assert float(distillation(values * 0 + values.mean(), values, None)) == pytest.approx(
        1, rel=0.2
    )


def test_distilling_needs_no_targets_and_never_trains_the_teacher(subject: Subject) -> None:
    teacher, student = subject.build(), network()
    objective = distil(subject, teacher)
    loss = objective(student, Batch((torch.randn(4, 4),), {}, None))
    torch.autograd.backward(loss)
    assert all(p.grad is None for p in teacher.parameters())
    assert any(p.grad is not None for p in student.parameters())


def test_batches_of_one_train_a_model_without_batchnorm_and_are_refused_with_it() -> None:
    singles = [(torch.randn(1, 4), torch.tensor([0])) for _ in range(3)]
    plain, normed = nn.Linear(4, 3), nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))
    assert next(endless(Split(singles, "train"), plain)).size == 1
    with pytest.raises(UsageError, match="holds one example"):
        next(endless(Split(singles, "train"), normed))


def test_a_frozen_model_is_trained_all_the_same(subject: Subject) -> None:
    model = subject.build().requires_grad_(False)
    story, _, _ = run(subject, model)
    assert story.after > story.before


def test_a_loss_that_raises_or_is_no_number_is_the_users_to_mend(subject: Subject) -> None:
    def broken(outputs: Tensor, targets: Tensor) -> Tensor:
        raise ValueError("shapes differ")

    batch = next(iter(subject.splits().train))
    with pytest.raises(UsageError, match="shapes differ"):
        Objective(None, broken)(subject.build(), batch)
    with pytest.raises(UsageError, match="returned float"):
        Objective(None, lambda outputs, targets: 1.0)(subject.build(), batch)  # type: ignore[arg-type, return-value]
