"""How long a run measures, by the recipe's `effort`."""

from __future__ import annotations

from dataclasses import dataclass, field

from mpo.profiles.turns import Effort


@dataclass(frozen=True)
class Measuring:
    """Seconds of sampling.

    Attributes:
        solo: in each process that runs a model alone.
        pair: in all processes together that run both models in turn.
        session: in each process that compares two sets of runtime options.
        table: of the cost table.
    """

    solo: float = 1.5
    pair: float = 12.0
    session: float = 0.5
    table: Effort = field(default_factory=Effort)


EFFORTS = {
    "normal": Measuring(),
    # Enough to see that a recipe works; intervals and margins are wide.
    "quick": Measuring(0.2, 1.2, 0.1, Effort(seconds=0.3, rounds=20, most=3, solo_seconds=0.2)),
}
