"""What every test stands on: one thread per process, and where the checkout and the package are."""

from __future__ import annotations

import functools
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.profiles import sshd

# Before torch is imported by any test: two noisy cores are several times faster this way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")


def _own_core() -> None:
    """Give each of several pytest workers one core: mpo takes all it may use, and threads of
    several processes that wait for one another on the same cores take ten times as long."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


_own_core()
# Traces and graphs are millions of objects that stay: by default they are looked through thousands
# of times, a tenth of an export's time.
gc.set_threshold(20_000, 50, 100)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests first, then whole runs, then the rest: the last file that a worker
    takes is a short one, and no worker waits long for another."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in long, item.path.parent.name != "pipeline"))


ROOT = Path(__file__).resolve().parents[1]
# Python never enters a linked folder twice here: the links are skipped, their targets are walked.
FOLDERS = ("src/mpo", "optimizer", "exporters", "profiles")


def _modules() -> Iterator[Path]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            linked = any(parent.is_symlink() for parent in path.parents)
            if not linked and "__pycache__" not in path.parts:
                yield path


@pytest.fixture(scope="session", autouse=True)
def _operators_read_once() -> Iterator[None]:
    """For each export torch reads the sources of its 500 ONNX operators again, 0.4 s: here once."""
    if "torch" not in sys.modules:
        yield
        return
    from torch.onnx._internal.exporter import _registration

    library: Any = vars(_registration)["onnxscript_apis"]
    with pytest.MonkeyPatch.context() as patch:
        once = functools.cache(library.get_torchlib_ops)
        patch.setattr(library, "get_torchlib_ops", once)
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def modules() -> tuple[Path, ...]:
    """Every module of the package, each once, by its real path."""
    return tuple(_modules())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[sshd.Server]:
    """A real sshd on the loopback, stopped at the end; where none can run, the test is skipped
    with the reason."""
    if reason := sshd.missing():
        pytest.skip(f"no ssh server for the test: {reason}")
    if not sys.platform.startswith("linux"):
        pytest.skip("the test looks at processes through Linux's /proc")
    folder = tmp_path / "sshd"
    folder.mkdir()
    running = sshd.Server(folder)
    yield running
    running.stop()
