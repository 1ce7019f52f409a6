import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mpo.errors import MpoError, UsageError
from mpo.files import sha256, write_atomic
from mpo.runfolder import RunFolder
from mpo.stages import DamageWarning
from mpo.store import open_run, started_in
from tests.faults import disks


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
    with open_run(run.path, "a = 1") as again, pytest.warns(DamageWarning, match="is damaged"):
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
    with open_run(tmp_path / "run", "a = 2", overwrite=True) as new:
        new.settle()
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "run" / "report.json").exists()


def test_the_same_command_goes_on_with_a_first_run_that_says_overwrite(tmp_path: Path) -> None:
    seen: list[str] = []
    for _ in range(3):  # killed twice: never settled
        with open_run(tmp_path / "run", "a = 1", overwrite=True) as run:
            run.stage("one", {}, writes("text", seen))
    assert seen == ["text"]
    with open_run(tmp_path / "run", "a = 1", overwrite=True) as run:
        run.settle()
    with open_run(tmp_path / "run", "a = 1", overwrite=True) as run:  # settled: now it is older
        run.stage("one", {}, writes("new", seen))
    assert seen == ["text", "new"]


def test_overwrite_starts_afresh_over_an_unfinished_run_that_did_not_ask_for_it(
    tmp_path: Path,
) -> None:
    seen: list[str] = []
    for overwrite in (True, False, True):
        with open_run(tmp_path / "run", "a = 1", overwrite=overwrite) as run:
            run.stage("one", {}, writes("text", seen))
    assert seen == ["text", "text"]


def test_a_run_killed_while_it_takes_the_older_ones_place_is_not_made_again(
    tmp_path: Path,
) -> None:
    seen: list[str] = []
    open_run(tmp_path / "run", "a = 1").close()
    for settles in (True, False):
        with open_run(tmp_path / "run", "a = 2", overwrite=True) as run:
            run.stage("one", {}, writes("text", seen))
            if settles:  # decided, and then killed at once
                with disks.on(disks.Stopping(5)), contextlib.suppress(disks.Stopped):
                    run.settle()
                assert (tmp_path / "run" / ".new" / ".ready").is_file()
    assert seen == ["text"]


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
        with pytest.warns(DamageWarning, match=r"kept as \.one\.damaged"):
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
    owner = rf"Another mpo works.*process {os.getpid()} since 20"
    with open_run(tmp_path / "run", "a = 1"), pytest.raises(MpoError, match=owner):
        open_run(tmp_path / "run", "a = 1")


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


def test_a_part_survives_what_ends_its_stage_and_goes_when_the_stage_is_finished(
    run: RunFolder,
) -> None:
    seen: list[str] = []

    def fails(folder: Path) -> None:
        run.part("one", {"n": 1}, writes("first", seen))
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        run.stage("long", {"k": 1}, fails)
    run.close()

    with open_run(run.path, "a = 1") as again:

        def goes_on(folder: Path) -> None:
            assert again.parts() == ["one"]
            part = again.part("one", {"n": 1}, writes("second", seen))
            again.part("two", {"n": 1}, writes("third", seen))
            (folder / "result.txt").write_text((part / "result.txt").read_text())

        folder = again.stage("long", {"k": 1}, goes_on)
    assert seen == ["first", "third"]
    assert (folder / "result.txt").read_text() == "first"
    assert [entry.name for entry in (run.path / "stages").iterdir()] == ["long"]


def test_a_part_of_another_key_of_it_or_of_its_stage_is_made_again(run: RunFolder) -> None:
    seen: list[str] = []

    def part_of(key: int) -> Callable[[Path], None]:
        def fails(folder: Path) -> None:
            run.part("one", {"n": key}, writes(str(key), seen))
            raise RuntimeError

        return fails

    for stage, key in ((1, 1), (1, 2), (2, 2), (2, 2)):
        with pytest.raises(RuntimeError):
            run.stage("long", {"k": stage}, part_of(key))
    assert seen == ["1", "2", "2"]


def test_a_part_can_be_dropped_and_a_damaged_one_is_not_counted(run: RunFolder) -> None:
    def make(folder: Path) -> None:
        for name in ("a-1", "a-2", "b-1"):
            run.part(name, {}, writes(name, []))
        assert run.parts("a-") == ["a-1", "a-2"]
        run.drop_part("a-1")
        run.drop_part("a-9")
        assert run.parts() == ["a-2", "b-1"]
        (run.path / "stages/.long.parts/a-2/result.txt").write_text("flipped")
        assert run.parts() == ["b-1"]

    run.stage("long", {}, make)


def test_a_part_outside_of_a_stage_is_a_fault(run: RunFolder) -> None:
    with pytest.raises(RuntimeError, match="outside of any stage"):
        run.part("one", {}, writes("x", []))
