"""Where figures are taken: each target with the options that latency and memory hold for there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mpo.profiles.device import describe, environment, fingerprint
from mpo.profiles.jobs import Target
from mpo.profiles.sessions import THRESHOLD, described
from mpo.recipe import Recipe
from mpo.records import Device, Environment, SessionOptions


@dataclass(frozen=True)
class Place:
    """A target of a run.

    Attributes:
        target: what answers.
        device: what it is.
        session: how models are run there.
        batch: examples in one inference.
    """

    target: Target
    device: Device
    session: SessionOptions
    batch: int

    @property
    def name(self) -> str:
        """The target's name."""
        return self.target.name

    @property
    def fingerprint(self) -> str:
        """Of the device: another one's figures are refused."""
        return fingerprint(self.device)

    @property
    def environment(self) -> Environment:
        """The device, its runtimes and the options, for the record."""
        return environment(self.device, self.session, self.batch, described(self.session))

    def running(self, session: SessionOptions) -> Place:
        """The same place with other options."""
        return replace(self, session=session)


def places_of(recipe: Recipe, targets: Sequence[Target]) -> tuple[Place, ...]:
    """A recipe's targets with their devices described, and the runtime's default options; freed
    memory goes back at once, which costs no time and without which the peaks of two processes of
    one model were seen 15 % apart (docs/memory.md).

    Raises:
        UsageError: a target that cannot answer until the user does something.
        MpoError: a target whose answer is no description.
    """
    return tuple(_place(recipe, target) for target in targets)


def _place(recipe: Recipe, target: Target) -> Place:
    device = describe(target)
    threads = recipe.threads or device.cpu.physical_cores or 1
    session = SessionOptions(device=target.device, threads=threads, mmap_threshold_bytes=THRESHOLD)
    return Place(target, device, session, recipe.batch)
