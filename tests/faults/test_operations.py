"""Every file operation of a run folder fails, or is the last one, in turn."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.faults import checks
from tests.faults.disks import When


@pytest.mark.case(11)
@pytest.mark.parametrize("number", sorted(checks.EXITS), ids=lambda one: errno.errorcode[one])
def test_a_failure_of_any_operation_is_told_and_undone_by_the_same_command(
    number: int, tmp_path: Path
) -> None:
    assert checks.every_failure(tmp_path, number) > 60


@pytest.mark.case(11)
def test_a_disk_that_is_full_from_any_operation_on_leaves_nothing_corrupt(tmp_path: Path) -> None:
    checks.every_full_disk(tmp_path)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_that_ends_at_any_operation_is_gone_on_with(when: When, tmp_path: Path) -> None:
    checks.every_stop(tmp_path, when)


@pytest.mark.case(14)
def test_overwriting_keeps_the_old_run_until_the_new_one_is_whole(tmp_path: Path) -> None:
    checks.every_stop_of_overwriting(tmp_path)


def test_a_loss_of_power_at_any_operation_loses_nothing_that_was_finished(tmp_path: Path) -> None:
    checks.every_power_loss(tmp_path)


@pytest.mark.case(15)
def test_a_corrupt_stage_is_noticed_set_aside_and_made_again(tmp_path: Path) -> None:
    checks.every_damage(tmp_path)
