import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mpo.errors import UsageError
from mpo.store import RunFolder, open_run, sha256, write_atomic


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
    folder = run.stage("one", {"k": 1}, writes("second", seen))
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
    run.stage("one", {"k": 1}, writes("second", seen))
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
    with pytest.raises(UsageError, match="exists"):
        open_run(tmp_path, "a = 1", overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "dear"


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
