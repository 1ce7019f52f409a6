"""The fuzzed parsers on the kept corpus and on small changes of it: the part that CI runs."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.targets import TARGETS, Finding, corpus, require

CHANGES = 150


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_of_a_target_finds_nothing(target: str) -> None:
    inputs = list(corpus(target))
    assert inputs, "a target needs seeds"
    for data in inputs:
        TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
def test_small_changes_of_the_corpus_find_nothing(target: str) -> None:
    draw = random.Random(0)
    inputs = [data for data in corpus(target) if len(data) < 4096]
    for _ in range(CHANGES):
        TARGETS[target](changed(draw.choice(inputs), draw))


def changed(data: bytes, draw: random.Random) -> bytes:
    """A flipped bit, a cut, a doubled piece or another byte, up to three times."""
    raw = bytearray(data)
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(len(raw) + 1)
        match draw.randrange(4):
            case 0 if place < len(raw):
                raw[place] ^= 1 << draw.randrange(8)
            case 1:
                del raw[place : place + draw.randint(1, 8)]
            case 2:
                raw[place:place] = raw[place : place + draw.randint(1, 8)]
            case _:
                raw[place:place] = bytes([draw.randrange(256)])
    return bytes(raw)


def test_a_finding_is_an_error() -> None:
    with pytest.raises(Finding):
        require(False, "wrong")
