"""What must hold of run folders whatever the disk does. Each check is a function, so that a changed
copy of the code can be put under it too: `python checks.py NAME FOLDER` (see test_mutations.py)."""

from __future__ import annotations

import errno
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from mpo.errors import MpoError, UsageError
from mpo.stages import DamageWarning
from tests.faults import disks, story

MOST = 1000  # operations of one run; more means that a loop never ends
EXITS = {errno.ENOSPC: 1, errno.EIO: 1, errno.EROFS: 2}


def clean(path: Path) -> dict[str, str]:
    """What an undisturbed run leaves."""
    with disks.on(disks.Counting()):
        story.tell(path)
    return story.snapshot(path)


def every_failure(folder: Path, number: int) -> int:
    """The n-th operation fails, for every n: the right error, and the same command then ends with
    the same bytes. Returns how many operations a run has."""
    wanted = clean(folder / "clean")
    for n in range(1, MOST):
        run = folder / str(n)
        with disks.on(disks.Failing(n, number)) as disk:
            error = _error_of(run)
        if error is not None:
            assert error.exit_code == EXITS[number], f"{n}: {error}"
            assert isinstance(error, UsageError) == (EXITS[number] == 2)
            assert str(run) in str(error), f"{n}: {error}"
        resumed(run, wanted, f"{number} at {n}: {disk.log[-1]}")
        if disk.count < n:
            return disk.count
    raise AssertionError("the run never ends")


def every_full_disk(folder: Path) -> None:
    """The disk is full from the n-th operation on, for every n."""
    wanted = clean(folder / "clean")
    for n in range(1, MOST):
        run = folder / str(n)
        with disks.on(disks.Full(n)):
            error = _error_of(run)
        if error is not None:
            assert type(error) is MpoError, f"{n}: {error!r}"
            assert "No space left to write" in error.message
            assert "512 are free" in error.message
        resumed(run, wanted, f"full from {n}")
        if error is None:
            return
    raise AssertionError("the run never ends")


def every_stop(folder: Path, when: disks.When) -> None:
    """The process ends before or after the n-th operation, for every n."""
    wanted = clean(folder / "clean")
    for n, run in _stops(folder, lambda n: disks.Stopping(n, when)):
        resumed(run, wanted, f"stopped {when} {n}")


def every_stop_of_overwriting(folder: Path) -> None:
    """The process ends before the n-th operation of a run that replaces another: until the new one
    is whole, the old one is there to the last byte; then the same command gives the new one."""
    wanted = clean(folder / "clean")
    for n in range(1, MOST):
        run = folder / str(n)
        with disks.on(disks.Counting()):
            story.tell(run, story.OLD)
        (run / "notes.txt").write_text("the user's own")
        old = story.snapshot(run)
        try:
            with disks.on(disks.Stopping(n)):
                story.tell(run, overwrite=True)
        except disks.Stopped:
            here = story.snapshot(run)
            decided = (run / ".new" / ".ready").is_file()
            kept = {name: here.get(name) for name in old}
            done = here.get("recipe.toml") == story.RECIPE
            assert decided or done or kept == old, f"{n}: the old run is touched too early"
            resumed(run, wanted | {"notes.txt": "the user's own"}, f"{n}", overwrite=not decided)
        else:
            return
    raise AssertionError("the run never ends")


def every_power_loss(folder: Path) -> None:
    """The power goes at the n-th operation, for every n, and what was not synced is lost: nothing
    that is said to be finished is damaged, and what a finished run wrote is there."""
    wanted = clean(folder / "clean")
    for n in range(1, MOST):
        run, ended = folder / str(n), True
        disk = disks.Forgetful(n)
        try:
            with disks.on(disk):
                story.tell(run)
        except disks.Stopped:
            ended = False
        disk.lose_power(run)
        if ended:
            assert story.snapshot(run) == wanted, "a finished run was lost with the power"
            return
        resumed(run, wanted, f"power lost at {n}: {disk.log[-1]}")
    raise AssertionError("the run never ends")


def every_damage(folder: Path) -> None:
    """A file of a finished stage has a flipped bit, lost its end, is empty or gone: it is noticed,
    set aside, and made again."""
    for number, damage in enumerate(DAMAGES):
        for name in ("first/one.txt", "first/two.txt", "second/sum.txt", "second/stage.json"):
            run = folder / f"{number}-{name.replace('/', '-')}"
            wanted = clean(run)
            damage(run / "stages" / name)
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                story.tell(run)
            assert [one for one in told if one.category is DamageWarning], f"{number} {name}: quiet"
            here = story.snapshot(run)
            stage = name.split("/")[0]
            aside = {one for one in here if one.startswith(f"stages/.{stage}.damaged/")}
            assert aside, f"{number} {name}: not set aside"
            assert {k: v for k, v in here.items() if k not in aside} == wanted


def resumed(run: Path, wanted: dict[str, str], what: str, *, overwrite: bool = False) -> None:
    """The same command ends with the same bytes, no leftovers, and no word of damage."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with disks.on(disks.Counting()):
            story.tell(run, overwrite=overwrite)
    assert story.snapshot(run) == wanted, what
    numbers = [event["n"] for event in story.events(run)]
    assert numbers == list(range(len(numbers))), what


def _error_of(run: Path) -> MpoError | None:
    try:
        story.tell(run)
    except MpoError as error:
        return error
    return None


def _stops(folder: Path, disk_of: Callable[[int], disks.Stopping]) -> Iterator[tuple[int, Path]]:
    for n in range(1, MOST):
        run = folder / str(n)
        try:
            with disks.on(disk_of(n)):
                story.tell(run)
        except disks.Stopped:
            yield n, run
        else:
            return
    raise AssertionError("the run never ends")


def _flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(bytes(raw))


def _cut(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _lose(path: Path) -> None:
    path.unlink()


DAMAGES: tuple[Callable[[Path], None], ...] = (_flip, _cut, _empty, _lose)
CHECKS: dict[str, Callable[[Path], object]] = {
    "failure": lambda folder: every_failure(folder, errno.ENOSPC),
    "stop": lambda folder: every_stop(folder, "before"),
    "overwriting": every_stop_of_overwriting,
    "power": every_power_loss,
    "damage": every_damage,
}

if __name__ == "__main__":
    CHECKS[sys.argv[1]](Path(sys.argv[2]))
