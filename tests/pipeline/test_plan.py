"""`mpo plan`: from a subject it measures once, from a run folder it answers from what is there."""

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import mpo
from mpo.cli import cli
from mpo.errors import InfeasibleError, UsageError
from mpo.files import sha256
from mpo.optimizer.planning.planner import keeps_clusters
from mpo.records import Analysis, CostTable, Plan

SUBJECT = Path(__file__).parents[1] / "subjects" / "tiny.py"


def run_plan(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["plan", *arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the first stages, as `mpo plan SUBJECT` leaves it."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    result = run_plan(
        str(SUBJECT),
        "-b",
        "params=70%",
        "-b",
        "size=90%",
        "--threads",
        "1",
        "--effort",
        "quick",
        "-o",
        str(folder),
    )
    assert result.exit_code == 0, result.output
    return folder


def planned(run: Path, *budgets: str) -> Plan:
    options = [word for text in budgets for word in ("-b", text)]
    result = run_plan(str(run), *options, "--json")
    assert result.exit_code == 0, result.output
    return Plan.model_validate_json(result.stdout)


def test_a_plan_from_a_subject_trains_nothing_and_leaves_the_stages_that_optimize_needs(
    run: Path,
) -> None:
    assert sorted(path.name for path in (run / "stages").iterdir()) == [
        "analysis",
        "costs",
        "original",
    ]
    assert not (run / "model.onnx").exists()


def test_another_budget_is_answered_without_the_model_and_writes_nothing(run: Path) -> None:
    plan = planned(run, "size=80%", "params=70%")
    assert plan.removed
    for budget in plan.budgets:
        assert budget.predicted + budget.margin <= budget.limit * 1.001
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    planned(run, "size=60%")
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}


def test_every_removed_block_has_a_reason_and_every_cost_a_front(run: Path) -> None:
    assert not planned(run, "params=70%").reasons
    plan = mpo.plan(run, "params=70%", explain=True)
    told = {reason.block: reason for reason in plan.reasons}
    assert set(plan.removed) <= told.keys()
    assert all(told[name].removed and name in told[name].text for name in plan.removed)
    assert {front.metric for front in plan.fronts} >= {"params", "size_bytes", "latency_p90_ms"}
    for front in plan.fronts:
        costs = [point.cost for point in front.points]
        harms = [point.harm for point in front.points]
        assert costs == sorted(costs, reverse=True)
        assert harms == sorted(harms)
    text = run_plan(str(run), "-b", "params=70%", "--explain").output
    assert all(told[name].text.split(":")[0].split(" ")[0] in text for name in plan.removed)


def test_of_alike_blocks_one_stays_while_the_budget_allows_it(run: Path) -> None:
    folder = run / "stages" / "analysis" / "analysis.json"
    analysis = Analysis.model_validate_json(folder.read_text())
    clusters = [cluster.members for cluster in analysis.clusters if len(cluster.members) > 1]
    assert keeps_clusters(clusters, planned(run, "params=70%").removed)


def test_the_cost_table_goes_through_the_measured_original(run: Path) -> None:
    table = CostTable.model_validate_json((run / "stages/costs/costs-0.json").read_text())
    figures = json.loads((run / "stages/original/figures.json").read_text())["figures"]
    whole = table.predict(())
    assert whole["params"] == pytest.approx(figures["params"])
    assert whole["size_bytes"] == pytest.approx(figures["size_bytes"], rel=0.01)
    assert whole["latency_p90_ms"] == pytest.approx(figures["latency_ms"]["p90"], rel=0.15)  # noise


def test_the_python_verb_gives_the_same_plan(run: Path) -> None:
    assert mpo.plan(run, "params=70%") == planned(run, "params=70%")


def test_a_budget_below_the_floor_says_what_is_left_and_what_would_do(run: Path) -> None:
    result = run_plan(str(run), "-b", "params=2%")
    assert result.exit_code == 3
    assert "cannot come under" in result.output
    assert "Closest plan" in result.output
    assert "would do" in result.output
    with pytest.raises(InfeasibleError) as caught:
        mpo.plan(run, "params=2%")
    assert caught.value.removed


def test_a_folder_without_tables_is_refused(tmp_path: Path, run: Path) -> None:
    (tmp_path / ".mpo-run").write_text("{}")
    (tmp_path / "recipe.toml").write_text((run / "recipe.toml").read_text())
    with pytest.raises(UsageError, match="no finished stage"):
        mpo.plan(tmp_path, "params=70%")


def test_a_damaged_stage_is_not_trusted(tmp_path: Path, run: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    table = copy / "stages" / "costs" / "costs-0.json"
    table.write_text(table.read_text().replace("1", "2", 1))
    with pytest.raises(UsageError, match="no finished stage 'costs'"):
        mpo.plan(copy, "params=70%")


def test_a_run_folder_takes_no_option_that_its_tables_have_settled(run: Path) -> None:
    result = run_plan(str(run), "-b", "params=70%", "--threads", "2")
    assert result.exit_code == 2
    assert "--threads" in result.output


def test_no_budget_is_a_usage_error(tmp_path: Path) -> None:
    result = run_plan(str(SUBJECT), "-o", str(tmp_path / "run"))
    assert result.exit_code == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.case(56)
def test_a_budget_that_the_original_holds_removes_nothing(run: Path) -> None:
    plan = planned(run, "params=100%", "latency=10s")
    assert plan.removed == ()
    assert "already" in plan.notes[0]


def test_a_memory_budget_needs_figures_that_were_taken_with_one(run: Path) -> None:
    result = run_plan(str(run), "-b", "memory=90%")
    assert result.exit_code == 2
    assert "without a memory budget" in result.output


def test_what_is_said_would_do_does(run: Path) -> None:
    result = run_plan(str(run), "-b", "params=2%")
    found = re.search(r"params <= (\S+ ?k?) would do", result.output)
    assert found is not None
    assert planned(run, f"params={found[1].replace(' ', '')}").removed


def test_stages_of_two_runs_are_not_mixed(tmp_path: Path, run: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    folder = copy / "stages" / "analysis"
    analysis = json.loads((folder / "analysis.json").read_text())
    analysis["harms"] = analysis["harms"][1:]
    (folder / "analysis.json").write_text(json.dumps(analysis))
    manifest = json.loads((folder / "stage.json").read_text())
    manifest["files"]["analysis.json"] = sha256(folder / "analysis.json")
    (folder / "stage.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="not of one run"):
        mpo.plan(copy, "params=70%")


def test_a_cost_that_the_table_does_not_know_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "counted"
    made = run_plan(str(SUBJECT), "-b", "params=70%", "--effort", "quick", "-o", str(folder))
    assert made.exit_code == 0, made.output
    result = run_plan(str(folder), "-b", "size=60%")
    assert result.exit_code == 2
    assert "knows nothing of size_bytes" in result.output


def test_a_table_of_this_machine_as_it_was_before_is_refused(tmp_path: Path, run: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    folder = copy / "stages" / "costs"
    table = json.loads((folder / "costs-0.json").read_text())
    table["fingerprint"] = "another"
    (folder / "costs-0.json").write_text(json.dumps(table))
    manifest = json.loads((folder / "stage.json").read_text())
    manifest["files"]["costs-0.json"] = sha256(folder / "costs-0.json")
    (folder / "stage.json").write_text(json.dumps(manifest))
    result = run_plan(str(copy), "-b", "params=70%")
    assert result.exit_code == 6
    assert "Measure again" in result.output


def test_another_wish_keeps_the_stages_that_measured_the_original(
    tmp_path: Path, run: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(run / "stages", other / "stages")
    (other / ".mpo-run").write_text("{}")
    wishes = ("-b", "params=60%", "-b", "size=85%")
    options = ("--threads", "1", "--effort", "quick", "-o", str(other))
    result = run_plan(str(SUBJECT), *wishes, *options)
    assert result.exit_code == 0, result.output
    events = [json.loads(line) for line in (other / "journal.jsonl").read_text().splitlines()]
    assert [(one["stage"], one["event"]) for one in events] == [
        (stage, "stage kept") for stage in ("original", "analysis", "costs")
    ]
