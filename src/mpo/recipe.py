"""What is wanted: the recipe of a run, from options or a TOML file, and the budgets' language.

A recipe's keys are the command's option names. Unknown keys are refused with the nearest known one.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from mpo.errors import UsageError
from mpo.records import Budget, Metric, Record
from mpo.replacing import RECIPE
from mpo.units import parse_duration, parse_quantity, parse_share

Method = Literal["mpruner", "mpruner-paper"]
WantedPrecision = Literal["fp32", "fp16", "int8", "int8-dynamic", "auto"]
KEYS: dict[str, tuple[Metric, str]] = {
    "memory": ("memory_bytes", "bytes"),
    "size": ("size_bytes", "bytes"),
    "latency": ("latency_p90_ms", "ms"),
    "latency.p90": ("latency_p90_ms", "ms"),
    "latency.p50": ("latency_p50_ms", "ms"),
    "params": ("params", "count"),
    "macs": ("macs", "count"),
}
RANGES = {
    "batch": (1, 10**6),
    "threads": (0, 10**4),
    "epochs": (0, 10**6),
    "candidates": (1, 100),
    "rounds": (1, 100),
    "accumulate": (1, 10**6),
    "calibration": (1, 10**9),
    "seed": (0, 2**63 - 1),
    "opset": (18, 22),
}
DECOMPOSED = "eps=5%,claims=overall+region+class"  # the contract of `mpo decompose`
EXAMPLES = {"bytes": "50MB", "ms": "12ms", "count": "500k"}


class Recipe(Record):
    """Everything that decides a run's result; the same recipe gives the same plan.

    `max_drop` is in points for a metric in [0, 1], else relative; `threshold` is the CKA that joins
    blocks into one cluster (None: placed relative to the permutation null); `epochs` bounds each
    recovery; `candidates` is how many diverse plans a short recovery compares; `finetune` False
    trains nothing: what is left is only made up for by arithmetic; `rounds` is in how many steps
    the plan's removal is done, each one recovered before the next; `accumulate` is how many
    batches make one update of training; `time_limit` ("30m") ends
    training and the search among candidates with the best model so far, so that with it the same
    recipe may give another result; `threads` 0 means the target's physical cores; `effort` "quick"
    measures for a fraction of the time, with wider intervals; `precision` is the result's, "auto"
    takes the least harmful one that holds the budgets. `harm` "boundary" weighs what a removal does
    by how near the decision boundary it does it, and `distil` "boundary" recovery likewise;
    `contract` holds the terms of a contract that a model must not break to be accepted
    ("eps=5%,mass=10%"); `classes` narrows the subject to some of its classes, all others counting
    as one; `export` names formats that the result is written in beside ONNX. Every budget must hold
    on every `target`; the figures of the first one lead the report.
    """

    subject: str
    budget: tuple[str, ...] = ()
    target: tuple[str, ...] = ("local",)
    method: Method = "mpruner"
    max_drop: str = "1%"
    threshold: float | None = None
    batch: int = 1
    threads: int = 0
    epochs: int = 10
    candidates: int = 2
    finetune: bool = True
    rounds: int = 1
    accumulate: int = 1
    time_limit: str | None = None
    calibration: int = 512
    seed: int = 0
    opset: int = 20
    effort: Literal["normal", "quick"] = "normal"
    precision: WantedPrecision = "fp32"
    harm: Literal["kl", "boundary", "gates"] = "kl"
    distil: Literal["plain", "boundary"] = "plain"
    contract: str | None = None
    classes: tuple[int, ...] = ()
    weights: str | None = None
    allow_pickle: bool = False
    data: str | None = None
    input: tuple[str, ...] = ()
    export: tuple[str, ...] = ()

    def budgets(self) -> tuple[Budget, ...]:
        """Every bound that must hold."""
        return tuple(budget for text in self.budget for budget in parse_budget(text))

    @property
    def passes(self) -> int:
        """Passes over the training data that recovery may make: `epochs`; none without fine-tuning,
        and none over random inputs, from which nothing can be learned."""
        return self.epochs if self.finetune and not self.input else 0

    def seconds_allowed(self) -> float | None:
        """`time_limit` in seconds; None when there is none."""
        return None if self.time_limit is None else parse_duration(self.time_limit)

    def allowed_drop(self) -> float:
        """`max_drop` as a share: 0.01 for "1%"."""
        return parse_share(self.max_drop)


def parse_budget(text: str) -> tuple[Budget, ...]:
    """Read one --budget: `50MB` bounds peak memory and size, `12ms` p90 latency, `50%` size,
    `KEY=VALUE` one key.

    Raises:
        UsageError: an unknown key or unit, a number without its unit, or a unit that does not fit
            the key.
    """
    if "=" not in text:
        return _bare_budget(text)
    key, value = (part.strip() for part in text.split("=", 1))
    if key not in KEYS:
        raise UsageError(
            f"Budget {text!r} has the unknown key {key!r}.{nearest(key, KEYS)}",
            hint=f"Known keys: {', '.join(KEYS)}.",
        )
    metric, dimension = KEYS[key]
    quantity = parse_quantity(value)
    if quantity.dimension == "factor":
        return (Budget(text=text, metric=metric, factor=quantity.value),)
    if quantity.dimension != dimension:
        raise UsageError(
            f"Budget {text!r} gives {_described(quantity.dimension)} for {key}.",
            hint=f"Write {key}={EXAMPLES[dimension]} or {key}=50%.",
        )
    return (Budget(text=text, metric=metric, limit=quantity.value),)


def _bare_budget(text: str) -> tuple[Budget, ...]:
    quantity = parse_quantity(text)
    if quantity.dimension == "bytes":
        return (
            Budget(text=text, metric="memory_bytes", limit=quantity.value),
            Budget(text=text, metric="size_bytes", limit=quantity.value),
        )
    if quantity.dimension == "ms":
        return (Budget(text=text, metric="latency_p90_ms", limit=quantity.value),)
    if quantity.dimension == "factor":
        return (Budget(text=text, metric="size_bytes", factor=quantity.value),)
    raise UsageError(
        f"Budget {text!r} has no unit.",
        hint="Write 50MB, 12ms, 50%, or params=500k.",
    )


def _described(dimension: str) -> str:
    return {"bytes": "a size", "ms": "a time", "count": "a number without unit"}[dimension]


def nearest(word: str, known: Any) -> str:
    """ " Did you mean ...?" with the nearest known word, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def read_recipe(path: Path) -> dict[str, Any]:
    """The keys of a recipe file.

    Raises:
        UsageError: no such file, no TOML, or an unknown key.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"Cannot read {path}: {error.strerror}.", hint="Check the path."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML: {error}.", hint="Mend the line it names.") from error
    values = {key.replace("-", "_"): value for key, value in content.items()}
    for key in values:
        if key not in Recipe.model_fields:
            raise UsageError(
                f"{path} has the unknown key {key!r}.{nearest(key, Recipe.model_fields)}",
                hint=f"Known keys: {', '.join(Recipe.model_fields)}.",
            )
    return values


def recipe_of_run(run: Path) -> Recipe:
    """The recipe that a run was made by.

    Raises:
        UsageError: no recipe there, or one with unknown keys.
    """
    return make_recipe(**read_recipe(run / RECIPE))


def make_recipe(**values: Any) -> Recipe:
    """A checked recipe.

    Raises:
        UsageError: a value of a wrong type or out of range, with its key.
    """
    try:
        recipe = Recipe(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        raise UsageError(
            f"{key}: {first['msg']} (got {first['input']!r}).{nearest(key, Recipe.model_fields)}",
            hint=f"Keys of a recipe: {', '.join(Recipe.model_fields)}.",
        ) from error
    for key, (least, most) in RANGES.items():
        value = getattr(recipe, key)
        if not least <= value <= most:
            raise UsageError(f"{key} is {value}.", hint=f"Give a number from {least} to {most}.")
    if recipe.threshold is not None and not 0 < recipe.threshold <= 1:
        raise UsageError(f"threshold is {recipe.threshold}.", hint="Give a CKA in (0, 1].")
    if recipe.method == "mpruner-paper" and recipe.precision == "auto":
        raise UsageError(
            "mpruner-paper plans no budgets, so it cannot choose a precision.",
            hint="Name one: --precision int8.",
        )
    own = recipe.rounds > 1 or not recipe.finetune or recipe.time_limit is not None
    if recipe.method == "mpruner-paper" and own:
        raise UsageError(
            "mpruner-paper retrains after each removal, by a schedule of its own.",
            hint="Leave out --rounds, --time-limit and --no-finetune, or take --method mpruner.",
        )
    recipe.budgets()
    recipe.allowed_drop()
    recipe.seconds_allowed()
    return recipe


def to_toml(recipe: Recipe) -> str:
    """The recipe as a TOML file that read_recipe reads back."""
    lines = []
    for key, value in recipe.model_dump(exclude_none=True).items():
        if isinstance(value, (tuple, list)):
            shown = (_quoted(item) if isinstance(item, str) else repr(item) for item in value)
            text = "[" + ", ".join(shown) + "]"
        elif isinstance(value, bool):
            text = str(value).lower()
        else:
            text = _quoted(value) if isinstance(value, str) else repr(value)
        lines.append(f"{key} = {text}\n")
    return "".join(lines)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'
