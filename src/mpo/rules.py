"""What `mpo bench --fail-on` may ask: rules such as latency>3%, size>0, accuracy<-0.5pp.

latency>3%          new / old above 1.03 fails
latency.p90>12ms    more than 12 ms fails, whatever the baseline has
size>0              any growth fails
accuracy<-0.5pp     half a percentage point less than the baseline fails
accuracy<0.92       less than 0.92 fails
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from mpo.errors import UsageError
from mpo.recipe import nearest
from mpo.units import parse_quantity

Kind = Literal["relative", "absolute", "points"]
Source = Literal["paired", "solo", "exact", "quality"]


@dataclass(frozen=True)
class Measure:
    """What a metric is measured in ("ms", "bytes", "count", "share"), and where its figure comes
    from: both models in turn, each model in processes of its own, the file itself, or the data."""

    dimension: str
    source: Source


MEASURES = {
    "latency": Measure("ms", "paired"),
    "latency.p50": Measure("ms", "solo"),
    "latency.p90": Measure("ms", "solo"),
    "latency.load": Measure("ms", "solo"),
    "latency.first": Measure("ms", "solo"),
    "memory": Measure("bytes", "solo"),
    "memory.load": Measure("bytes", "solo"),
    "size": Measure("bytes", "exact"),
    "params": Measure("count", "exact"),
    "nodes": Measure("count", "exact"),
    "macs": Measure("count", "exact"),
    "engine.memory": Measure("bytes", "exact"),
    "accuracy": Measure("share", "quality"),
}
OTHER_NAMES = {
    "latency.p10": "latency",
    "memory.peak": "memory",
    "size.bytes": "size",
    "accuracy.top1": "accuracy",
    "quality": "accuracy",
}
EXAMPLES = {"ms": "12ms", "bytes": "50MB", "count": "500k"}
_RULE = re.compile(r"([a-z0-9_.]+)(>|<)([+-]?)(.+)", re.IGNORECASE)
_NUMBER = re.compile(r"\d+(?:\.\d*)?|\.\d+")


@dataclass(frozen=True)
class Rule:
    """One condition that fails a gate.

    Attributes:
        text: as it was given.
        metric: a key of MEASURES.
        kind: "relative" to the baseline, "absolute", or "points": candidate - baseline of a share.
        above: True when more than `value` fails, False when less.
        value: 0.03 for 3 %; milliseconds, bytes or a count; -0.005 for -0.5pp.
    """

    text: str
    metric: str
    kind: Kind
    above: bool
    value: float

    @property
    def source(self) -> Source:
        """Where the figure comes from."""
        return MEASURES[self.metric].source

    @property
    def needs_baseline(self) -> bool:
        """Whether it compares with a baseline."""
        return self.kind != "absolute"

    @property
    def limit(self) -> float:
        """The bound: a ratio for a relative rule, else the value itself."""
        return 1 + self.value if self.kind == "relative" else self.value


def parse_rules(text: str) -> tuple[Rule, ...]:
    """All rules of a --fail-on text; commas, semicolons or line ends part them.

    Raises:
        UsageError: no rule, an unknown metric, a number without its unit, or a rule that no model,
            or every model, would pass.
    """
    parts = [part.strip() for part in re.split(r"[,;\n]", text) if part.strip()]
    if not parts:
        raise UsageError("--fail-on names no rule.", hint="Write it like latency>3%,size>0.")
    return tuple(map(_rule, parts))


def _rule(text: str) -> Rule:
    match = _RULE.fullmatch(re.sub(r"\s+", "", text))
    if not match:
        raise UsageError(
            f"{text!r} is no rule.",
            hint="Write METRIC>LIMIT or METRIC<LIMIT: latency>3%, size>0, accuracy<-0.5pp.",
        )
    given, side, sign, amount = match.groups()
    metric = OTHER_NAMES.get(given.lower(), given.lower())
    if metric not in MEASURES:
        known = [*MEASURES, *OTHER_NAMES]
        raise UsageError(
            f"{text!r} has the unknown metric {given!r}.{nearest(given.lower(), known)}",
            hint=f"Known metrics: {', '.join(MEASURES)}.",
        )
    above, factor = side == ">", -1.0 if sign == "-" else 1.0
    if MEASURES[metric].dimension == "share":
        return _quality_rule(text, above, factor, amount)
    if not above:
        raise UsageError(
            f"{text!r} would fail a model for being better: less {metric} is better.",
            hint=f"Write {metric}>{sign}{amount}.",
        )
    if _NUMBER.fullmatch(amount) and float(amount) == 0:
        amount = "0%"
    return _bounded(text, given.lower(), metric, factor, amount)


def _bounded(text: str, given: str, metric: str, factor: float, amount: str) -> Rule:
    """A rule on a figure of which less is better."""
    measure = MEASURES[metric]
    if (share := _share(amount, "%")) is not None:
        if measure.source in ("paired", "solo") and share == 0:
            raise UsageError(
                f"{text!r} leaves no room: measured figures of one and the same model differ.",
                hint=f"Write {metric}>3%. Exact figures (size, params, nodes, macs) may have 0.",
            )
        if factor * share <= -1:
            raise UsageError(f"{text!r} asks for less than nothing.", hint=f"Write {metric}>-20%.")
        return Rule(text, metric, "relative", True, factor * share)
    quantity = parse_quantity(amount)
    if factor < 0 or quantity.dimension != measure.dimension:
        raise UsageError(
            f"{text!r} gives no limit for {metric}.",
            hint=f"Write {metric}>3%, or {metric}>{EXAMPLES[measure.dimension]}.",
        )
    if given == "latency.p10":
        raise UsageError(
            f"{text!r}: p10 is measured with both models in turn and holds for their ratio only.",
            hint=f"Write latency.p10>3%, or latency.p90>{amount}.",
        )
    # A bare time means p90, as in budgets.
    return Rule(
        text, "latency.p90" if metric == "latency" else metric, "absolute", True, quantity.value
    )


def _quality_rule(text: str, above: bool, factor: float, amount: str) -> Rule:
    """A rule on the task's metric; which side is worse is known only when it is measured."""
    kinds: tuple[tuple[str, Kind], ...] = (("pp", "points"), ("%", "relative"))
    for unit, kind in kinds:
        if (share := _share(amount, unit)) is not None:
            if share and above != (factor > 0):
                raise UsageError(
                    f"{text!r} would fail a model that is as good as the baseline.",
                    hint="Write accuracy<-0.5pp, or for a metric of which less is better "
                    "accuracy>0.5pp.",
                )
            return Rule(text, "accuracy", kind, above, factor * share)
    if not _NUMBER.fullmatch(amount):
        raise UsageError(
            f"{text!r} gives no limit for accuracy.",
            hint="Write accuracy<-0.5pp, accuracy<-1% or accuracy<0.92.",
        )
    return Rule(text, "accuracy", "absolute", above, factor * float(amount))


def _share(amount: str, unit: str) -> float | None:
    """0.03 for "3%"; None when the text has another unit."""
    number = amount.removesuffix(unit)
    if number == amount or not _NUMBER.fullmatch(number):
        return None
    value = float(number) / 100
    return value if math.isfinite(value) else None
