"""How the options were chosen that a model is run with."""

from __future__ import annotations

from mpo.records.base import Record
from mpo.records.devices import SessionOptions
from mpo.records.figures import Ratio


class SessionTrial(Record):
    """Options as tried on the original model.

    Attributes:
        session: the options.
        peak_memory_bytes, load_memory_bytes: above the empty runtime with the same options.
        latency: over that of the runtime's defaults, from processes of both in turn; None where the
            choice did not need it.
    """

    session: SessionOptions
    peak_memory_bytes: int
    load_memory_bytes: int
    latency: Ratio | None = None


class SessionChoice(Record):
    """The options that were chosen, and why.

    Attributes:
        session: what every figure is measured with.
        leanest: the options of the lowest peak, whatever they cost in latency; for a memory budget
            that holds in no other way.
        rule: the rule in one sentence; empty when there was nothing to choose.
        trials: what was measured, simplest options first; empty without a memory budget.
    """

    session: SessionOptions
    leanest: SessionOptions
    rule: str = ""
    trials: tuple[SessionTrial, ...] = ()
