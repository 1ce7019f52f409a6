"""Where a run is written: places that are full, forbidden, taken, or strangely named."""

from __future__ import annotations

import ast
import errno
import fcntl
import os
import time
from pathlib import Path

import pytest

import mpo
from mpo import files
from mpo.api.runs import run_recipe
from mpo.errors import MpoError, UsageError
from mpo.files import Disk
from mpo.recipe import make_recipe
from mpo.runfolder import RunFolder
from mpo.stages import DamageWarning
from mpo.store import open_run, require_place
from tests.faults import disks, story

TINY = Path(__file__).parents[1] / "subjects" / "tiny.py"
# Records carry a date for people; nothing is ordered by it or timed with it.
DATED = {
    "src/mpo/locks.py": "since when a folder is taken",
    "src/mpo/cli/bench.py": "the date in a history's line",
    "src/mpo/pipeline/bench/benching.py": "the date of a comparison",
    "src/mpo/pipeline/contract/comparing.py": "the date of a contract",
    "src/mpo/pipeline/profiling.py": "the date of a profile",
    "profiles/saved.py": "how old a profile is: a warning after months",
    "profiles/bootstrap.py": "how old another agent's folder is: deleted after a day",
    "src/mpo/bundle/mpo_edge.py": "how old a failed build is: tried again after a day",
}


class Small(Disk):
    """A disk with little room."""

    def free(self, path: Path) -> int:
        return 1000


@pytest.fixture
def canary(tmp_path: Path) -> tuple[Path, Path]:
    """A subject file, and the file that it writes when somebody loads it."""
    told = tmp_path / "loaded"
    subject = tmp_path / "subject.py"
    subject.write_text(f"import pathlib\npathlib.Path({str(told)!r}).touch()\n{TINY.read_text()}")
    return subject, told


def filled(folder: Path) -> None:
    """What makes a stage."""
    (folder / "x").write_text("x")


@pytest.mark.case(12)
def test_too_little_room_is_refused_with_the_numbers_before_any_work(tmp_path: Path) -> None:
    recipe = make_recipe(subject=str(TINY), budget=("params=70%",))
    told = r"needs at least \d{7} bytes in .*, where 1000 are free"
    with disks.on(Small()), pytest.raises(UsageError, match=told) as caught:
        run_recipe(recipe, tmp_path / "run")
    assert "-o FOLDER" in caught.value.hint
    assert not (tmp_path / "run" / "stages").exists()


@pytest.mark.case(13)
@pytest.mark.parametrize("place", ["/proc/mpo", "file/run", "a" * 300])
def test_a_place_that_cannot_be_written_is_told_before_the_model_is_loaded(
    place: str, canary: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    recipe = make_recipe(subject=str(canary[0]), budget=("params=70%",))
    before = time.monotonic()
    with pytest.raises(UsageError, match=r"Cannot write to|is a file"):
        run_recipe(recipe, tmp_path / place)
    assert time.monotonic() - before < 1
    assert not canary[1].exists()


@pytest.mark.case(13)
@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_without_permission_is_told_before_the_model_is_loaded(
    number: int, canary: tuple[Path, Path], tmp_path: Path
) -> None:
    recipe = make_recipe(subject=str(canary[0]), budget=("params=70%",))
    told = pytest.raises(UsageError, match=os.strerror(number))
    with disks.on(disks.Failing(1, number)), told:  # root may write what others may not
        run_recipe(recipe, tmp_path / "run")
    assert not canary[1].exists()


@pytest.mark.case(14)
def test_what_is_there_already_is_left_alone_without_overwrite(
    canary: tuple[Path, Path], tmp_path: Path
) -> None:
    story.tell(tmp_path / "run")
    before = story.snapshot(tmp_path / "run")
    recipe = make_recipe(subject=str(canary[0]), budget=("params=70%",))
    with pytest.raises(UsageError, match="exists and holds something else") as caught:
        run_recipe(recipe, tmp_path / "run")
    assert "--overwrite" in caught.value.hint
    assert story.snapshot(tmp_path / "run") == before
    assert not canary[1].exists()


def test_a_probe_that_a_killed_run_left_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "run" / ".mpo-probe").mkdir(parents=True)
    require_place(tmp_path / "run", "a = 1")
    open_run(tmp_path / "run", "a = 1").close()
    assert not (tmp_path / "run" / ".mpo-probe").exists()


@pytest.mark.case(14)
def test_a_new_run_that_is_not_whole_does_not_replace_the_old_one(tmp_path: Path) -> None:
    story.tell(tmp_path / "run", story.OLD)
    before = story.snapshot(tmp_path / "run")
    with open_run(tmp_path / "run", story.RECIPE, overwrite=True) as run:
        folder = run.stage("first", 1, filled)
        (folder / "x").write_text("y")
        with pytest.raises(MpoError, match="not whole; the older run stays"):
            run.settle()
    here = story.snapshot(tmp_path / "run")
    assert {name: here[name] for name in before} == before


@pytest.mark.case(16)
def test_a_stage_of_a_later_version_is_ignored_and_kept(tmp_path: Path) -> None:
    story.tell(tmp_path / "run")
    folder = tmp_path / "run" / "stages" / "first"
    manifest = (folder / "stage.json").read_text()
    later = manifest.replace("mpo.stage/1", "mpo.stage/2")
    for _ in range(2):
        (folder / "stage.json").write_text(later)
        with pytest.warns(DamageWarning, match="was written by a later mpo: it is kept as"):
            story.tell(tmp_path / "run")
    stages = tmp_path / "run" / "stages"
    for name in (".first.newer", ".first.newer-2"):
        assert (stages / name / "stage.json").read_text() == later
    assert (stages / "first" / "stage.json").read_text() != later


class Raced(disks.Counting):
    """Another process makes every folder a moment earlier."""

    def mkdir(self, path: Path) -> None:
        path.mkdir()
        super().mkdir(path)


@pytest.mark.case(17)
def test_two_first_runs_may_make_their_common_folder_at_the_same_moment(tmp_path: Path) -> None:
    with disks.on(Raced()):
        open_run(tmp_path / "runs" / "one", "a = 1").close()


@pytest.mark.case(17)
def test_two_runs_on_one_folder_and_two_on_two(tmp_path: Path) -> None:
    owner = rf"Another mpo works in .*run: process {os.getpid()} since \d{{4}}"
    with open_run(tmp_path / "run", "a = 1"):
        with pytest.raises(MpoError, match=owner) as caught:
            open_run(tmp_path / "run", "a = 1")
        assert caught.value.exit_code == 1
        story.tell(tmp_path / "other")
    assert story.events(tmp_path / "other")


@pytest.mark.case(19)
def test_nothing_is_timed_or_ordered_by_a_clock_that_jumps(
    root: Path, modules: tuple[Path, ...]
) -> None:
    wall = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "time.localtime"}
    found: dict[str, str] = {}
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in wall:
                found.setdefault(str(path.relative_to(root)), ast.unparse(node.func))
    assert found.keys() == DATED.keys()


@pytest.mark.case(19)
def test_events_are_numbered_through_restarts_and_a_torn_line(tmp_path: Path) -> None:
    story.tell(tmp_path / "run")
    with (tmp_path / "run" / "journal.jsonl").open("a") as file:
        file.write('{"n": 99, "event": "half a li')
    story.tell(tmp_path / "run")
    numbers = [event["n"] for event in story.events(tmp_path / "run")]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 5


@pytest.mark.case(20)
@pytest.mark.parametrize("name", ["two words", "-o", "прогон-日本", "b" * 255, "a'b\"c;$d", "[x]*"])
def test_a_run_folder_of_any_name_works(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    story.tell(Path(name))
    before = story.snapshot(Path(name))
    story.tell(Path(name))
    assert story.snapshot(Path(name)) == before


@pytest.mark.case(20)
def test_a_link_to_a_run_folder_is_the_run_folder(tmp_path: Path) -> None:
    story.tell(tmp_path / "run")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    story.tell(tmp_path / "link")
    with (
        open_run(tmp_path / "link", story.RECIPE),
        pytest.raises(MpoError, match="Another mpo works"),
    ):
        open_run(tmp_path / "run", story.RECIPE)


@pytest.mark.case(20)
def test_a_place_without_locks_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*given: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(UsageError, match="cannot be locked: No locks available") as caught:
        open_run(tmp_path / "run", "a = 1")
    assert "local disk" in caught.value.hint


@pytest.mark.case(24)
def test_a_stage_depends_on_the_code_that_makes_it_and_not_on_the_version(tmp_path: Path) -> None:
    from mpo.pipeline.run.fingerprints import digest_of

    for folder in ("pipeline", "cli"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "module.py").write_text("a = 1\n")
    (tmp_path / "__init__.py").write_text('__version__ = "1.0"\n')
    before = digest_of(tmp_path)
    (tmp_path / "__init__.py").write_text('__version__ = "1.1"\n')
    (tmp_path / "cli" / "module.py").write_text("a = 2\n")
    assert digest_of(tmp_path) == before
    (tmp_path / "pipeline" / "module.py").write_text("a = 2\n")
    assert digest_of(tmp_path) != before
    assert mpo.__version__ not in before


@pytest.mark.case(11)
def test_a_library_that_meets_a_full_disk_in_a_stage_is_understood(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    with (
        open_run(tmp_path / "run", "a = 1") as run,
        pytest.raises(MpoError, match=r"No space left to write .*run: \d+ are free"),
    ):
        run.stage("one", 1, full)
    assert isinstance(run, RunFolder)
    assert files.free_bytes(tmp_path) > 0
