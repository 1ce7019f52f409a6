"""`mpo.bench` from Python: the same story as the command, its verdict in a record."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import mpo
from mpo.errors import UsageError

QUICK: dict[str, Any] = {"threads": 1, "seconds": 0.05, "processes": 3, "pairs": 8, "batch": 48}


def test_a_regression_is_a_verdict_and_no_exception(tiny: ModuleType, tmp_path: Path) -> None:
    old, new = tiny.chain(tmp_path / "old.onnx", 2), tiny.chain(tmp_path / "new.onnx", 6)
    told: list[str] = []
    found = mpo.bench(
        new, old, ["latency>3%", "size>0"],
        progress=lambda what, done, total: told.append(what), **QUICK,
    )  # fmt: skip
    assert (found.verdict, found.exit_code) == ("fail", 4)
    assert [one.verdict for one in found.comparisons[:2]] == ["fail", "fail"]
    assert {"local: memory", "local: alone", "local: in turn"} <= set(told)


def test_a_model_alone_is_measured_and_not_judged(tiny: ModuleType, tmp_path: Path) -> None:
    found = mpo.bench(str(tiny.chain(tmp_path / "m.onnx", 2)), **QUICK)
    assert (found.verdict, found.exit_code, found.baseline) == ("not-gated", 0, "none")


@pytest.mark.parametrize("wrong", [{"pairs": 7}, {"pairs": 41}, {"processes": 2}, {"seconds": 0}])
def test_an_effort_that_measures_nothing_is_refused(
    tiny: ModuleType, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match="measure nothing"):
        mpo.bench(tiny.chain(tmp_path / "m.onnx", 2), **wrong)


def test_measuring_a_file_needs_no_torch(tiny: ModuleType, tmp_path: Path) -> None:
    model = tiny.chain(tmp_path / "m.onnx", 2)
    code = (
        "import sys, mpo\n"
        f"mpo.bench({str(model)!r}, seconds=0.05, processes=3, threads=1, batch=1)\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "False"
