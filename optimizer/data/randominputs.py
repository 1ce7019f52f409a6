"""Random inputs in the place of data: seeded, of the shapes that the user names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from mpo.errors import UsageError
from mpo.optimizer.data.splits import Data

RANDOM_BATCH, RANDOM_BATCHES = 8, 16
INTEGERS = 10  # how many different ones random inputs hold
_INPUT = re.compile(
    r"(?:(?P<name>\w+)=)?(?P<shape>\d+(?:x\d+)*)(?::(?P<dtype>float|int)(?P<top>\d*))?"
)


def random_data(inputs: Sequence[str]) -> Data:
    """Seeded random batches of these shapes: normal floats, or integers below 10.

    `NAME=SHAPE:int2` draws integers below 2. Few, because an embedding may have few rows.

    Raises:
        UsageError: a text that is no shape.
    """
    shapes = []
    for text in inputs:
        match = _INPUT.fullmatch(text)
        if not match:
            raise UsageError(
                f"{text!r} is no input shape.", hint="Write 1x3x224x224, or input_ids=1x16:int."
            )
        shape = [int(axis) for axis in match["shape"].split("x")]
        top = int(match["top"] or INTEGERS) if match["dtype"] == "int" else 0
        shapes.append((match["name"], shape, top))

    def split(seed: int) -> list[Any]:
        generator = torch.Generator().manual_seed(seed)
        return [_random_inputs(shapes, generator) for _ in range(RANDOM_BATCHES)]

    return Data(train=split(0), validation=split(1), test=split(2))


def _random_inputs(shapes: list[tuple[Any, list[int], int]], generator: torch.Generator) -> Any:
    made: dict[Any, Any] = {}
    for position, (name, shape, top) in enumerate(shapes):
        size = [max(shape[0], RANDOM_BATCH), *shape[1:]]
        if top:
            value = torch.randint(0, top, size, generator=generator)
        else:
            value = torch.randn(size, generator=generator)
        made[name or position] = value
    if any(isinstance(key, str) for key in made):
        return made
    # a 1-tuple, because a pair would read as (inputs, targets)
    return (tuple(made.values()), None)
