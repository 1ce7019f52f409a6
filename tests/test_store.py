import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mpo.errors import UsageError
from mpo.store import RunFolder, open_run, sha256, started_in, write_atomic


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    with open_run(tmp_path / "run", "a = 1") as folder:
        yield folder


def writes(text: str, seen: list[str]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        seen.append(text)
        (folder / "result.txt").write_text(text)

    return make


def test_a_finished_stage_is_not_made_again(run: RunFolder) -> None:
    seen: list[str] = []
    run.stage("one", {"k": 1}, writes("first", seen))
    run.close()
    with open_run(run.path, "a = 1") as again:
        folder = again.stage("one", {"k": 1}, writes("second", seen))
    assert seen == ["first"]
    assert (folder / "result.txt").read_text() == "first"


def test_a_stage_with_another_key_is_made_again(run: RunFolder) -> None:
    seen: list[str] = []
    run.stage("one", {"k": 1}, writes("first", seen))
    folder = run.stage("one", {"k": 2}, writes("second", seen))
    assert (folder / "result.txt").read_text() == "second"


def test_a_damaged_stage_is_made_again(run: RunFolder) -> None:
    seen: list[str] = []
    folder = run.stage("one", {"k": 1}, writes("first", seen))
    (folder / "result.txt").write_text("flipped")
    run.close()
    with open_run(run.path, "a = 1") as again:
        again.stage("one", {"k": 1}, writes("second", seen))
    assert seen == ["first", "second"]


def test_a_stage_that_fails_leaves_nothing(run: RunFolder) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError):
        run.stage("one", {}, fail)
    assert list((run.path / "stages").iterdir()) == []


def test_every_file_of_a_stage_is_hashed_in_its_manifest(run: RunFolder) -> None:
    folder = run.stage("one", {}, writes("text", []))
    manifest = json.loads((folder / "stage.json").read_text())
    assert manifest["files"] == {"result.txt": sha256(folder / "result.txt")}


def test_the_same_recipe_reopens_and_another_is_refused(tmp_path: Path) -> None:
    open_run(tmp_path / "run", "a = 1").close()
    open_run(tmp_path / "run", "a = 1").close()
    with pytest.raises(UsageError, match="exists and holds something else"):
        open_run(tmp_path / "run", "a = 2")
    open_run(tmp_path / "run", "a = 2", overwrite=True).close()


def test_overwrite_never_empties_a_folder_that_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("dear")
    (tmp_path / "recipe.toml").write_text("a = 1")
    with pytest.raises(UsageError, match="exists"):
        open_run(tmp_path, "a = 1", overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "dear"
    assert (tmp_path / "recipe.toml").read_text() == "a = 1"


def test_overwrite_deletes_only_what_mpo_writes(tmp_path: Path) -> None:
    open_run(tmp_path / "run", "a = 1").close()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    (tmp_path / "run" / "report.json").write_text("old")
    open_run(tmp_path / "run", "a = 2", overwrite=True).close()
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "run" / "report.json").exists()


def test_a_folder_of_a_writer_killed_at_once_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").write_text("")
    open_run(tmp_path / "run", "a = 1").close()


def test_a_stage_is_made_again_when_an_earlier_one_was(run: RunFolder, tmp_path: Path) -> None:
    seen: list[str] = []
    run.stage("one", {"k": 1}, writes("first", seen))
    run.stage("two", {"k": 1}, writes("second", seen))
    run.close()
    (tmp_path / "run" / "stages" / "one" / "result.txt").write_text("damaged")
    with open_run(tmp_path / "run", "a = 1") as again:
        again.stage("one", {"k": 1}, writes("other", seen))
        again.stage("two", {"k": 1}, writes("fourth", seen))
    assert seen == ["first", "second", "other", "fourth"]


def test_results_of_older_stages_go_when_a_stage_is_made_again(run: RunFolder) -> None:
    run.stage("one", {"k": 1}, writes("first", []))
    run.write("report.json", "{}")
    run.close()
    with open_run(run.path, "a = 1") as again:
        again.write("plan.json", "{}")
        again.stage("one", {"k": 2}, writes("second", []))
    assert not (run.path / "report.json").exists()
    assert (run.path / "plan.json").exists()


def test_a_run_knows_where_it_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    open_run(Path("runs/x"), "a = 1").close()
    monkeypatch.chdir(tmp_path)
    assert started_in(Path("project/runs/x")) == (tmp_path / "project").resolve()


def test_two_writers_of_one_folder_are_refused(tmp_path: Path) -> None:
    first = open_run(tmp_path / "run", "a = 1")
    with pytest.raises(UsageError, match="Another mpo works"):
        open_run(tmp_path / "run", "a = 1")
    first.close()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        open_run(tmp_path / "run", "")


def test_a_place_that_cannot_be_written_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="Cannot write"):
        open_run(Path("/proc/mpo-run"), "")


def test_an_atomic_write_leaves_one_whole_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", "one")
    write_atomic(tmp_path / "a", "two")
    assert (tmp_path / "a").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
