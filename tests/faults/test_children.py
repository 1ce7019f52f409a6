"""Child processes that crash, hang and run out of memory: outcomes, and nothing left behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mpo.errors import UsageError
from mpo.exporters.child import run_child, run_script
from mpo.recipe import read_recipe

FINE = "import json, os\nprint(json.dumps({'pid': os.getpid()}))\n"


@pytest.mark.case(27)
def test_a_child_that_the_system_kills_is_out_of_memory_with_its_peak(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(
        "import os, signal, time\nheld = bytearray(60_000_000)\nheld[::4096] = b'x' * 14649\n"
        "time.sleep(0.5)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended, _ = run_script(script, {}, timeout=30)
    assert ended.kind == "out-of-memory"
    assert "killed by the system" in ended.reason
    assert ended.peak_bytes > 50_000_000


@pytest.mark.case(29)
@pytest.mark.case(30)
def test_after_a_child_that_crashed_the_next_stage_has_a_fresh_process(tmp_path: Path) -> None:
    bad, good = tmp_path / "bad.py", tmp_path / "good.py"
    bad.write_text("import ctypes\nprint('about to', flush=True)\nctypes.string_at(0)\n")
    good.write_text(FINE)
    crashed, answer = run_script(bad, {}, timeout=30)
    assert (crashed.kind, answer) == ("crashed", {})
    assert "SIGSEGV" in crashed.reason
    assert "Current thread" in crashed.errors  # faulthandler says where
    pids = {run_script(good, {}, timeout=30)[1]["pid"] for _ in range(2)}
    assert len(pids) == 2
    assert os.getpid() not in pids


@pytest.mark.case(31)
def test_a_child_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    note = tmp_path / "grandchild"
    script = (
        "import pathlib, subprocess, sys, time\n"
        "inner = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(note)!r}).write_text(str(inner.pid))\n"
        "time.sleep(60)\n"
    )
    ended = run_child((sys.executable, "-c", script), timeout=2)
    assert ended.kind == "timed-out"
    grandchild = int(note.read_text())
    for _ in range(50):
        gone = not psutil.pid_exists(grandchild)
        if gone or psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the grandchild lives")


@pytest.mark.case(32)
def test_without_a_gpu_the_cpu_is_all_that_is_needed() -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", "from mpo.cli import main; main()", "doctor"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.case(61)
def test_a_key_given_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mpo.toml"
    path.write_text('subject = "a.py"\nepochs = 1\nepochs = 2\n')
    with pytest.raises(UsageError, match=r"mpo\.toml.*line 3") as caught:
        read_recipe(path)
    assert caught.value.exit_code == 2
