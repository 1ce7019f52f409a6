"""Measuring that is killed: what was measured whole is kept, what is damaged is measured again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mpo.pipeline.run.remembering import Remembering
from mpo.profiles.jobs import Job
from mpo.runfolder import RunFolder
from mpo.scratch import PREFIX, scratch
from mpo.stages import DamageWarning
from mpo.store import open_run
from tests.faults import checks
from tests.faults.disks import Stopped
from tests.pipeline import benchmodels


class Counted:
    """A device that answers each question with how many it has answered, until its battery ends."""

    name, device = "counted", "cpu"

    def __init__(self, most: int = 1000) -> None:
        self.count, self.most = 0, most

    def run(self, job: Job) -> dict[str, Any]:
        """The number of this answer."""
        if self.count == self.most:
            raise Stopped
        self.count += 1
        return {"answer": self.count, "of": dict(job.request)}

    def close(self) -> None:
        """Nothing to leave."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file that jobs read."""
    path = tmp_path / "model.onnx"
    path.write_text("a model")
    return path


def measured(run: RunFolder, target: Counted, model: Path, key: int = 1) -> list[Any]:
    """A stage of six jobs, the last two the same question again."""
    asked, found = Remembering(target, run), list[Any]()

    def make(folder: Path) -> None:
        for number in (0, 1, 2, 3, 3, 3):
            job = Job(f"asked {number}", model, {"n": number}, {"model.onnx": model})
            found.append(asked.run(job)["answer"])
        (folder / "costs.json").write_text(json.dumps(found))

    run.stage("costs", key, make)
    return found


@pytest.fixture
def killed(tmp_path: Path, model: Path) -> Iterator[RunFolder]:
    """A run that ended after four of six jobs."""
    with open_run(tmp_path / "run", "a = 1") as run:
        with pytest.raises(Stopped):
            measured(run, Counted(4), model)
        yield run


@pytest.mark.case(1)
def test_a_run_killed_while_it_measures_keeps_what_was_measured(
    killed: RunFolder, model: Path
) -> None:
    target = Counted()
    assert measured(killed, target, model) == [1, 2, 3, 4, 1, 2]
    assert target.count == 2
    assert [path.name for path in (killed.path / "stages").iterdir()] == ["costs"]


@pytest.mark.case(1)
@pytest.mark.parametrize("damage", checks.DAMAGES)
def test_a_measured_unit_that_is_not_whole_is_measured_again(
    damage: Callable[[Path], None], killed: RunFolder, model: Path
) -> None:
    parts = killed.path / "stages" / ".costs.parts"
    damage(sorted(parts.glob("job-*/answer.json"))[0])
    target = Counted()
    with pytest.warns(DamageWarning, match="is damaged"):
        measured(killed, target, model)
    assert target.count == 3


@pytest.mark.case(1)
def test_what_was_measured_of_something_else_is_not_taken(killed: RunFolder, model: Path) -> None:
    with pytest.raises(Stopped):
        measured(killed, Counted(4), model, key=2)
    model.write_text("another model")
    target = Counted()
    measured(killed, target, model, key=2)
    assert target.count == 6


@pytest.mark.case(7)
def test_a_comparison_that_is_killed_leaves_nothing_half_and_mixes_no_sessions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [benchmodels.chain(tmp_path / name, 4, 1) for name in ("new.onnx", "old.onnx")]
    (tmp_path / "tmp").mkdir()
    child = subprocess.Popen(
        [
            *(sys.executable, "-c", "from mpo.cli import main; main()", "bench", str(models[0])),
            *("--baseline", str(models[1]), "--threads", "1", "--json", "bench.json"),
        ],
        cwd=tmp_path, env={**os.environ, "TMPDIR": str(tmp_path / "tmp")}, stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    end = time.monotonic() + 120
    while not list((tmp_path / "tmp").glob(f"{PREFIX}*/*/inputs0.npz")):
        assert child.poll() is None, child.communicate()[1].decode()
        assert time.monotonic() < end, "it measures nothing"
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    with scratch():
        pass
    assert not list((tmp_path / "tmp").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.onnx", "old.onnx", "tmp"]
