"""HiGHS's stray lines stay off standard output; nobody else's line is lost."""

from __future__ import annotations

import ctypes
import os
import threading

import pytest

from mpo.optimizer.planning.highs import Model, no_chatter

STRAY = b"HighsMipSolverData::transformNewIntegerFeasibleSolution tmpSolver.run();\n"


def test_lines_that_highs_prints_from_c_code_are_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    with no_chatter():
        ctypes.CDLL(None).printf(STRAY)
    ctypes.CDLL(None).fflush(None)
    assert capfd.readouterr().out == ""


def test_what_others_print_meanwhile_comes_out(capfd: pytest.CaptureFixture[str]) -> None:
    with no_chatter():
        ctypes.CDLL(None).printf(STRAY)
        os.write(1, b"half done\n")
    assert capfd.readouterr().out == "half done\n"


def test_standard_output_is_back_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="inside"), no_chatter():
        raise ValueError("inside")
    os.write(1, b"after\n")
    assert capfd.readouterr().out == "after\n"


def test_two_threads_that_solve_leave_standard_output_open(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def work() -> None:
        for _ in range(20):
            with no_chatter():
                os.write(1, b"x\n")

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(1, b"end\n")
    assert capfd.readouterr().out == "x\n" * 60 + "end\n"


def test_a_model_without_columns_is_feasible_when_its_rows_ask_nothing() -> None:
    model = Model()
    model.require({}, -1.0)
    assert model.solve() == []
    model.require({}, 1.0)
    assert model.solve() is None
