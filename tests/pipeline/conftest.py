"""What tests of whole runs and of the bench share."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from mpo.pipeline.run.effort import EFFORTS, Measuring
from mpo.profiles import device, modeljobs
from mpo.profiles.jobs import Job
from mpo.profiles.local import LocalTarget
from mpo.profiles.turns import Effort
from tests.pipeline import benchmodels

# As few calls as a figure can be made of: these tests ask what a run does with its figures, and
# the networks are so small that what a process takes to start is most of the time anyhow.
BRIEF = Measuring(
    solo=0.02,
    pair=0.2,
    session=0.02,
    table=Effort(seconds=0.05, rounds=20, most=3, solo_seconds=0.02),
)


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """Tiny ONNX files, and targets that answer from a script."""
    return benchmodels


@pytest.fixture(scope="package", autouse=True)
def _brief() -> Iterator[None]:
    """`--effort quick` is shorter still, in the process of the tests; so are the warm-up before a
    figure and the look at other work, and this machine is described once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EFFORTS, "quick", BRIEF)
        patch.setattr(modeljobs, "WARM_UP_S", (0.02, modeljobs.WARM_UP_S[1]))
        patch.setattr(device, "WATCH_S", 0.05)
        ask, told = LocalTarget.run, dict[str, Any]()

        def run(self: LocalTarget, job: Job) -> dict[str, Any]:
            if job.script != device.PROBE:
                return ask(self, job)
            if self.name not in told:
                told[self.name] = ask(self, job)
            return dict(told[self.name])

        patch.setattr(LocalTarget, "run", run)
        yield
