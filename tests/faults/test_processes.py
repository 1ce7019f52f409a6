"""Commands that are stopped, killed, or lose their reader: how they end, and what they leave."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import psutil
import pytest

from mpo.errors import MpoError
from mpo.guardian import guarded
from mpo.scratch import PREFIX, scratch
from mpo.store import open_run

# A command as every one is run: in a run folder, in the middle of a stage, told what to do there.
COMMAND = """
import os, subprocess, sys, time
from pathlib import Path
from mpo.cli.running import run
from mpo.guardian import guarded
from mpo.store import open_run

folder, marker, how = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

def stubborn():
    while True:
        try:
            if not marker.exists():  # in here: the signal comes as soon as it is seen
                marker.write_text("here")
            while True:
                time.sleep(0.05)
        except BaseException:
            pass

def child():
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    with guarded(process.pid):
        Path("child").write_text(str(process.pid))
        wait()

def wait():
    marker.write_text("here")
    time.sleep(600)

def worker():
    if not os.fork():
        try:
            Path("forked").write_text("here")
            time.sleep(600)
        finally:
            os._exit(0)
    while not Path("forked").exists():
        time.sleep(0.02)
    try:
        wait()
    finally:
        time.sleep(1)

def make(stage):
    (stage / "half").write_text("x")
    {"wait": wait, "stubborn": stubborn, "child": child, "worker": worker}[how]()

def work():
    with open_run(folder, "a = 1") as opened:
        opened.stage("first", 1, lambda stage: None)
        opened.stage("second", 1, make)
    return 0

run(work, verbose=False, as_json=False, resumable=True)
"""


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Path]:
    """A folder with scratch space of its own; whatever a test left running ends with it."""
    (tmp_path / "tmp").mkdir()
    yield tmp_path
    left = tmp_path / "child"
    if left.is_file() and psutil.pid_exists(int(left.read_text())):
        os.kill(int(left.read_text()), signal.SIGKILL)


def start(room: Path, how: str) -> subprocess.Popen[str]:
    """The command, once it is in the middle of its second stage."""
    marker = room / "marker"
    child = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "my run", str(marker), how],
        cwd=room, env={**os.environ, "TMPDIR": str(room / "tmp")},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    soon(marker.is_file)
    return child


def soon(happens: object, seconds: float = 60.0) -> None:
    """Wait until it does."""
    assert callable(happens)
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def is_clean(room: Path) -> None:
    """One finished stage, nothing half, no temporary files; and the folder can be used at once."""
    assert [one.name for one in (room / "my run" / "stages").iterdir()] == ["first"]
    assert not list((room / "tmp").iterdir())
    open_run(room / "my run", "a = 1").close()


@pytest.mark.case(9)
def test_ctrl_c_ends_with_130_and_the_command_that_goes_on(room: Path) -> None:
    child = start(room, "wait")
    child.send_signal(signal.SIGINT)
    _, told = child.communicate(timeout=60)
    assert child.returncode == 130
    assert told.startswith("interrupted; what is finished is kept; go on with: mpo 'my run' ")
    is_clean(room)


@pytest.mark.case(9)
def test_a_ctrl_c_that_reaches_forked_workers_too_is_one_ctrl_c(room: Path) -> None:
    child = start(room, "worker")
    os.killpg(child.pid, signal.SIGINT)  # as a terminal sends it: to all at once
    _, told = child.communicate(timeout=60)
    assert child.returncode == 130
    assert told.startswith("interrupted; what is finished is kept; go on with: mpo 'my run' ")
    is_clean(room)


@pytest.mark.case(9)
def test_a_second_ctrl_c_ends_at_once_whatever_runs(room: Path) -> None:
    child = start(room, "stubborn")
    child.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert child.poll() is None
    before = time.monotonic()
    child.send_signal(signal.SIGINT)
    _, told = child.communicate(timeout=60)
    assert child.returncode == 130
    assert time.monotonic() - before < 5
    assert "go on with: mpo 'my run'" in told
    open_run(room / "my run", "a = 1").close()


@pytest.mark.case(10)
@pytest.mark.parametrize("how", ["wait", "stubborn"])
def test_sigterm_ends_within_ten_seconds_with_143(how: str, room: Path) -> None:
    child = start(room, how)
    before = time.monotonic()
    child.send_signal(signal.SIGTERM)
    _, told = child.communicate(timeout=60)
    assert child.returncode == 143
    assert time.monotonic() - before < 10
    assert "go on with: mpo 'my run'" in told
    if how == "wait":
        is_clean(room)


@pytest.mark.case(18)
def test_a_killed_run_leaves_no_lock_no_child_and_nothing_that_the_next_one_keeps(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = start(room, "child")
    number = int((room / "child").read_text())
    with pytest.raises(MpoError, match=f"process {child.pid} since"):
        open_run(room / "my run", "a = 1")
    child.kill()
    child.communicate(timeout=60)
    soon(lambda: not _runs(number))
    assert [one.name[: len(PREFIX)] for one in (room / "tmp").iterdir()] == [PREFIX]
    monkeypatch.setattr(tempfile, "tempdir", str(room / "tmp"))
    with scratch() as mine:
        assert [one.name for one in (room / "tmp").iterdir()] == [mine.name]
    assert not (room / "tmp" / mine.name).exists()
    open_run(room / "my run", "a = 1").close()
    is_clean(room)


def test_a_child_is_let_go_of_when_its_work_is_done() -> None:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as child:
        with guarded(child.pid):
            pass
        assert child.poll() is None
        child.kill()


def test_scratch_of_a_living_command_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch() as first:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with scratch() as second:
            assert first.is_dir()
            assert second != first
            assert Path(tempfile.mkdtemp()).parent == second
        assert not second.exists()
    assert not list(tmp_path.iterdir())


def test_scratch_that_another_command_sweeps_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    lock = fcntl.flock
    swept: list[str] = []

    def late(file: IO[str], how: int) -> None:
        if not swept:
            swept.append(file.name)
            shutil.rmtree(Path(file.name).parent)
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with scratch() as folder:
        assert folder.is_dir()
        assert str(folder) not in swept[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.case(11)
def test_a_file_that_the_system_does_not_let_grow_is_told_with_the_numbers(room: Path) -> None:
    """A limit on the size of files stands for a disk of 32 KB: no root is needed for it."""
    script = f"""
import resource
from pathlib import Path
from mpo.cli.running import run
from mpo.store import open_run

def work():
    with open_run(Path("my run"), "a = 1") as opened:
        opened.stage("first", 1, lambda stage: None)
        opened.stage("big", 1, lambda stage: (stage / "x").write_bytes(bytes(64_000)))
        opened.write("plan.json", "done")
    return 0

limit = {32_000}
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
run(work, verbose=False, as_json=False)
"""
    line = [sys.executable, "-c", script]
    done = subprocess.run(line, cwd=room, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: No space left to write my run")
    assert "run the same command again" in done.stderr
    assert [one.name for one in (room / "my run" / "stages").iterdir()] == ["first"]
    line[-1] = script.replace("limit = 32000", "limit = 10**9")
    assert subprocess.run(line, cwd=room, capture_output=True, check=False).returncode == 0
    assert (room / "my run" / "plan.json").read_text() == "done"


@pytest.mark.case(11)
def test_a_full_scratch_disk_outside_of_any_stage_is_told_too(room: Path) -> None:
    script = """
from mpo.cli.running import run
def work():
    raise RuntimeError("[enforce fail] No space left on device")
run(work, verbose=False, as_json=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "TMPDIR": str(room / "tmp")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"No space left to write {room / 'tmp'}" in done.stderr
    assert '"exit_code": 1' in done.stdout


@pytest.mark.case(23)
def test_a_reader_that_goes_away_sees_no_traceback() -> None:
    script = """
import click
from mpo.cli.running import run
def work():
    for _ in range(100_000):
        click.echo("a line of a long table")
    return 0
run(work, verbose=False, as_json=False)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stderr is not None
    assert child.stdout.readline() == "a line of a long table\n"
    child.stdout.close()
    told = child.stderr.read()
    child.stderr.close()
    assert child.wait(60) == 141
    assert told == ""


@pytest.mark.case(23)
def test_a_plain_terminal_gets_plain_text() -> None:
    line = [sys.executable, "-c", "from mpo.cli import main; main()", "optimize", "--help"]
    plain = {**os.environ, "TERM": "dumb", "NO_COLOR": "1"}
    done = subprocess.run(line, capture_output=True, env=plain, check=True)
    assert b"\x1b" not in done.stdout + done.stderr


def _runs(number: int) -> bool:
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
