from pathlib import Path

import pytest

from mpo.errors import UsageError
from mpo.recipe import make_recipe, parse_budget, read_recipe, to_toml


def test_bare_bytes_bound_memory_and_file() -> None:
    memory, size = parse_budget("50MB")
    assert (memory.metric, memory.limit) == ("memory_bytes", 50e6)
    assert (size.metric, size.limit) == ("size_bytes", 50e6)


@pytest.mark.parametrize(
    ("text", "metric", "limit", "factor"),
    [
        ("12ms", "latency_p90_ms", 12.0, None),
        ("latency.p50=2s", "latency_p50_ms", 2000.0, None),
        ("50%", "size_bytes", None, 0.5),
        ("params=60%", "params", None, 0.6),
        ("params=500k", "params", 500_000.0, None),
        ("macs=0.5x", "macs", None, 0.5),
        ("memory = 3MiB", "memory_bytes", 3 * 2**20, None),
    ],
)
def test_budgets_read(text: str, metric: str, limit: float | None, factor: float | None) -> None:
    (budget,) = parse_budget(text)
    assert (budget.metric, budget.limit, budget.factor) == (metric, limit, factor)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("5", "no unit"),
        ("5XB", "unknown unit 'XB'"),
        ("latncy=5ms", "Did you mean 'latency'"),
        ("latency=5MB", "a size for latency"),
        ("params=5ms", "a time for params"),
        ("size=5", "a number without unit for size"),
        ("-5MB", "not a number"),
        ("0MB", "greater than zero"),
        ("", "not a number"),
    ],
)
@pytest.mark.case(61)
def test_bad_budgets_are_refused_with_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_budget(text)
    assert said in caught.value.message
    assert caught.value.hint


def test_a_relative_budget_is_a_share_of_the_original() -> None:
    (budget,) = parse_budget("params=60%")
    assert budget.resolve(1000.0) == 600.0


def test_a_recipe_survives_its_toml(tmp_path: Path) -> None:
    recipe = make_recipe(
        subject='odd "name"\\x\n.py',
        budget=("50MB", "params=60%"),
        threshold=0.97,
        allow_pickle=True,
    )
    path = tmp_path / "mpo.toml"
    path.write_text(to_toml(recipe), encoding="utf-8")
    assert make_recipe(**read_recipe(path)) == recipe


@pytest.mark.case(61)
def test_unknown_recipe_key_names_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "mpo.toml"
    path.write_text('bugdet = ["5MB"]\n')
    with pytest.raises(UsageError, match="Did you mean 'budget'"):
        read_recipe(path)


@pytest.mark.case(61)
def test_missing_and_broken_recipe_files_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Cannot read"):
        read_recipe(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("a = = 1")
    with pytest.raises(UsageError, match="no TOML"):
        read_recipe(broken)


@pytest.mark.parametrize(
    "values", [{"batch": 0}, {"epochs": -1}, {"threshold": 1.5}, {"method": "x"}, {"max_drop": "x"}]
)
@pytest.mark.case(61)
def test_values_out_of_range_are_usage_errors(values: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        make_recipe(subject="m.py", **values)


def test_the_keys_of_recovery_are_checked_and_survive_the_toml(tmp_path: Path) -> None:
    recipe = make_recipe(subject="x.py", finetune=False, rounds=3, time_limit="30m")
    path = tmp_path / "mpo.toml"
    path.write_text(to_toml(recipe), encoding="utf-8")
    assert make_recipe(**read_recipe(path)) == recipe
    assert recipe.seconds_allowed() == 1800
    assert make_recipe(subject="x.py").seconds_allowed() is None


@pytest.mark.parametrize(
    "values",
    [
        {"rounds": 0},
        {"time_limit": "30"},
        {"method": "mpruner-paper", "rounds": 2},
        {"method": "mpruner-paper", "finetune": False},
    ],
)
def test_what_recovery_cannot_do_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        make_recipe(subject="x.py", **values)
    assert caught.value.hint
