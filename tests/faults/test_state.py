"""Whatever happens to a run folder, in whatever order: what it says is finished is whole and right,
and nothing that mpo did not write is touched."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mpo.errors import MpoError
from mpo.runfolder import RunFolder
from mpo.stages import DamageWarning, read_manifest
from mpo.store import open_run
from tests.faults import checks, disks

STAGES = ("one", "two")
KEYS = st.integers(0, 2)


class Runs(RuleBasedStateMachine):
    """A folder that runs of two stages share, one after the other."""

    @initialize()
    def start(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="mpo-state-"))
        self.run = self.home / "run"
        self.recipe = "a = 0\n"
        self.foreign = {"notes.txt": "mine", "deep/data.bin": "theirs"}
        with disks.on(disks.Counting()):
            open_run(self.run, self.recipe).close()
        for name, text in self.foreign.items():
            path = self.run / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    def teardown(self) -> None:
        if hasattr(self, "home"):
            shutil.rmtree(self.home)

    def tell(self, keys: tuple[int, int], *, parts: bool = False, overwrite: bool = False) -> None:
        """A run; what it returns is right, whatever lay there."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DamageWarning)
            with open_run(self.run, self.recipe, overwrite=overwrite) as run:
                for name, key in zip(STAGES, keys, strict=True):
                    folder = run.stage(name, key, filled(run, f"{name} {key}", parts=parts))
                    assert (folder / "text").read_text() == f"{name} {key}"
                run.write("plan.json", str(keys))
                run.settle()

    @rule(keys=st.tuples(KEYS, KEYS), parts=st.booleans())
    def run_stages(self, keys: tuple[int, int], parts: bool) -> None:
        with disks.on(disks.Counting()):
            self.tell(keys, parts=parts)
        assert (self.run / "plan.json").read_text() == str(keys)

    @rule(keys=st.tuples(KEYS, KEYS), parts=st.booleans(), n=st.integers(1, 90))
    def stop(self, keys: tuple[int, int], parts: bool, n: int) -> None:
        try:
            with disks.on(disks.Stopping(n)):
                self.tell(keys, parts=parts)
        except disks.Stopped:
            pass

    @rule(keys=st.tuples(KEYS, KEYS), n=st.integers(1, 90))
    def lose_power(self, keys: tuple[int, int], n: int) -> None:
        disk = disks.Forgetful(n)
        written = {path: path.stat().st_ino for path in self.run.rglob("*") if path.is_file()}
        try:
            with disks.on(disk):
                disk.know(written.values())
                self.tell(keys)
        except disks.Stopped:
            disk.lose_power(self.run)

    @rule(keys=st.tuples(KEYS, KEYS), n=st.integers(1, 90))
    def fail(self, keys: tuple[int, int], n: int) -> None:
        try:
            with disks.on(disks.Full(n)):
                self.tell(keys)
        except MpoError as error:
            told = error.message
            assert "No space left" in told

    @rule(keys=st.tuples(KEYS, KEYS), n=st.integers(1, 150))
    def overwrite(self, keys: tuple[int, int], n: int) -> None:
        """Replaced by a run of another recipe, or stopped on the way; then, of the old or the new
        one, whichever is there goes on."""
        before, self.recipe = self.recipe, f"a = {len(self.recipe)}{keys[0]}\n"
        try:
            with disks.on(disks.Stopping(n)):
                self.tell(keys, overwrite=True)
        except disks.Stopped:
            decided = (self.run / ".new" / ".ready").is_file()
            there = (self.run / "recipe.toml").read_text() if not decided else self.recipe
            assert there in (before, self.recipe)
            self.recipe = there

    @rule(
        which=st.sampled_from(("stages/one/text", "stages/two/text", "stages/one/stage.json")),
        damage=st.sampled_from(checks.DAMAGES),
    )
    def damage(self, which: str, damage: Callable[[Path], None]) -> None:
        path = self.run / which
        if path.is_file() and path.stat().st_size:
            damage(path)

    @rule()
    def open_twice(self) -> None:
        refused = pytest.raises(MpoError, match="Another mpo works")
        with disks.on(disks.Counting()), open_run(self.run, self.recipe), refused:
            open_run(self.run, self.recipe)

    @invariant()
    def what_is_finished_is_whole(self) -> None:
        if not hasattr(self, "run"):
            return
        for name in STAGES:
            manifest = read_manifest(self.run / "stages" / name)
            if manifest is not None:
                text = (self.run / "stages" / name / "text").read_text()
                assert text in {f"{name} {key}" for key in range(3)}

    @invariant()
    def what_is_foreign_is_untouched(self) -> None:
        if hasattr(self, "run"):
            for name, text in self.foreign.items():
                assert (self.run / name).read_text() == text


def filled(run: RunFolder, text: str, *, parts: bool) -> Callable[[Path], None]:
    """What makes a stage, in two parts or at once."""

    def write(folder: Path) -> None:
        (folder / "text").write_text(text)

    def make(folder: Path) -> None:
        if parts:
            kept = [run.part(f"part-{n}", text, write) for n in range(2)]
            assert all((part / "text").read_text() == text for part in kept)
        write(folder)

    return make


TestRuns = Runs.TestCase
TestRuns.settings = settings(
    max_examples=30,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    database=None,
    derandomize=True,
)
