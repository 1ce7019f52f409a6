"""Several processes on one run: the same figures as one, the same end, and no hang."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mpo.errors import UsageError
from mpo.launching import command_again
from mpo.optimizer.ground.distributed import ALONE
from mpo.pipeline.optimize.crew import joined

pytest.importorskip("accelerate", reason="accelerate is not installed")
ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "subjects" / "tiny.py"


def start(size: int, *command: str) -> list[subprocess.Popen[str]]:
    """Processes with the environment that torchrun gives them, each to be asked for its own end."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    common = {**os.environ, **place, "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    common["PYTHONPATH"] = os.pathsep.join([*filter(None, [common.get("PYTHONPATH")]), str(ROOT)])
    return [
        subprocess.Popen(
            [sys.executable, *command],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def ended(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each."""
    try:
        texts = [process.communicate(timeout=400) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [(p.returncode, *text) for p, text in zip(processes, texts, strict=True)]


def worked(size: int, folder: Path, fault: str = "none") -> list[tuple[int, str, str]]:
    return ended(start(size, "-m", "tests.pipeline.crewwork", str(folder), fault))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process found, and what each of two, and of three found."""
    folder = tmp_path_factory.mktemp("crew")
    for size in (1, 2, 3):
        for code, _, errors in worked(size, folder):
            assert code == 0, errors
    return {path.stem: json.loads(path.read_text()) for path in folder.iterdir()}


CREWS = ["0of2", "1of2", "0of3", "1of3", "2of3"]


@pytest.mark.parametrize("name", CREWS)
def test_similarity_and_harm_of_several_processes_equal_those_of_one(
    name: str, found: dict[str, Any]
) -> None:
    alone, shared = found["0of1"], found[name]
    assert shared["samples"] == alone["samples"] == 120
    np.testing.assert_allclose(shared["matrix"], alone["matrix"], atol=1e-6)
    np.testing.assert_allclose(shared["harm"], alone["harm"], rtol=1e-6, atol=1e-9)
    assert shared["null_95"] == pytest.approx(alone["null_95"], abs=1e-6)
    assert shared["branch_ratio"] == pytest.approx(alone["branch_ratio"], rel=1e-6)


@pytest.mark.parametrize("name", CREWS)
def test_training_at_an_equal_global_batch_gives_the_weights_of_one_process(
    name: str, found: dict[str, Any]
) -> None:
    alone, shared = found["0of1"], found[name]
    assert shared["after"] == pytest.approx(alone["after"], rel=1e-3)
    assert shared["after"] < 0.98 * shared["before"]  # it did learn
    for key, value in alone["weights"].items():
        np.testing.assert_allclose(shared["weights"][key], value, rtol=2e-3, atol=2e-4, err_msg=key)
    assert shared["weights"] == found[f"0{name[1:]}"]["weights"]  # bit for bit among themselves


@pytest.mark.parametrize(("fault", "said"), [("kill", "is gone"), ("raise", "of one process only")])
def test_when_a_process_dies_the_others_end_with_a_sentence_and_do_not_hang(
    fault: str, said: str, tmp_path: Path
) -> None:
    first, _ = worked(2, tmp_path, fault)
    assert first[0] == 1
    assert said in first[2]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_runs_with_one_story_and_ends_alike_in_all_processes(tmp_path: Path) -> None:
    options = ("-b", "params=2%", "--threads", "1", "--effort", "quick", "--calibration", "128")
    command = ("-m", "mpo", "optimize", str(TINY), *options, "-o", str(tmp_path / "run"))
    first, second = ended(start(2, *command))
    assert (first[0], second[0]) == (3, 3), first[2] + second[2]
    assert "cannot be met" in first[2]
    assert second[1:] == ("", "")
    assert (tmp_path / "run" / "stages" / "analysis" / "analysis.json").is_file()


def test_without_a_launcher_nobody_asks_for_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with joined() as crew:
        assert crew is ALONE
    values = torch.ones(2)
    assert ALONE.sum(values) is values
    assert ALONE.collect("x") == ["x"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UsageError, match="accelerate") as caught, joined():
        pass
    assert "mpo-optimizer[distributed]" in caught.value.hint


def test_the_command_that_goes_on_names_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    assert command_again(["optimize", "my m.py"]) == "mpo optimize 'my m.py'"
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert command_again(["optimize"]) == "torchrun --nproc_per_node 2 -m mpo optimize"
    monkeypatch.setenv("WORLD_SIZE", "4")  # on two machines
    assert command_again(["optimize"]) == "the same launcher, -m mpo optimize"
